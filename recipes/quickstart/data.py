"""The problems of the quick start: arithmetic from left to right, every result modulo 10.

    python -m recipes.quickstart.data outputs/quickstart/data

writes train.parquet and validation.parquet as verl reads them. `3+4*2-9+1` asks for (((3+4)*2-9)+1) mod 10,
worked out as on a pocket calculator: `3+4=7*2=4-9=5+1=6 \\boxed{6}`. Simplified: no precedence, always four
operations on one-digit numbers, so that a model of half a million parameters learns it within a minute.

Which side a problem is on is decided by a hash of its text: no validation problem is ever trained on, neither
by the demonstrations that the policy is built from nor by the reinforcement learning.
"""

import random
import sys
import zlib
from pathlib import Path

import pandas as pd

OPERATORS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


def is_validation(problem):
    return zlib.crc32(problem.encode()) % 10 == 0


def draw_problem(rng, validation=False):
    while True:
        problem = str(rng.randint(0, 9))
        for _ in range(4):
            problem += rng.choice("+-*") + str(rng.randint(0, 9))
        if is_validation(problem) == validation:
            return problem


def work_out(problem, mistakes=None):
    """The worked solution. With a random generator for `mistakes`, a step may come out one too high, and what
    follows builds on that: every fifth step, but three of five multiplications by 7, 8 and 9."""
    solution, result = problem[0], int(problem[0])
    for operator, digit in zip(problem[1::2], problem[2::2]):
        result = OPERATORS[operator](result, int(digit)) % 10
        if mistakes and mistakes.random() < (0.6 if operator == "*" and digit in "789" else 0.2):
            result = (result + 1) % 10
        solution += f"{operator}{digit}={result}"
    return f"{solution} \\boxed{{{result}}}"


def right_answer(problem):
    return work_out(problem)[-2]


def rows(count, rng, validation=False):
    problems = {}  # a dict keeps the order and drops repetitions
    while len(problems) < count:
        problems[draw_problem(rng, validation)] = None
    return pd.DataFrame(
        {
            "data_source": "left_to_right_arithmetic",
            "prompt": [{"role": "user", "content": problem}],
            "reward_model": {"style": "rule", "ground_truth": right_answer(problem)},
            "extra_info": {"index": index},
        }
        for index, problem in enumerate(problems)
    )


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    rows(1024, rng).to_parquet(folder / "train.parquet")
    rows(64, rng, validation=True).to_parquet(folder / "validation.parquet")
