"""The method on one page, against the plugin and verl: written apart from each other, they weigh alike."""

import ast
import random
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import ranks
import tiny
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from grail_verl import AnswerLocator, GrailConfig, answer_saliency, token_weights
from recipes.plain import grail
from recipes.quickstart.data import draw_problem, work_out
from recipes.quickstart.policy import build_tokenizer, demonstrations, save_whole, train_policy

PROBLEM = "3+4*2-9+1"
BY_HAND = [
    rf"{work_out(PROBLEM)}<|im_end|>",
    r"3+4=8*2=6-9=7+1=8 \boxed{8}<|im_end|>",
    r"3+4=7*2=4-9=5+1=6 6 6<|im_end|>",
    r"3+4=7*2=4-9=5+1=6 \boxed{6",
    r"3+4=7 \boxed{7}*2=4 \boxed{4}-9<|im_end|>",
    r"3+4=7 \boxed{7}*2=4 \boxed{4",
    r"3+4 \boxed{2\boxed{7}}*2=4<|im_end|>",
    r"3+4=7 \boxed{7\boxed{8}",
    r"3+4<|pad|>=7 \boxed<|pad|> { 1<|user|>2 }=12 12 12",
    r"3 \boxed{}<|im_end|>",
    r"\boxed{5}",
    r"<|im_end|>",
]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """One that has seen enough to write boxes, and little enough to forget some."""
    folder, tokenizer, rng = tmp_path_factory.mktemp("plain") / "policy", build_tokenizer(), random.Random(0)
    batches = (demonstrations(tokenizer, rng) for _ in range(150))
    save_whole(folder, train_policy(tokenizer, batches, 150, hidden_size=32, layers=2), tokenizer)
    return str(folder)


@pytest.fixture(scope="module")
def tokenizer(policy):
    return AutoTokenizer.from_pretrained(policy)


@pytest.fixture(scope="module")
def model(policy):
    return AutoModelForCausalLM.from_pretrained(policy)


