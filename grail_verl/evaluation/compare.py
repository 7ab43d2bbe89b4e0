"""Puts evaluations side by side: `grail-verl compare BASELINE RUN ... [--out DIR]`.

Each run's accuracy and Pass@n on each benchmark and both averages, its difference to the first run, and the
paired bootstrap's 95 % interval of that difference. Folders are those of `grail-verl evaluate`.
"""

import argparse
import json
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from grail_verl.command import CommandError, mendable
from grail_verl.evaluation.bootstrap import LEVEL, RESAMPLES, SEED, intervals
from grail_verl.evaluation.results import AVERAGE, WEIGHTED, cell, plain_table, read_evaluation, write_whole
from grail_verl.printable import printable

PROBLEM = ["benchmark", "index", "ground_truth"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("baseline", type=Path, help="folder of the evaluation that the others are compared with")
    parser.add_argument("runs", type=Path, nargs="+", help="folders of further evaluations")
    parser.add_argument("--out", type=Path, help="folder for compare.json and compare.csv")


def run(options: argparse.Namespace) -> None:
    """Raises CommandError: see `read`; or --out cannot be written to."""
    folders = [options.baseline, *options.runs]
    console = Console()
    runs, notes = read(folders)
    comparison = compare(runs)
    for measure in comparison["measure"].unique():
        console.print(shown(comparison[comparison["measure"] == measure], measure))
    for number, folder in enumerate(folders):
        console.print(printable(f"{_letter(number)}: {folder}"), highlight=False, markup=False, soft_wrap=True)
    for note in notes:
        console.print(printable(f"Note: {note}"), highlight=False, markup=False, soft_wrap=True)
    if options.out:
        with mendable(OSError):
            write(options.out, comparison, notes)


def read(folders: list[Path]) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Each run's values by problem, and what else differs between the runs.

    Args:
        folders: of evaluations, the baseline first.

    Returns:
        For each folder as it was written a table indexed by benchmark, problem and ground truth, with the columns
        accuracy and pass@n, and remarks for the user on settings that differ.

    Raises:
        CommandError: a folder is no evaluation or not all of one, is named twice, or runs do not hold the same
            problems, or as many samples of each.
    """
    runs, settings = {}, {}
    for folder in folders:
        results, samples = read_evaluation(folder)
        values = samples.groupby(PROBLEM, sort=False)["acc"].agg(["mean", "max"])
        values.columns = ["accuracy", f"pass@{results['sampling']['samples']}"]
        runs[str(folder)], settings[str(folder)] = values, results["sampling"]
    if len(runs) < len(folders):
        raise CommandError("a folder is named twice")
    (baseline, expected), *others = runs.items()
    notes = []
    for name, values in others:
        _require_same(baseline, expected, name, values)
        for setting, value in settings[name].items():
            if value != (ours := settings[baseline].get(setting)):
                notes.append(f"{setting} is {ours} in {baseline}, {value} in {name}")
    return {name: values.reindex(expected.index) for name, values in runs.items()}, notes


def _require_same(baseline: str, expected: pd.DataFrame, name: str, values: pd.DataFrame) -> None:
    if list(values.columns) != list(expected.columns):
        raise CommandError(f"{baseline} has {expected.columns[1]}, {name} {values.columns[1]}")
    for has, problems, lacks, others in ((baseline, expected, name, values), (name, values, baseline, expected)):
        only = problems.index.difference(others.index, sort=False)
        if len(only):
            counts = only.get_level_values("benchmark").value_counts(sort=False)
            held = set(others.index.get_level_values("benchmark"))
            said = ", ".join(
                f"{count} of {benchmark}" if benchmark in held else f"all {count} of {benchmark}"
                for benchmark, count in counts.items()
            )
            benchmark, index, truth = only[0]
            raise CommandError(
                f"not the same problems: {has} has {said} that {lacks} has not, first {benchmark} index {index} with "
                f"the answer {truth}"
            )


def compare(runs: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Values, differences to the first run and their intervals.

    Args:
        runs: as `read` gives them, with the same rows in the same order.

    Returns:
        A row for each measure, benchmark or average, and run: measure, benchmark, problems, run, value,
        difference, low, high; the last three are 0 for the first run.
    """
    baseline = next(iter(runs))
    measures = list(runs[baseline].columns)
    values = pd.concat(runs, axis=1, names=["run", "measure"])  # problems by (run, measure)
    differences = values.sub(values[baseline].reindex(values.columns.get_level_values("measure"), axis=1).to_numpy())
    by_benchmark = values.groupby("benchmark", sort=False)
    means = by_benchmark.mean()
    means.loc[AVERAGE], means.loc[WEIGHTED] = means.mean(), values.mean()
    parts = [part.to_numpy() for _, part in differences.groupby("benchmark", sort=False)]
    ends = intervals(parts)  # (rows of means, 2, columns of values)
    sizes = [*by_benchmark.size(), len(values), len(values)]
    rows = []
    for measure in measures:
        for place, (name, row) in enumerate(means.iterrows()):
            for run in runs:
                low, high = ends[place, :, values.columns.get_loc((run, measure))]
                rows.append(
                    {
                        "measure": measure,
                        "benchmark": name,
                        "problems": sizes[place],
                        "run": run,
                        "value": row[run, measure],
                        "difference": row[run, measure] - row[baseline, measure],
                        "low": low,
                        "high": high,
                    }
                )
    return pd.DataFrame(rows)


def shown(comparison: pd.DataFrame, measure: str) -> Table:
    """One measure for the terminal: in per cent, differences in points. Runs are A, B, ..., as folders' names are
    long."""
    letters = [_letter(number) for number in range(comparison["run"].nunique())]
    heads = letters[:1]
    for letter in letters[1:]:
        heads += [letter, f"{letter} - {letters[0]} [{LEVEL:.0%}]"]
    view = plain_table(f"{measure} in %", "benchmark", "problems", *heads)
    for name, rows in comparison.groupby("benchmark", sort=False):
        if name == AVERAGE:
            view.add_section()
        cells = []
        for number, row in enumerate(rows.itertuples()):
            cells.append(f"{100 * row.value:.1f}")
            if number:
                cells.append(f"{100 * row.difference:+.1f} [{100 * row.low:+.1f}, {100 * row.high:+.1f}]")
        view.add_row(cell(name), str(rows["problems"].iloc[0]), *cells)
    return view


def _letter(number: int) -> str:
    return chr(ord("A") + number)


def write(folder: Path, comparison: pd.DataFrame, notes: list[str]) -> None:
    """compare.csv and compare.json, the same rows, in the second with how the intervals came about."""
    about = {
        "interval": f"paired bootstrap over problems within each benchmark, percentile, {LEVEL:.0%}",
        "resamples": RESAMPLES,
        "seed": SEED,
        "notes": notes,
    }
    write_whole(folder / "compare.csv", comparison.to_csv(index=False))
    write_whole(
        folder / "compare.json", json.dumps({**about, "rows": comparison.to_dict("records")}, indent=2) + "\n"
    )
