"""The problems of the quick start: arithmetic from left to right, every result modulo 10.

    python -m recipes.quickstart.data outputs/quickstart/data

writes train.parquet and validation.parquet as verl reads them. `3+4*2-9=` asks for ((3+4)*2-9) mod 10, and the
answer is worked out one step at a time: `3+4=7 7*2=4 4-9=5 \\boxed{5}`. Simplified: no precedence, no carrying,
one-digit numbers only, so that a model of half a million parameters can learn it within a minute.

Which side a problem is on is decided by a hash of its text: no validation problem is ever trained on, neither by
the demonstrations that the policy is built from nor by the reinforcement learning.
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
        operations = rng.randint(3, 6)
        problem = str(rng.randint(0, 9)) + "".join(
            rng.choice("+-*") + str(rng.randint(0, 9)) for _ in range(operations)
        ) + "="
        if is_validation(problem) == validation:
            return problem


def work_out(problem, rng=None, mistakes=0.0):
    """The worked solution. A share `mistakes` of its steps is wrong, and what follows builds on the wrong result."""
    result, steps = int(problem[0]), []
    for operator, digit in zip(problem[1::2], problem[2::2]):
        outcome = OPERATORS[operator](result, int(digit)) % 10
        if mistakes and rng.random() < mistakes:
            outcome = (outcome + rng.randint(1, 9)) % 10
        steps.append(f"{result}{operator}{digit}={outcome}")
        result = outcome
    return " ".join(steps) + f" \\boxed{{{result}}}"


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
    rows(4096, rng).to_parquet(folder / "train.parquet")
    rows(128, rng, validation=True).to_parquet(folder / "validation.parquet")
