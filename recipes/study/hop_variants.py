"""On which policies hops hold, and whether a variant holds further: AUC by the number of hops.

    python -m recipes.study.hop_variants chains outputs/study/chains/policy recipes/study/results/hops/chains.json
    python -m recipes.study.hop_variants word_problems outputs/smollm2/policy recipes/study/results/hops/smollm2.json \\
        --responses 24 --variants hops log-odds content

Beside credit.py, whose responses and questions these are; word problems' solutions are given, not sampled. Tables are
figures_hops.py's. Scores are VARIANT/K, K = 0 the gradient of the answer alone; beside them surprise (−log p),
surprise × hops/K, position, random.
"""

import argparse
import json
import random
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from grail_verl.credit.config import HOPS
from recipes.study import word_problems
from recipes.study.hops import Variant, hop_scores
from recipes.study.response import Response, in_batch, mistake_sets, relevance_sets, row_of, sample, worked
from recipes.study.separation import compare
from recipes.study.tasks import FIRST

PLAIN = "hops"
VARIANTS = {
    PLAIN: Variant(),
    "hops±": Variant(signs=True),
    "log-odds": Variant(log_odds=True),
    "content": Variant(),  # starts at the answer's content
    "first": Variant(leaf="first"),
    "middle": Variant(leaf="middle"),
    "last": Variant(leaf="last"),
    "token by token": Variant(token_by_token=True),
}
ROWS = 8  # at a time
MOST = 4096  # responses drawn


def scores_of(
    model, responses: list[Response], variants: Sequence[str], rng: np.random.Generator
) -> tuple[list[str], list[np.ndarray]]:
    """Names of K scores, and (K, tokens before the answer) for each response."""
    found = []
    for start in range(0, len(responses), ROWS):
        part = responses[start : start + ROWS]
        of_variants = {}  # (hops + 1, B, S)
        for name in variants:
            inputs, targets = in_batch([row_of(response, whole=True, content=name == "content") for response in part])
            of_variants[name] = hop_scores(model, inputs, targets, HOPS, VARIANTS[name])
        for row, response in enumerate(part):
            first, end = len(response.prompt), response.answer.start
            ids = torch.tensor([response.prompt + response.tokens[:end]])
            with torch.no_grad():
                logprobs_TV = model(input_ids=ids, use_cache=False).logits[0, first - 1 : -1].log_softmax(dim=-1)
            scores = {
                f"{name}/{hops}": scores_BS[row, first : first + end].numpy()
                for name, scores_KBS in of_variants.items()
                for hops, scores_BS in enumerate(scores_KBS)
            }
            scores["surprise"] = -logprobs_TV.gather(1, ids[0, first:, None])[:, 0].numpy()
            scores |= {f"surprise × {PLAIN}/{k}": scores["surprise"] * scores[f"{PLAIN}/{k}"] for k in range(HOPS + 1)}
            scores |= {"position": np.arange(end), "random": rng.random(end)}
            found.append(np.stack([np.asarray(values, dtype=np.float64) for values in scores.values()]))
    return list(scores), found


def measure(model, responses: list[Response], variants: Sequence[str], seed: int) -> dict:
    """{question: what `separation.compare` says of each score}; the mistake's of wrong responses."""
    names, scores = scores_of(model, responses, variants, np.random.default_rng(seed))
    found = {}
    for question, sets_of in (("relevance", relevance_sets), ("mistake", mistake_sets)):
        rows = [row for row, response in enumerate(responses) if question == "relevance" or not response.correct]
        sets = [sets_of(responses[row]) for row in rows]
        found[question] = {
            name: compare(names, [scores[row] for row in rows], [of_row[name] for of_row in sets])
            for name in (sets[0] if sets else ())
        }
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=(*FIRST, "word_problems"))
    parser.add_argument("policy", type=Path, help="a Hugging Face folder")
    parser.add_argument("results", type=Path, help="the JSON file to write")
    parser.add_argument("--responses", type=int, default=96, help="half of them wrong, where they are sampled")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)

    began = time.monotonic()
    tokenizer = AutoTokenizer.from_pretrained(given.policy)
    model = AutoModelForCausalLM.from_pretrained(given.policy, dtype=torch.float32).eval()
    if given.task == "word_problems":
        rng = random.Random(given.seed)
        drawn = [word_problems.draw(rng, validation=True) for _ in range(given.responses)]
        responses = [worked(tokenizer, *of) for of in drawn]
    else:
        responses, _ = sample(model, tokenizer, given.task, given.responses // 2, MOST, given.seed)
    result = {
        "task": given.task,
        "policy": given.policy.as_posix(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "command": shlex.join(["python", "-m", "recipes.study.hop_variants", *arguments]),
        "responses": len(responses),
        "wrong": sum(not response.correct for response in responses),
        **measure(model, responses, given.variants, given.seed),
    }
    result["seconds"] = round(time.monotonic() - began)
    given.results.parent.mkdir(parents=True, exist_ok=True)
    given.results.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
