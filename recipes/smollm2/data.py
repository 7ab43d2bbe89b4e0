"""Sums from reasoning-gym, with three worked examples as earlier turns of the conversation:

    python -m recipes.smollm2.data outputs/smollm2/data

writes train.parquet and validation.parquet as verl reads them. No expression stands in both.
"""

import sys
from pathlib import Path

import pandas as pd
import reasoning_gym

EXAMPLES = {
    "4 + 3": "4 + 3 = 7, so the answer is \\boxed{7}.",
    "9 - 2": "9 - 2 = 7, so the answer is \\boxed{7}.",
    "2 - 6": "2 - 6 = -4, so the answer is \\boxed{-4}.",
}


def messages(expression):
    conversation = []
    for example, answer in EXAMPLES.items():
        conversation += [{"role": "user", "content": example}, {"role": "assistant", "content": answer}]
    return [*conversation, {"role": "user", "content": expression}]


def draw_sums(count, seed):
    """{expression: right answer}. Of `count` drawn sums, repetitions and the worked examples drop out."""
    sums = reasoning_gym.create_dataset(
        "chain_sum", size=count, seed=seed, min_terms=2, max_terms=2, min_digits=1, max_digits=1
    )
    drawn = {entry["metadata"]["expression"]: entry["answer"] for entry in sums}
    return {expression: answer for expression, answer in drawn.items() if expression not in EXAMPLES}


def rows(sums):
    return pd.DataFrame(
        {
            "data_source": "reasoning_gym_chain_sum",
            "prompt": messages(expression),
            "reward_model": {"style": "rule", "ground_truth": answer},
            "extra_info": {"index": index},
        }
        for index, (expression, answer) in enumerate(sums.items())
    )


def split():
    validation = dict(list(draw_sums(64, seed=1).items())[:16])
    training = draw_sums(256, seed=0)
    return {sum_: answer for sum_, answer in training.items() if sum_ not in validation}, validation


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    training, validation = split()
    rows(training).to_parquet(folder / "train.parquet")
    rows(validation).to_parquet(folder / "validation.parquet")
