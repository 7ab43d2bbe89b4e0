r"""GRPO and GRAIL, whole and on one page: plain torch and transformers, no verl and nothing of the plugin's.

    bash recipes/plain/run.sh                  # --method grpo is GRPO

To be read from top to bottom; the method is arXiv 2606.04889. A small model answers arithmetic problems. It is built
in one to three minutes where it is not there (recipes/quickstart), and trained in half a minute. Of 8 responses to a
problem, those better than the others become more likely, the worse ones less: GRPO gives all tokens of a response that
same credit. GRAIL asks which tokens a wrong response's own answer hangs on, by the gradient of the answer's
log-likelihood, and lets these take more of the blame.

Simplified: one update a batch, so the clip never acts; a temperature of 1; all problems have the same number of
tokens, so no prompt is padded; no braces inside a box; and GRAIL's pass is made for all responses, though the update
needs it for wrong ones alone. tests/recipes/test_plain.py holds the plugin's weights against those of this page.

Shapes: B responses (G groups of N), P prompt and T response tokens, L = P + T, D hidden size, V vocabulary.
"""

import argparse
import random
import re
import subprocess
import sys
from os.path import commonprefix

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from recipes.quickstart.data import draw_problem, right_answer, work_out

PROBLEMS, SAMPLES, HELD_OUT, RESPONSE_LENGTH = 8, 8, 128, 32


def roll_out(model, tokenizer, problems, do_sample=True):
    """A response to each problem: its tokens, which of them count (up to the end-of-sequence token, which is the
    policy's too), which are its answer and the answer's content, and its reward."""
    prompts_BP = tokenizer([f"<|user|>{p}<|assistant|>" for p in problems], return_tensors="pt").input_ids
    ids_BL = model.generate(prompts_BP, do_sample=do_sample, max_new_tokens=RESPONSE_LENGTH)
    responses_BT = ids_BL[:, prompts_BP.shape[1] :]
    end_BT = (responses_BT == tokenizer.eos_token_id).long()
    mask_BT = end_BT.cumsum(dim=-1) - end_BT == 0  # no end before it
    answers, answer_BT, content_BT = find_answers(tokenizer, responses_BT)
    rewards_B = torch.tensor([float(answer == right_answer(p)) for answer, p in zip(answers, problems)])
    return ids_BL, mask_BT, answer_BT, content_BT, rewards_B


def find_answers(tokenizer, responses_BT):
    """What stands in each response's last complete `\\boxed{…}`, None without one; the tokens of the box, and those
    inside its braces."""
    answers, answer_BT = [None] * len(responses_BT), torch.zeros_like(responses_BT, dtype=torch.bool)
    content_BT = answer_BT.clone()
    for row, response in enumerate(responses_BT.tolist()):
        # Token by token, as they were sampled: a text that is encoded again may come out as other tokens.
        pieces = [tokenizer.decode(token, skip_special_tokens=True) for token in response]
        lengths_T = torch.tensor([len(piece) for piece in pieces])
        begin_T, end_T = lengths_T.cumsum(dim=0) - lengths_T, lengths_T.cumsum(dim=0)
        for box in re.finditer(r"\\boxed\s*\{([^{}]*)\}", "".join(pieces)):  # the last one stays
            answers[row] = box[1]
            answer_BT[row] = (end_T > box.start()) & (begin_T < box.end())  # a part is enough: ` \` is one token
            content_BT[row] = (begin_T >= box.start(1)) & (end_T <= box.end(1))
    return answers, answer_BT, content_BT


def group_advantages(rewards_B):
    """GRPO: how much better than the other responses to the same problem."""
    rewards_GN = rewards_B.view(-1, SAMPLES)
    centred_GN = rewards_GN - rewards_GN.mean(dim=-1, keepdim=True)
    return (centred_GN / (rewards_GN.std(dim=-1, keepdim=True) + 1e-6)).flatten()


def log_probs(model, embeddings_BLD, responses_BT):
    """Of the response's tokens, each predicted by the position before it."""
    logits_BTV = model(inputs_embeds=embeddings_BLD).logits[:, -responses_BT.shape[1] - 1 : -1]
    return logits_BTV.log_softmax(dim=-1).gather(-1, responses_BT[..., None]).squeeze(-1)


