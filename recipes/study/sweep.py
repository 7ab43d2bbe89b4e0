"""Every run of the study, in parallel and resumable:

    python -m recipes.study.sweep                        # hours on two cores
    python -m recipes.study.sweep chains-14              # of one task
    VERL_PLATFORM=nvidia python -m recipes.study.sweep language-sums --parallel 6      # on one GPU
    python -m recipes.study.sweep --dry-run              # the commands; any one is a run of its own

Task by task. First each method's learning rate, on a seed that is not used further: the one with the largest mean
sampled accuracy over the run wins, and as long as that is the largest or smallest tried, its double or half is tried
too. Then two seeds of every method at its rate, and the others of those that are compared. A run whose result is there
is not run again; with another `--out` its command repeats it. curves.py and headroom.py draw what comes out.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from recipes.study.methods import METHODS
from recipes.study.policy import build
from recipes.study.tasks import LONGER, SMALL
from recipes.study.train import Run, area, policy_folder

RESULTS = Path("recipes/study/results")
SCREENED = 2  # seeds of every method


@dataclass(frozen=True)
class Plan:
    """What is run of a task.

    Attributes:
        methods: those that are tried.
        compared: of these, what goes to all `seeds`; the others go to the first two.
        rates: learning rates that every method is tried with.
        widened: a rate at an end of those tried is not chosen.
        tuned_by: the method whose rate all take; each takes its own where there is none.
    """

    methods: Sequence[str]
    compared: Sequence[str]
    rates: Sequence[float] = (4e-4, 8e-4)
    widened: bool = True
    tuned_by: str | None = None
    tuning_seeds: Sequence[int] = (100,)
    seeds: Sequence[int] = range(8)


FIRST_METHODS = ("grpo", "grail", "oar_g", "shuffled", "surprise")
ENDS = ("grpo", "perfect")  # of the headroom
LANGUAGE_METHODS = ("grpo", "surprise_shares", "grail")
SHARES = ("surprise_shares", "carried", "even_shares")
SECOND = (*ENDS, *SHARES, "grail")  # of another task
LONGEST = [method for method in SECOND if method != "carried"]
PLANS = {
    "chains": Plan(FIRST_METHODS, FIRST_METHODS, (5e-5, 1e-4, 2e-4, 4e-4, 8e-4), widened=False),
    "legs": Plan(FIRST_METHODS, FIRST_METHODS, (1e-4, 3e-4, 6e-4), widened=False),
    **{task: Plan(ENDS, ENDS, seeds=range(2)) for task in LONGER},
    "chains-14": Plan(
        [method for method in METHODS if method != "no_filler"],
        (*ENDS, *SHARES, "grail", "grpo_mixed", "surprise_shares_mixed"),
    ),
    "chains-20": Plan(LONGEST, LONGEST),
    "chains-8-filler": Plan(SECOND, SECOND, tuning_seeds=(100, 101)),
    "language-sums": Plan(
        LANGUAGE_METHODS, LANGUAGE_METHODS, (5e-6, 1e-5, 2e-5), widened=False, tuned_by="grpo", seeds=range(3)
    ),
    "language-sums-5": Plan(
        LANGUAGE_METHODS, LANGUAGE_METHODS, (5e-6,), widened=False, tuned_by="grpo", seeds=range(3)
    ),  # the rate that language-sums chose: its runs are minutes on a GPU, these on a core
}


def result_file(run: Run, tuning: bool) -> Path:
    name = f"{run.method}-{run.lr:g}-{run.seed}" if tuning else f"{run.method}-{run.seed}"
    return RESULTS / ("tuning" if tuning else "runs") / run.task / f"{name}.json"


def tuned_areas(task: str, method: str) -> dict[float, float]:
    """{learning rate: mean area under the sampled accuracy}, of the rates that all tuning seeds were run with."""
    areas: dict[float, list[float]] = {}
    for seed in PLANS[task].tuning_seeds:
        for file in (RESULTS / "tuning" / task).glob(f"{method}-*-{seed}.json"):
            result = json.loads(file.read_text())
            if result["run"]["method"] == method:
                areas.setdefault(result["run"]["lr"], []).append(area(result["evaluation"], "sampled"))
    seeds = len(PLANS[task].tuning_seeds)
    return {lr: sum(found) / seeds for lr, found in sorted(areas.items()) if len(found) == seeds}


def untried_rates(task: str, method: str) -> list[float]:
    """What is to be run before a rate is chosen; none is left when it can be."""
    plan = PLANS[task]
    areas = tuned_areas(task, plan.tuned_by or method)
    if untried := [lr for lr in plan.rates if lr not in areas]:
        return untried
    best = max(areas, key=areas.get)
    beyond = {max(areas): 2 * best, min(areas): best / 2}
    return [beyond[best]] if plan.widened and best in beyond else []


def chosen_rate(task: str, method: str) -> float:
    """By the largest mean area under the sampled accuracy, over the tuning seeds."""
    areas = tuned_areas(task, PLANS[task].tuned_by or method)
    return max(areas, key=areas.get)


def command(run: Run, out: Path) -> list[str]:
    given = [run.task, run.method, "--lr", f"{run.lr:g}", "--seed", str(run.seed), "--out", str(out)]
    return ["-m", "recipes.study.train", *given]


def is_there(run: Run, out: Path) -> bool:
    """Its result, and not that of another rate."""
    return out.exists() and json.loads(out.read_text())["run"] == vars(run)


def carry_out(runs: Sequence[tuple[Run, Path]], parallel: int, dry: bool) -> None:
    """Those whose result is not there; all of them are said where they are only to be told.

    Raises:
        SystemExit: some run failed, when all others are done.
    """
    if dry:
        for run, out in runs:
            print("there:" if is_there(run, out) else "to run:", "python", *command(run, out))
        return
    missing = [(run, out) for run, out in runs if not is_there(run, out)]
    for task in {run.task for run, _ in missing}:
        build(task, policy_folder(task))

    def one(run: Run, out: Path) -> bool:
        log = Path("outputs/study/logs") / out.relative_to(RESULTS).with_suffix(".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {"VERL_PLATFORM": "cpu", **os.environ, "OMP_NUM_THREADS": "1"}
        with log.open("w") as file:
            done = subprocess.run(
                [sys.executable, *command(run, out)], env=environment, stdout=file, stderr=file, check=False
            )
        said = "done:" if done.returncode == 0 else f"failed, see {log}:"
        sys.stdout.write(" ".join([said, "python", *command(run, out)]) + "\n")  # whole, from threads
        sys.stdout.flush()
        return done.returncode == 0

    with ThreadPoolExecutor(parallel) as pool:
        if not all(list(pool.map(lambda given: one(*given), missing))):
            sys.exit("some runs failed; the same command tries them again")


def main(tasks: Sequence[str], parallel: int, dry: bool) -> None:
    for task in tasks:
        plan = PLANS[task]
        while tuning := [
            Run(task, method, lr, seed)
            for method in ([plan.tuned_by] if plan.tuned_by else plan.methods)
            for lr in untried_rates(task, method)
            for seed in plan.tuning_seeds
        ]:
            carry_out([(run, result_file(run, tuning=True)) for run in tuning], parallel, dry)
            if dry:
                break
        final = [
            Run(task, method, chosen_rate(task, method), seed)
            for place, seed in enumerate(plan.seeds)
            for method in (plan.methods if place < SCREENED else plan.compared)
            if not untried_rates(task, method)
        ]
        carry_out([(run, result_file(run, tuning=False)) for run in final], parallel, dry)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"of {', '.join(PLANS)}; none: small policies' all")
    parser.add_argument("--parallel", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    given = parser.parse_args()
    if given.parallel < 1:
        parser.error(f"--parallel {given.parallel}: at least 1")
    if unknown := set(given.tasks) - set(PLANS):
        parser.error(f"no tasks: {', '.join(sorted(unknown))}; there are {', '.join(PLANS)}")
    main(given.tasks or [task for task in PLANS if task in SMALL], given.parallel, given.dry_run)
