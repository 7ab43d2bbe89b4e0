"""The same run by verl's real main_ppo: that train.py leaves out processes and nothing else.

    python -m recipes.study.main_ppo chains grpo --lr 3e-4 --seed 0

writes the problems as parquet, starts `python -m verl.trainer.main_ppo` with the overrides of train.py, and puts the
mean reward of every training step and the greedy accuracy on the held-out problems into results/main_ppo, for
curves.py.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from recipes.quickstart.plot import read_metrics
from recipes.study.methods import METHODS
from recipes.study.policy import build
from recipes.study.sweep import RESULTS
from recipes.study.tasks import TASKS
from recipes.study.train import PROBLEMS, Run, overrides, policy_folder, problems


def write_problems(task: str, path: Path, count: int, validation: bool) -> None:
    pd.DataFrame(
        {
            "data_source": task,
            "prompt": [{"role": "user", "content": problem}],
            "reward_model": {"style": "rule", "ground_truth": TASKS[task].ground_truth(problem)},
            "extra_info": {"index": index, "problem": problem},
        }
        for index, problem in enumerate(problems(task, count, validation))
    ).to_parquet(path)


def main(run: Run, folder: Path, out: Path) -> None:
    build(run.task, policy_folder(run.task))
    (folder / "metrics").mkdir(parents=True, exist_ok=True)
    write_problems(run.task, folder / "train.parquet", PROBLEMS, validation=False)
    write_problems(run.task, folder / "validation.parquet", run.sizes.held_out, validation=True)
    given = [
        *overrides(run),
        f"data.train_files={folder}/train.parquet",
        f"data.val_files={folder}/validation.parquet",
        "reward.custom_reward_function.path=pkg://recipes.study.reward",
        f"trainer.test_freq={run.sizes.evaluate_every}",
        "trainer.save_freq=-1",
        "trainer.resume_mode=disable",
        "trainer.logger=file",
        f"trainer.default_local_dir={folder}/checkpoints",
        f"hydra.run.dir={folder}/hydra",
    ]
    started = time.perf_counter()
    log = {"VERL_FILE_LOGGER_PATH": str((folder / "metrics" / "metrics.jsonl").absolute())}
    subprocess.run([sys.executable, "-m", "verl.trainer.main_ppo", *given], env={**os.environ, **log}, check=True)
    steps = read_metrics(folder)
    result = {
        "run": vars(run),
        "command": f"python -m recipes.study.main_ppo {run.task} {run.method} --lr {run.lr:g} --seed {run.seed}",
        "overrides": given,
        "seconds": round(time.perf_counter() - started, 1),
        "reward": {step: metrics["critic/score/mean"] for step, metrics in steps.items() if step},
        "greedy": {step: metrics["validation"] for step, metrics in steps.items() if "validation" in metrics},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    given = parser.parse_args()
    name = f"{given.task}-{given.method}-{given.seed}"
    main(
        Run(given.task, given.method, given.lr, given.seed),
        Path("outputs/study/main_ppo", name),
        RESULTS / "main_ppo" / f"{name}.json",
    )
