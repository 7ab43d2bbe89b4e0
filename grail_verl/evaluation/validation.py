"""Responses by verl's own validation: one main_ppo with val_only, in a process of its own.

Fourth room, without a server: problems → settings → model → *validation* → results. verl writes its dump and its
log into OUT/verl; the reward manager's notes in the dump become samples.
"""

import json
import os
import subprocess
import sys
from collections import deque
from pathlib import Path

from grail_verl.command import CommandError
from grail_verl.evaluation.reward_manager import FIELD

LINES_SHOWN = 40


def validate(overrides: list[str], model: str, files: list[Path], folder: Path) -> list[dict]:
    """Every response that verl generated and graded.

    Args:
        overrides: main_ppo's, the preset `evaluation` among them.
        model: a folder or hub name.
        files: the benchmarks.
        folder: verl's own, for its dump, log and Hydra's.

    Returns:
        Samples as results.py wants them, but for the ground truth; a response that failed is not among them.

    Raises:
        CommandError: verl failed; shows the end of its log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dump, log = folder / "validation" / "0.jsonl", folder / "verl.log"
    dump.unlink(missing_ok=True)  # an interrupted evaluation's
    listed = ",".join(map(_quoted, files))
    command = [
        sys.executable, "-m", "verl.trainer.main_ppo", *overrides,
        f"actor_rollout_ref.model.path={_quoted(model)}",
        f"data.val_files=[{listed}]",
        f"data.train_files={_quoted(files[0])}",  # verl reads some, and trains on none
        f"trainer.validation_data_dir={_quoted(dump.parent)}",
        f"hydra.run.dir={_quoted(folder / 'hydra')}",
    ]
    environment = {**os.environ, "VERL_FILE_LOGGER_PATH": str(folder / "metrics.jsonl")}
    print(f"verl's validation is running, its log is {log}", flush=True)
    with log.open("w") as output:
        code = subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT).returncode
    if code != 0 or not dump.is_file():
        with log.open(errors="replace") as output:
            end = "".join(deque(output, LINES_SHOWN))
        raise CommandError(f"{end}\nverl's validation ended with exit code {code} and no result; all of it: {log}")
    with dump.open() as lines:
        return [_sample(json.loads(line)) for line in lines]


def _quoted(value: str | Path) -> str:
    """As a string of Hydra's, whatever characters a path has."""
    text = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


def _sample(row: dict) -> dict:
    return {**json.loads(row[FIELD]), "output": row["output"]}
