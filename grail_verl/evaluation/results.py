"""Samples in, numbers and files out: the folder of one evaluation.

Fifth room: problems → settings → model → validation or server → *results* → bootstrap. `responses.jsonl` has a row
for each sample, the same for both ways; `results.json` is written last and whole, so that a folder that has one is
a finished evaluation, and one that has none is not.
"""

import json
import math
import os
import sys
from pathlib import Path

import pandas as pd
from rich import box
from rich.markup import escape
from rich.table import Table

from grail_verl.command import CommandError
from grail_verl.evaluation.problems import Problem
from grail_verl.printable import printable

RESPONSES, RESULTS, TABLE = "responses.jsonl", "results.json", "results.csv"
AVERAGE, WEIGHTED = "average", "weighted"
COUNTS = ["problems", "samples", "grading_failed"]
HEADS = {"response_tokens": "tokens", "no_answer": "no answer", "truncated": "cut off", "grading_failed": "ungraded"}


def collect(problems: list[Problem], samples: list[dict]) -> pd.DataFrame:
    """One row for each sample, in the order of the problems.

    Args:
        problems: all that were asked.
        samples: in any order, each with benchmark, index, sample (from 0), output, acc, answer_found,
            grading_failed, response_tokens and truncated; more is left out.

    Raises:
        CommandError: a sample without one of these, or an acc that is no finite number: the score function is not
            grail_verl.reward's.
    """
    order = {(problem.benchmark, problem.index): number for number, problem in enumerate(problems)}
    samples = sorted(samples, key=lambda sample: (order[sample["benchmark"], sample["index"]], sample["sample"]))
    try:
        rows = [
            {
                "benchmark": sample["benchmark"],
                "index": sample["index"],
                "sample": sample["sample"],
                "ground_truth": problems[order[sample["benchmark"], sample["index"]]].ground_truth,
                "output": sample["output"],
                "acc": float(sample["acc"]),
                "answer_found": bool(sample["answer_found"]),
                "grading_failed": bool(sample["grading_failed"]),
                "response_tokens": sample["response_tokens"],
                "truncated": sample["truncated"],
            }
            for sample in samples
        ]
    except KeyError as error:
        raise CommandError(f"the score function gives no {error}; grail_verl.reward's does") from error
    if bad := [row for row in rows if not math.isfinite(row["acc"])]:
        where = f"{bad[0]['benchmark']} index {bad[0]['index']}"
        raise CommandError(f"the score function gives acc={bad[0]['acc']} for {where}; allowed: a finite number")
    return pd.DataFrame(rows)


def require_complete(problems: list[Problem], samples: pd.DataFrame, number: int) -> None:
    """Raises CommandError, with how many are missing of which benchmark, unless each problem has `number` samples.

    verl leaves a response out, and goes on, when its generation or grading failed.
    """
    there = set() if samples.empty else set(zip(samples["benchmark"], samples["index"], samples["sample"]))
    wanted = [(problem.benchmark, problem.index, sample) for problem in problems for sample in range(number)]
    missing = pd.Series([benchmark for benchmark, *rest in wanted if (benchmark, *rest) not in there])
    if len(missing):
        counts = ", ".join(f"{count} of {name}" for name, count in missing.value_counts(sort=False).items())
        raise CommandError(
            f"{len(missing)} of {len(wanted)} samples are missing ({counts}): no result. Generation or grading failed "
            "(verl/verl.log says why), or prompts are longer than data.max_prompt_length"
        )
    if len(samples) != len(wanted):
        raise CommandError(f"{len(samples)} samples came back of {len(wanted)} asked for: no result")


def summarise(samples: pd.DataFrame) -> pd.DataFrame:
    """The table of an evaluation.

    Args:
        samples: as `collect` gives them, the same number for each problem.

    Returns:
        A row for each benchmark, then the average over benchmarks, then the average over problems; counts are
        summed in both. Columns: problems, samples, accuracy (mean of the samples' acc), pass@n (share of problems
        with a right one among its n samples), response_tokens (mean), no_answer and truncated (shares of samples),
        grading_failed (a count).
    """
    by_benchmark = samples.groupby("benchmark", sort=False)
    best = samples.groupby(["benchmark", "index"], sort=False)["acc"].max()
    sizes = by_benchmark["index"].nunique()
    table = pd.DataFrame(
        {
            "problems": sizes,
            "samples": by_benchmark.size(),
            "accuracy": by_benchmark["acc"].mean(),
            f"pass@{len(samples) // sizes.sum()}": best.groupby("benchmark", sort=False).mean(),
            "response_tokens": by_benchmark["response_tokens"].mean(),
            "no_answer": (~samples["answer_found"]).groupby(samples["benchmark"], sort=False).mean(),
            "truncated": by_benchmark["truncated"].mean(),
            "grading_failed": by_benchmark["grading_failed"].sum(),
        }
    )
    rates = table.drop(columns=COUNTS)
    totals = table[COUNTS].sum()
    averages = pd.DataFrame(
        {
            AVERAGE: pd.concat([rates.mean(), totals]),
            WEIGHTED: pd.concat([rates.mul(sizes, axis=0).sum() / sizes.sum(), totals]),
        }
    ).T[table.columns]
    return pd.concat([table, averages]).astype(dict.fromkeys(COUNTS, int)).rename_axis("benchmark")


