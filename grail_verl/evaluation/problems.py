"""The problems of an evaluation: parquet files in verl's format in, `Problem`s out.

First room on the way: problems → settings → model → validation or server → results. The files are written by
`grail-verl data`; one of another origin does as well if its rows have what a Problem has.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet

from grail_verl.command import CommandError

BENCHMARKS = ("math500", "aime24", "amc23", "minerva_math", "college_math", "olympiadbench")


@dataclass(frozen=True)
class Problem:
    """One row of a benchmark.

    Attributes:
        benchmark: its name, the row's `data_source`.
        index: the row's `extra_info.index`, unique within the benchmark.
        prompt: messages of role and content.
        ground_truth: the answer that a response is graded against, `reward_model.ground_truth`.
    """

    benchmark: str
    index: int | str
    prompt: list[dict[str, str]]
    ground_truth: str


def find_files(places: list[Path]) -> list[Path]:
    """The parquet files of an evaluation, absolute.

    Args:
        places: files, taken as they are, and folders, of which the six benchmarks are taken (NAME.parquet):
            training data may lie beside them.

    Raises:
        CommandError: a place that does not exist, or a folder without any of the six.
    """
    files = []
    for place in places:
        if place.is_dir():
            found = [place / f"{name}.parquet" for name in BENCHMARKS if (place / f"{name}.parquet").is_file()]
            if not found:
                raise CommandError(f"{place} holds none of {', '.join(f'{name}.parquet' for name in BENCHMARKS)}")
            files += found
        elif place.is_file():
            files.append(place)
        else:
            raise CommandError(f"{place} does not exist; write the benchmarks by grail-verl data")
    return [file.resolve() for file in files]


def read_problems(files: list[Path], prompt_key: str = "prompt") -> list[Problem]:
    """Every row of the files, in their order.

    Args:
        files: of verl's format.
        prompt_key: the column of prompts, verl's data.prompt_key.

    Raises:
        CommandError: a file that is no parquet file of verl's format, a problem without an answer, or two with
            the same index.
    """
    problems = []
    for file in files:
        try:
            rows = pyarrow.parquet.read_table(file).to_pylist()
            problems += [
                Problem(
                    benchmark=row["data_source"],
                    index=row["extra_info"]["index"],
                    prompt=row[prompt_key],
                    ground_truth=row["reward_model"]["ground_truth"],
                )
                for row in rows
            ]
        except (pyarrow.ArrowException, KeyError, TypeError) as error:
            raise CommandError(
                f"{file} is not in verl's format (data_source, {prompt_key}, reward_model.ground_truth, "
                f"extra_info.index): {type(error).__name__}: {error}"
            ) from error
        if not rows:
            raise CommandError(f"{file} holds no problem")
    if none := [problem for problem in problems if problem.ground_truth is None]:
        raise CommandError(f"{none[0].benchmark} index {none[0].index} has no ground truth")
    twice = [key for key, count in Counter((p.benchmark, p.index) for p in problems).items() if count > 1]
    if twice:
        raise CommandError(f"{len(twice)} problems are there twice, first {twice[0][0]} index {twice[0][1]}")
    return problems