@pytest.fixture(scope="module")
def batch(model, tokenizer):
    """ids_BL, mask_BT, advantages_B: what the page samples, then what is written by hand, for every sign."""
    torch.manual_seed(0)
    rng = random.Random(0)
    sampled_BL, sampled_BT, *_ = grail.roll_out(model, tokenizer, [draw_problem(rng) for _ in range(60)])
    responses = [tokenizer.encode(text) for text in BY_HAND for _ in range(3)]
    prompt = tokenizer.encode(f"<|user|>{PROBLEM}<|assistant|>")
    mask_BT = torch.zeros(len(responses), sampled_BT.shape[1], dtype=torch.bool)
    ids_BL = torch.full((len(responses), sampled_BL.shape[1]), tokenizer.pad_token_id)
    ids_BL[:, : len(prompt)] = torch.tensor(prompt)
    for row, response in enumerate(responses):
        mask_BT[row, : len(response)] = True
        ids_BL[row, len(prompt) : len(prompt) + len(response)] = torch.tensor(response)
    ids_BL, mask_BT = torch.cat([sampled_BL, ids_BL]), torch.cat([sampled_BT, mask_BT])
    return ids_BL, mask_BT, torch.tensor([-1.0, 1.0, 0.0]).repeat(len(ids_BL) // 3)


@pytest.fixture(scope="module")
def page(model, tokenizer, batch):
    """answer_BT, content_BT, weights_BT"""
    ids_BL, mask_BT, advantages_B = batch
    _, answer_BT, content_BT = grail.find_answers(tokenizer, ids_BL[:, -mask_BT.shape[1] :])
    scores_BT = grail.saliency(model, ids_BL, answer_BT)
    return answer_BT, content_BT, grail.weights(scores_BT, mask_BT, answer_BT, content_BT, advantages_B)


def test_sampled_responses_are_of_all_kinds(tokenizer, batch, page):
    ids_BL, mask_BT, _ = (tensor[:60] for tensor in batch)
    answered_B = page[0][:60].any(dim=-1)
    ended_B = (ids_BL[:, -mask_BT.shape[1] :] == tokenizer.eos_token_id).any(dim=-1)
    for kind_B in (answered_B, ~answered_B, ended_B, ~ended_B):
        assert kind_B.any()
    assert page[2][::3].unique().numel() > 200  # wrong ones' weights


def test_what_stands_in_the_last_box(tokenizer):
    responses = [torch.tensor(tokenizer.encode(text)) for text in BY_HAND]
    padded_BT = torch.nn.utils.rnn.pad_sequence(responses, batch_first=True, padding_value=tokenizer.pad_token_id)
    answers, *_ = grail.find_answers(tokenizer, padded_BT)
    assert answers == ["6", "8", None, None, "4", "7", "7", "8", " 12 ", "", "5", None]


def test_weights_are_those_of_the_plugin(model, tokenizer, batch, page):
    ids_BL, mask_BT, advantages_B = batch
    length = mask_BT.shape[1]
    masks = torch.zeros(2, *mask_BT.shape, dtype=torch.bool)
    locator = AnswerLocator(tokenizer)
    for row, response in enumerate(ids_BL[:, -length:].tolist()):
        if span := locator.locate(response):
            masks[0, row, span.start : span.end] = True
            masks[1, row, span.content_start : span.content_end] = True
    assert torch.equal(masks[0], page[0]) and torch.equal(masks[1], page[1])
    attention_BL = torch.cat([torch.ones(len(ids_BL), ids_BL.shape[1] - length), mask_BT], dim=-1).long()
    scores_BT = answer_saliency(model, ids_BL, attention_BL, length, masks[0])
    weights_BT = token_weights(scores_BT, mask_BT, *masks, advantages_B, GrailConfig())
    torch.testing.assert_close(page[2], weights_BT, rtol=1e-5, atol=1e-5)


def in_verl(rank, policy, responses, advantages, prompts, old_log_probs):
    """Advantages out of the hook, and what verl's update makes of them."""
    actor = ranks.actor(policy, "algorithm.adv_estimator=grail")
    data = tiny.rollout_batch(responses, advantages, prompts=prompts)
    data["old_log_probs"] = torch.nested.as_nested_tensor(list(map(torch.tensor, old_log_probs)), layout=torch.jagged)
    update = data.clone()
    actor.reweight_advantages(data)
    metrics = actor.train_mini_batch(update)["metrics"]
    return [row.tolist() for row in data["advantages"].unbind()], metrics


def test_weights_and_gradient_are_those_in_verls_actor(policy, model, batch, page):
    ids_BL, mask_BT, advantages_B = batch
    length, weighted_BT = mask_BT.shape[1], page[2] * advantages_B[:, None]

    def rows(tensor_BT):
        return [row[valid].tolist() for row, valid in zip(tensor_BT, mask_BT)]

    model.zero_grad()
    log_probs_BT = grail.log_probs(model, model.get_input_embeddings()(ids_BL), ids_BL[:, -length:])
    grail.policy_loss(model, ids_BL, mask_BT, weighted_BT).backward()
    gradient_norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in model.parameters()]).item()
    arguments = rows(ids_BL[:, -length:]), advantages_B.tolist(), ids_BL[:, :-length].tolist(), rows(log_probs_BT)
    advantages, metrics = ranks.on_ranks(in_verl, 1, policy, *arguments)[0]
    for got, expected in zip(advantages, rows(weighted_BT), strict=True):
        assert got == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert metrics["grad_norm"] == pytest.approx([gradient_norm], rel=1e-4)


def test_advantages_are_verls():
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    rewards_B = torch.tensor([1.0] + 7 * [0.0] + 8 * [1.0] + [0.0, 1.0] * 4)
    groups = np.repeat(np.arange(3), grail.SAMPLES)
    verls_B1, _ = compute_grpo_outcome_advantage(rewards_B[:, None], torch.ones(24, 1), groups)
    torch.testing.assert_close(grail.group_advantages(rewards_B), verls_B1[:, 0])


@pytest.mark.parametrize("method", ["grpo", "grail"])
def test_trains_and_says_what_it_learned(method, policy, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["grail", "--method", method, "--policy", policy, "--steps", "5"])
    runpy.run_path(grail.__file__, run_name="__main__")
    out = capsys.readouterr().out
    assert re.search(r"^step  5: mean reward of five steps 0\.\d\d$", out, re.M)
    assert re.search(rf"^{method}: right on problems never trained on: \d+% before, \d+% after$", out, re.M)
    shown = set(re.findall(r"(\d\.\d\d) █", out))
    assert shown == {"1.00"} if method == "grpo" else {"1.00", "5.00"} < shown


def test_a_page_of_its_own():
    source = Path(grail.__file__).read_text()
    assert len(source.splitlines()) <= 150
    imported = {
        name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
        if name.split(".")[0] not in sys.stdlib_module_names
    }
    assert imported == {"torch", "transformers", "recipes.quickstart.data"}
