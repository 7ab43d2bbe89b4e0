r"""DeepMath-103K, or a parquet file of that shape, as train and validation parquet in verl's format.

    python -m recipes.deepmath.data outputs/deepmath/data
    python -m recipes.deepmath.data outputs/deepmath/data --source my_problems.parquet

Rows need the columns `question` and `final_answer`. The last 500 become the validation set.
"""

import argparse
from pathlib import Path

from datasets import Dataset, load_dataset

SOURCE = "zwhe99/DeepMath-103K"
SUFFIX = r" Please reason step by step, and put your final answer within \boxed{}."
VALIDATION = 500


def load(source: str) -> Dataset:
    """The problems of a parquet file or of a data set on the hub.

    Raises:
        ValueError: columns are missing, or there are no more rows than validation takes.
    """
    if source.endswith(".parquet"):
        problems = load_dataset("parquet", data_files=source, split="train")
    else:
        problems = load_dataset(source, split="train")
    missing = {"question", "final_answer"} - set(problems.column_names)
    if missing:
        raise ValueError(f"{source} has no column {', '.join(sorted(missing))}; it has {problems.column_names}")
    if len(problems) <= VALIDATION:
        raise ValueError(f"{source} has {len(problems)} rows; {VALIDATION} are kept for validation alone")
    return problems


def to_verl(row: dict, index: int) -> dict:
    """One problem as verl's RLHFDataset reads it."""
    return {
        "data_source": "deepmath",
        "prompt": [{"role": "user", "content": row["question"] + SUFFIX}],
        "reward_model": {"style": "rule", "ground_truth": str(row["final_answer"])},
        "extra_info": {"index": index},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--source", default=SOURCE)
    arguments = parser.parse_args()
    problems = load(arguments.source)
    rows = problems.map(to_verl, with_indices=True, remove_columns=problems.column_names)
    arguments.out.mkdir(parents=True, exist_ok=True)
    split = len(rows) - VALIDATION
    rows.select(range(split)).to_parquet(arguments.out / "train.parquet")
    rows.select(range(split, len(rows))).to_parquet(arguments.out / "validation.parquet")


if __name__ == "__main__":
    main()
