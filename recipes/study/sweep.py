"""Every run of the study, in parallel and resumable:

    python -m recipes.study.sweep                        # hours on two cores
    python -m recipes.study.sweep chains-14              # of one task
    python -m recipes.study.sweep --dry-run              # the commands; any one is a run of its own, in two minutes

Task by task. First each method's learning rate: the same rates and seeds for every method, the one with the largest
mean sampled accuracy over the run wins. Then the runs that count, on other seeds, seed by seed. A run whose result is
there is not run again. curves.py and headroom.py draw what comes out.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from recipes.study.policy import build
from recipes.study.tasks import LONGER
from recipes.study.train import Run, area, policy_folder

RESULTS = Path("recipes/study/results")


@dataclass(frozen=True)
class Plan:
    """What is run of a task.

    Attributes:
        rates: learning rates that every method is tried with.
        methods: those that are tried.
        compared: of these, what goes to all `seeds`; chosen by the runs on the tuning seeds.
    """

    rates: Sequence[float]
    methods: Sequence[str]
    compared: Sequence[str]
    tuning_seeds: Sequence[int] = (100, 101)
    seeds: Sequence[int] = range(8)


FIRST_METHODS = ("grpo", "grail", "oar_g", "shuffled", "surprise")
RATES = (2e-4, 4e-4, 8e-4, 1.6e-3)
ENDS = ("grpo", "perfect")  # of the headroom
PLANS = {
    "chains": Plan((5e-5, 1e-4, 2e-4, 4e-4, 8e-4), FIRST_METHODS, FIRST_METHODS, tuning_seeds=(100,)),
    "legs": Plan((1e-4, 3e-4, 6e-4), FIRST_METHODS, FIRST_METHODS, tuning_seeds=(100,)),
    "chains-14": Plan(
        RATES[1:3],
        (*ENDS, "carried", "surprise_shares", "even_shares"),
        (*ENDS, "carried", "surprise_shares", "even_shares"),
        tuning_seeds=(100,),
    ),
    **{task: Plan(RATES, ENDS, ENDS, seeds=range(2)) for task in LONGER if task != "chains-14"},
}


def result_file(run: Run, tuning: bool) -> Path:
    name = f"{run.method}-{run.lr:g}-{run.seed}" if tuning else f"{run.method}-{run.seed}"
    return RESULTS / ("tuning" if tuning else "runs") / run.task / f"{name}.json"


def chosen_rate(task: str, method: str) -> float:
    """By the largest mean area under the sampled accuracy, over the tuning seeds."""

    areas = tuned_areas(task, method)
    return max(areas, key=areas.get)


def tuned_areas(task: str, method: str) -> dict[float, float]:
    """{learning rate: mean area under the sampled accuracy}."""

    def mean_area(lr: float) -> float:
        files = [result_file(Run(task, method, lr, seed), tuning=True) for seed in PLANS[task].tuning_seeds]
        return sum(area(json.loads(file.read_text())["evaluation"], "sampled") for file in files) / len(files)

    return {lr: mean_area(lr) for lr in PLANS[task].rates}


def command(run: Run, out: Path) -> list[str]:
    given = [run.task, run.method, "--lr", f"{run.lr:g}", "--seed", str(run.seed), "--out", str(out)]
    return ["-m", "recipes.study.train", *given]


def carry_out(runs: Iterable[tuple[Run, Path]], parallel: int, dry: bool) -> None:
    """Raises SystemExit, when all others are done, if some run failed."""

    def one(run: Run, out: Path) -> bool:
        arguments = command(run, out)
        if dry or out.exists():
            print("there" if out.exists() else "python", *arguments)
            return True
        log = Path("outputs/study/logs") / out.relative_to(RESULTS).with_suffix(".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "VERL_PLATFORM": "cpu"}
        with log.open("w") as file:
            done = subprocess.run([sys.executable, *arguments], env=environment, stdout=file, stderr=file)
        print("done  " if done.returncode == 0 else f"failed, see {log}:", *arguments, flush=True)
        return done.returncode == 0

    with ThreadPoolExecutor(parallel) as pool:
        if not all(list(pool.map(lambda given: one(*given), runs))):
            sys.exit("some runs failed; the same command tries them again")


def main(tasks: Sequence[str], parallel: int, dry: bool) -> None:
    for task in tasks:
        plan = PLANS[task]
        if not dry:
            build(task, policy_folder(task))
        tuning = [Run(task, m, lr, seed) for seed in plan.tuning_seeds for lr in plan.rates for m in plan.methods]
        carry_out([(run, result_file(run, tuning=True)) for run in tuning], parallel, dry)
        if dry and not all(result_file(run, tuning=True).exists() for run in tuning):
            continue  # the rates are not known yet
        final = [Run(task, m, chosen_rate(task, m), seed) for seed in plan.seeds for m in plan.compared]
        carry_out([(run, result_file(run, tuning=False)) for run in final], parallel, dry)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"of {', '.join(PLANS)}; all if none is given")
    parser.add_argument("--parallel", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    given = parser.parse_args()
    if unknown := set(given.tasks) - set(PLANS):
        parser.error(f"no tasks: {', '.join(sorted(unknown))}; there are {', '.join(PLANS)}")
    main(given.tasks or list(PLANS), given.parallel, given.dry_run)
