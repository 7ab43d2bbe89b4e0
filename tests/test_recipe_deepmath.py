"""The GPU recipe as far as it goes without one: data from a local file, and a command that composes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).parent.parent


def make_data(folder: Path, problems: pd.DataFrame) -> subprocess.CompletedProcess:
    problems.to_parquet(folder / "problems.parquet")
    return subprocess.run(
        [sys.executable, "-m", "recipes.deepmath.data", str(folder / "data"), "--source",
         str(folder / "problems.parquet")],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "HF_HOME": str(folder / "cache")},
    )


def test_a_local_file_becomes_verls_parquet(tmp_path):
    frame = pd.DataFrame({"question": [f"What is {n} + {n}?" for n in range(503)],
                          "final_answer": [str(2 * n) for n in range(503)], "difficulty": 1.0})
    done = make_data(tmp_path, frame)
    assert done.returncode == 0, done.stderr
    train, validation = (pd.read_parquet(tmp_path / "data" / f"{name}.parquet") for name in ("train", "validation"))
    assert (len(train), len(validation)) == (3, 500)
    row = train.iloc[2]
    assert row["prompt"][0]["content"] == (
        "What is 2 + 2? Please reason step by step, and put your final answer within \\boxed{}."
    )
    assert row["reward_model"]["ground_truth"] == "4" and row["extra_info"]["index"] == 2
    assert validation.iloc[0]["extra_info"]["index"] == 3


@pytest.mark.parametrize(
    ("frame", "says"),
    [(pd.DataFrame({"question": ["?"]}), "has no column final_answer"),
     (pd.DataFrame({"question": ["?"], "final_answer": ["1"]}), "has 1 rows")],
)
def test_a_file_of_another_shape_is_refused(tmp_path, frame, says):
    done = make_data(tmp_path, frame)
    assert done.returncode != 0 and says in done.stderr
    assert not (tmp_path / "data").exists()


def test_the_command_composes_with_the_presets():
    done = subprocess.run(
        ["bash", "recipes/deepmath/run.sh", "+grail=paper", "--cfg", "job"], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load(done.stdout)
    assert config["algorithm"]["adv_estimator"] == "grail"
    assert config["algorithm"]["grail"]["occurrence"] == "first"
    assert config["actor_rollout_ref"]["rollout"]["name"] == "vllm"
    assert config["actor_rollout_ref"]["actor"]["clip_ratio_high"] == 0.28
    assert (ROOT / config["reward"]["custom_reward_function"]["path"]).exists()
    json.dumps(config)  # nothing in it that a logger could not write