def saliency(model, ids_BL, answer_BT):
    """GRAIL: how much the log-likelihood of a response's own answer, right or wrong, hangs on each token: the norm of
    gradient × embedding, at the position that predicts the token."""
    length = answer_BT.shape[1]
    embeddings_BLD = model.get_input_embeddings()(ids_BL).detach().requires_grad_()
    loss = -log_probs(model, embeddings_BLD, ids_BL[:, -length:])[answer_BT].sum()
    (gradient_BLD,) = torch.autograd.grad(loss, embeddings_BLD)  # parameters get none
    return (gradient_BLD * embeddings_BLD.detach()).norm(dim=-1)[:, -length - 1 : -1]


def weights(scores_BT, mask_BT, answer_BT, content_BT, advantages_B):
    """GRAIL: in wrong responses 1 ± 0.5 before the answer, by how a token's log-score stands to those of its response.
    In all responses the answer's content gets 5, the box around it and what follows 1."""
    logs_BT, share_BT = (scores_BT + 1e-8).log(), mask_BT / mask_BT.sum(dim=-1, keepdim=True)
    mean_B1 = (share_BT * logs_BT).sum(dim=-1, keepdim=True)
    variance_B1 = (share_BT * (logs_BT - mean_B1) ** 2).sum(dim=-1, keepdim=True)
    z_BT = (logs_BT - mean_B1) / (variance_B1 + 1e-8).sqrt()

    before_BT = answer_BT.any(dim=-1, keepdim=True) & (answer_BT.cumsum(dim=-1) == 0)
    weighed_BT = before_BT & (advantages_B <= 0)[:, None]
    weights_BT = torch.where(weighed_BT, (1 + 0.5 * z_BT).clamp(0.5, 5.0), 1.0)
    return weights_BT.masked_fill(content_BT, 5.0).masked_fill(~mask_BT, 0.0)


def policy_loss(model, ids_BL, mask_BT, advantages_BT):
    """PPO's clipped loss, the mean over all tokens."""
    embeddings_BLD = model.get_input_embeddings()(ids_BL)
    log_probs_BT = log_probs(model, embeddings_BLD, ids_BL[:, -mask_BT.shape[1] :])
    ratio_BT = (log_probs_BT - log_probs_BT.detach()).exp()  # to the policy that sampled: 1, but with a gradient
    loss_BT = -torch.minimum(ratio_BT * advantages_BT, ratio_BT.clamp(0.8, 1.2) * advantages_BT)
    return loss_BT[mask_BT].mean()


def main(method, policy, steps, seed):
    subprocess.run([sys.executable, "-m", "recipes.quickstart.policy", policy], check=True)
    tokenizer, model = AutoTokenizer.from_pretrained(policy), AutoModelForCausalLM.from_pretrained(policy)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # for matrices this small, more threads wait for one another
    rng, rewards = random.Random(seed), []
    held_out = [draw_problem(rng, validation=True) for _ in range(HELD_OUT)]
    *_, before_B = roll_out(model, tokenizer, held_out, do_sample=False)

    for step in range(1, steps + 1):
        problems = [problem for _ in range(PROBLEMS) for problem in [draw_problem(rng)] * SAMPLES]
        ids_BL, mask_BT, answer_BT, content_BT, rewards_B = roll_out(model, tokenizer, problems)
        advantages_B, weights_BT = group_advantages(rewards_B), mask_BT.float()
        if method == "grail":
            scores_BT = saliency(model, ids_BL, answer_BT)
            weights_BT = weights(scores_BT, mask_BT, answer_BT, content_BT, advantages_B)
        optimizer.zero_grad()
        policy_loss(model, ids_BL, mask_BT, weights_BT * advantages_B[:, None]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rewards.append(rewards_B.mean().item())
        if step % 5 == 0:
            print(f"step {step:2}: mean reward of five steps {sum(rewards[-5:]) / 5:.2f}")

    *_, after_B = roll_out(model, tokenizer, held_out, do_sample=False)
    print(f"{method}: right on problems never trained on: {before_B.mean():.0%} before, {after_B.mean():.0%} after")
    for row in ((advantages_B < 0) & answer_BT.any(dim=-1)).nonzero().flatten()[:1].tolist():
        pieces = [tokenizer.decode(token) for token in ids_BL[row, -mask_BT.shape[1] :][mask_BT[row]]]
        right = commonprefix(["".join(pieces), work_out(problems[row])])
        print(f"A wrong response to {problems[row]} in the last batch, right up to `{right}`, and its tokens' weights:")
        for piece, weight in zip(pieces, weights_BT[row].tolist()):
            print(f"{piece:>10} {weight:5.2f} {'█' * round(8 * weight)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="GRPO or GRAIL on the quick start's policy")
    parser.add_argument("--method", choices=["grpo", "grail"], default="grail")
    parser.add_argument("--policy", default="outputs/quickstart/policy", help="its folder, built where it is not there")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
