"""Every run of the study, in parallel and resumable:

    python -m recipes.study.sweep               # an hour and a half on two cores
    python -m recipes.study.sweep --dry-run     # the commands; any one of them is a run of its own, in two minutes

First each method's learning rate: the same rates and seeds for every method, the one with the largest mean sampled
accuracy over the run wins. Then the runs that count, on other seeds, seed by seed. A run whose result is there is not
run again. curves.py draws what comes out.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from recipes.study.policy import TASKS, build
from recipes.study.train import METHODS, Run, area, policy_folder

RESULTS = Path("recipes/study/results")
RATES = {"chains": (5e-5, 1e-4, 2e-4, 4e-4, 8e-4), "legs": (1e-4, 3e-4, 6e-4)}
TUNING_SEEDS = (100,)
SEEDS = range(8)


def result_file(run: Run, tuning: bool) -> Path:
    name = f"{run.method}-{run.lr:g}-{run.seed}" if tuning else f"{run.method}-{run.seed}"
    return RESULTS / ("tuning" if tuning else "runs") / run.task / f"{name}.json"


def chosen_rate(task: str, method: str) -> float:
    """By the largest mean area under the sampled accuracy, over the tuning seeds."""

    def mean_area(lr: float) -> float:
        files = [result_file(Run(task, method, lr, seed), tuning=True) for seed in TUNING_SEEDS]
        return sum(area(json.loads(file.read_text())["evaluation"], "sampled") for file in files) / len(files)

    return max(RATES[task], key=mean_area)


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


def main(parallel: int, dry: bool) -> None:
    for task in TASKS:
        build(task, policy_folder(task))
    tuning = [Run(t, m, lr, seed) for seed in TUNING_SEEDS for t in TASKS for lr in RATES[t] for m in METHODS]
    carry_out([(run, result_file(run, tuning=True)) for run in tuning], parallel, dry)
    if dry and not all(result_file(run, tuning=True).exists() for run in tuning):
        return  # the rates are not known yet
    final = [Run(t, m, chosen_rate(t, m), seed) for seed in SEEDS for t in TASKS for m in METHODS]
    carry_out([(run, result_file(run, tuning=False)) for run in final], parallel, dry)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parallel", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    given = parser.parse_args()
    main(given.parallel, given.dry_run)