def shown(table: pd.DataFrame, title: str) -> Table:
    """The table for a terminal of 80 columns, rates in per cent."""
    heads = [HEADS.get(column, column) for column in table.columns if column != "samples"]
    view = plain_table(f"{title}, rates in %", "benchmark", *heads)
    for name, row in table.drop(columns="samples").iterrows():
        if name == AVERAGE:
            view.add_section()
        view.add_row(cell(name), *(_cell(column, value) for column, value in row.items()))
    return view


def plain_table(title: str, *heads: str) -> Table:
    """A rich table with little between its columns, numbers on the right."""
    first, *others = map(cell, heads)
    view = Table(first, title=cell(title), box=box.SIMPLE_HEAD, collapse_padding=True)
    for head in others:
        view.add_column(head, justify="right")
    return view


def cell(text: object) -> str:
    """Of a data set's or a user's, for a table: neither markup of rich's nor control characters."""
    return escape(printable(str(text)))


def _cell(column: str, value: float) -> str:
    if column in COUNTS:
        return f"{value:.0f}"
    return f"{value if column == 'response_tokens' else 100 * value:.1f}"


def require_unused(folder: Path) -> None:
    """Raises CommandError if the folder holds a finished evaluation."""
    if (folder / RESULTS).exists():
        raise CommandError(f"{folder} holds a finished evaluation; name another folder or remove this one")


def write_responses(folder: Path, samples: pd.DataFrame) -> None:
    """responses.jsonl, which alone makes no result."""
    lines = [json.dumps(row) + "\n" for row in samples.to_dict("records")]
    write_whole(folder / RESPONSES, "".join(lines))


def write_results(folder: Path, table: pd.DataFrame, about: dict) -> None:
    """results.csv, and last results.json: `about` (model, settings, versions), benchmarks and averages."""
    rows = table.to_dict("index")
    averages = {"plain": rows.pop(AVERAGE), "weighted": rows.pop(WEIGHTED)}
    write_whole(folder / TABLE, table.to_csv())
    write_whole(folder / RESULTS, json.dumps({**about, "benchmarks": rows, "averages": averages}, indent=2) + "\n")


def read_evaluation(folder: Path) -> tuple[dict, pd.DataFrame]:
    """results.json and the samples of a finished evaluation.

    Raises:
        CommandError: the folder holds none, or not what was written there: every sample of results.json's once.
    """
    try:
        results = _parsed((folder / RESULTS).read_text(encoding="utf-8"), RESULTS)
        with (folder / RESPONSES).open(encoding="utf-8") as lines:
            samples = [_parsed(line, f"{RESPONSES}, line {number}") for number, line in enumerate(lines, start=1)]
        _require_written(results, samples)
    except FileNotFoundError as error:
        raise CommandError(f"{folder} holds no finished evaluation: {error.filename} is not there") from error
    except (OSError, ValueError) as error:
        raise CommandError(f"{folder} is not as an evaluation left it, evaluate again: {error}") from error
    return results, pd.DataFrame(samples)


def _parsed(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _require_written(results: object, samples: list) -> None:
    """Raises ValueError: see read_evaluation."""
    match results:
        case {"sampling": {"samples": int(number)}, "benchmarks": {**benchmarks}} if number > 0 and all(
            isinstance(told, dict) and _is_finite(told.get("problems")) and _is_finite(told.get("accuracy"))
            for told in benchmarks.values()
        ):
            accuracies = {name: [] for name in benchmarks}
        case _:
            raise ValueError(f"{RESULTS} is another kind of JSON")
    problems: dict[tuple, list[int]] = {}
    for line, sample in enumerate(samples, start=1):
        match sample:
            case {
                "benchmark": str(name), "index": int() | str() as index, "sample": int(which), "acc": acc,
                "ground_truth": str() | int() | float() as truth,
            } if name in accuracies and _is_finite(acc):  # fmt: skip
                problems.setdefault((name, index, truth), []).append(which)
                accuracies[name].append(acc)
            case _:
                raise ValueError(f"{RESPONSES}, line {line} is no sample of {', '.join(benchmarks)}")
    for (name, index, _), given in problems.items():
        if sorted(given) != list(range(number)):
            where = f"{name} index {index}"
            raise ValueError(f"{RESPONSES} has samples {sorted(given)} of {where}, not {number}, each once")
    for name, told in benchmarks.items():
        given = {
            "problems": sum(benchmark == name for benchmark, *_ in problems),
            "accuracy": sum(accuracies[name]) / max(len(accuracies[name]), 1),
        }
        for what, value in given.items():
            if not math.isclose(value, told[what], abs_tol=1e-9):
                raise ValueError(f"{RESULTS} has {told[what]:g} {what} for {name}, {RESPONSES} {value:g}")


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def write_whole(path: Path, text: str) -> None:
    """The file has all of the text or is what it was before; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
