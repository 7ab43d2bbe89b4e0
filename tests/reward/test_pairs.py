"""Verdicts on pairs of ground truth and boxed answer, judged by hand: 20 kinds, as in DeepMath, MATH500, Minerva,
OlympiadBench and AIME. benchmarks/graders.py prints the same pairs beside other graders' verdicts."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("math_verify")

from grail_verl.reward import compute_score

PAIRS = [json.loads(line) for line in Path(__file__).with_name("pairs.jsonl").read_text().splitlines()]
KINDS = list(dict.fromkeys(pair["kind"] for pair in PAIRS))


def score(pair: dict) -> float:
    return compute_score("pairs", rf"\boxed{{{pair['answer']}}}", pair["ground_truth"])["score"]


@pytest.mark.parametrize("kind", KINDS)
def test_judged_as_by_hand(kind):
    pairs = [pair for pair in PAIRS if pair["kind"] == kind]
    with ThreadPoolExecutor(2) as threads:
        scores = list(threads.map(score, pairs))
    assert not [(p["ground_truth"], p["answer"], got) for p, got in zip(pairs, scores) if got != p["right"]]


def test_there_are_many_of_both():
    right = [pair["right"] for pair in PAIRS]
    assert len(PAIRS) > 1000 and min(right.count(0), right.count(1)) > 400
    assert len({(pair["ground_truth"], pair["answer"]) for pair in PAIRS}) == len(PAIRS)
