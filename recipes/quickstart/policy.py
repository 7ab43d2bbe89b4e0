"""The policy of the quick start: a small Qwen3, built from scratch, that makes mistakes.

    python -m recipes.quickstart.policy outputs/quickstart/policy

It imitates worked solutions with planted mistakes (data.py), as a model does that has read much and checked
little. Sampled, it is right on every third problem; its most likely answer is right more often, but not where
mistakes are more frequent than right steps: reinforcement learning has something to find. Simplified: a fixed
number of steps, no evaluation. The result is an ordinary Hugging Face folder, there as a whole or not at all.
"""

import os
import random
import sys
import tempfile
from pathlib import Path

import torch
from rich.progress import track
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from recipes.quickstart.data import draw_problem, work_out

STEPS, BATCH = 200, 64
SPECIAL = ["<|pad|>", "<|im_end|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build_tokenizer():
    """Byte-level BPE as of large models, but with few letters and merges: ` \\boxed{` is ` \\`, `boxed`, `{`.

    <|im_end|> and the line break, which is never used, are what verl expects of a Qwen3.
    """
    space, newline, box = "\u0120", "\u010a", "boxed"  # as byte-level BPE writes them
    merges = [(space, "\\"), *((box[:end], box[end]) for end in range(1, len(box)))]
    letters = [space, newline, *"0123456789+-*={}\\", *box]
    pieces = SPECIAL + letters + [left + right for left, right in merges]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return with_chat(tokenizer)


def with_chat(tokenizer):
    """As transformers and verl take it."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        extra_special_tokens=SPECIAL[2:],
        chat_template=CHAT_TEMPLATE,
        model_max_length=256,
    )


def demonstrations(tokenizer, rng):
    """One batch. Every problem and every solution has the same number of tokens: nothing is padded."""
    problems = [draw_problem(rng) for _ in range(BATCH)]
    texts = [f"<|user|>{p}<|assistant|>{work_out(p, mistakes=rng)}<|im_end|>" for p in problems]
    inputs = tokenizer(texts, return_tensors="pt").input_ids
    labels = inputs.clone()
    labels[:, : 1 + len(problems[0]) + 1] = -100  # the problem is given, not imitated
    return inputs, None, labels


def train_policy(tokenizer, batches, steps, hidden_size=128, layers=3, heads=4, seed=0, device="cpu"):
    """A Qwen3 from random weights, trained on so many batches of token ids, attention mask and labels."""
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=2 * hidden_size,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            head_dim=hidden_size // heads,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    ).to(device)
    matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    others = [model.get_input_embeddings().weight, *(w for w in model.parameters() if w.ndim == 1)]
    optimizers = [  # Muon needs a third of the steps that AdamW alone does
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.0),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    learning_rate = lambda step: min((step + 1) / 20, 1 - step / steps)  # noqa: E731
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate) for optimizer in optimizers]
    for batch in track(batches, "Building the policy", total=steps):
        inputs, mask, labels = (tensor if tensor is None else tensor.to(device) for tensor in batch)
        model(input_ids=inputs, attention_mask=mask, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    return model.cpu()


def save_whole(folder, *parts):
    """Either everything is in the folder or the folder is not there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
        for part in parts:
            part.save_pretrained(f"{unfinished}/policy")
        os.rename(f"{unfinished}/policy", folder)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    if folder.exists():
        print(f"The policy is there already: {folder}")
    else:
        torch.set_num_threads(1)  # for matrices this small, more threads wait for one another
        tokenizer, rng = build_tokenizer(), random.Random(0)
        batches = (demonstrations(tokenizer, rng) for _ in range(STEPS))
        save_whole(folder, train_policy(tokenizer, batches, STEPS), tokenizer)
