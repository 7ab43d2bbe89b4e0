"""The command a user types: verl's main_ppo with `algorithm.adv_estimator=grail`, really training.

Two ranks over gloo and a policy that boxes digits, about a minute each on two cores, nearly all of it start-up.
FSDP2 with packed rows is what the resumed run trains; every other way to run verl has an entry in RUNS, for the sweep.
"""

import json
import math
import os
import subprocess
import sys
import time
from collections import Counter

import pandas as pd
import pytest
import tiny

from grail_verl.look import attribute, records

pytestmark = pytest.mark.end_to_end

# Raises on rank 1 within the only forward that runs in eval mode with gradients; rank 0 waits for its parameters.
FAILING = """
import os, time
import torch
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

def fail(module, args):
    if isinstance(module, Qwen3DecoderLayer) and not module.training and torch.is_grad_enabled():
        with open("failed_at", "w") as file:
            file.write(str(time.time()))
        raise ArithmeticError("rank 1 cannot go on")

if os.environ.get("RANK") == "1":
    torch.nn.modules.module.register_module_forward_pre_hook(fail)
"""

FSDP2 = ["actor_rollout_ref.actor.strategy=fsdp2", "actor_rollout_ref.actor.use_dynamic_bsz=True"]
KL = "actor_rollout_ref.actor.use_kl_loss=True"

# name: (verl's overrides, what some step's metrics have to exceed)
RUNS = {
    "fsdp, padded, reference, entropy, filtered groups": (
        [
            "actor_rollout_ref.actor.strategy=fsdp", "actor_rollout_ref.model.use_remove_padding=False",
            "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4",
            "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=4",
            "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=4",
            KL, "actor_rollout_ref.actor.entropy_coeff=0.01", "algorithm.filter_groups.enable=True",
        ],
        {
            "actor/kl_loss": 0, "actor/entropy_loss": 0, "training/filter_groups/evicted_samples": 0,
            "actor/grail/reweighted_rate": 0.5,  # more than the half of all groups that are not of one mind
        },
    ),
    "lora": (
        [*FSDP2, KL, "actor_rollout_ref.model.lora_rank=8", "actor_rollout_ref.model.lora.merge=True"],
        {"actor/kl_loss": 0},
    ),
    # Twice as many groups as a step takes: the second trains on what the first policy began.
    "colocate_async": (
        [*FSDP2, "trainer.v1.trainer_mode=colocate_async"], {"training/off_policy/trajectory_staleness_worst/max": 0}
    ),
    "V0": ([*FSDP2, "trainer.use_v1=False"], {}),
}


def boxing_policy(folder, **sizes) -> None:
    """A model that has learned the form `3 + 4 = d, so \\boxed{d}` d = 6 or 7 at even odds, in seconds."""
    tokenizer = tiny.tokenizer()
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "3 + 4"}], add_generation_prompt=True,
                                           tokenize=False)
    tiny.teach(folder, tokenizer, [f"{prompt}3 + 4 = {digit}, so \\boxed{{{digit}}}<|im_end|>" for digit in (6, 7)],
               **sizes)


def problems(path) -> None:
    """Every other one cannot be solved: its responses are of one mind."""
    rows = [
        {
            "data_source": "sums",
            "prompt": [{"role": "user", "content": "3 + 4"}],
            "reward_model": {"style": "rule", "ground_truth": ground_truth},
            "extra_info": {"index": index},
        }
        for index, ground_truth in enumerate(["7", "none"] * 4)
    ]
    pd.DataFrame(rows).to_parquet(path)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    boxing_policy(folder / "policy")
    problems(folder / "problems.parquet")
    return folder


def main_ppo(home, log: str, *overrides: str, timeout: int = 600) -> subprocess.CompletedProcess:
    command = [
        sys.executable, "-m", "verl.trainer.main_ppo", "+grail=cpu", "algorithm.adv_estimator=grail",
        "+algorithm.grail.rollouts=all",
        f"data.train_files={home}/problems.parquet", f"data.val_files={home}/problems.parquet", "data.shuffle=False",
        "data.train_batch_size=2", "data.max_prompt_length=32", "data.max_response_length=24",
        f"actor_rollout_ref.model.path={home}/policy", "actor_rollout_ref.actor.optim.lr=1e-3",
        "actor_rollout_ref.actor.ppo_mini_batch_size=2", "actor_rollout_ref.actor.ppo_epochs=2",
        "actor_rollout_ref.rollout.n=8", "actor_rollout_ref.rollout.calculate_log_probs=True",
        "reward.custom_reward_function.path=pkg://grail_verl.reward",
        "trainer.n_gpus_per_node=2", "trainer.total_training_steps=2",
        "trainer.val_before_train=False", "trainer.test_freq=-1", "trainer.save_freq=-1", "trainer.resume_mode=disable",
        f"trainer.default_local_dir={home}/checkpoints", f"hydra.run.dir={home}/hydra", *overrides,
    ]
    environment = {**os.environ, "VERL_FILE_LOGGER_PATH": str(home / log), "VERL_PLATFORM": "cpu"}
    return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=timeout)


def train(home, log: str, *overrides: str, **limits) -> dict[int, dict]:
    """Metrics by step of a run that ended well."""
    done = main_ppo(home, log, *overrides, **limits)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
    metrics: dict[int, dict] = {}
    for line in map(json.loads, (home / log).read_text().splitlines()):
        metrics.setdefault(line["step"], {}).update(line["data"])
    return metrics


def check(metrics: dict[int, dict]) -> None:
    """Of every step but the validation before the first."""
    steps = sorted(metrics.keys() - {0})
    assert steps[:2] == [1, 2]
    for step in steps:
        grail = {name.removeprefix("actor/grail/"): value for name, value in metrics[step].items() if "grail" in name}
        assert sorted(grail) == sorted([
            "weight_mean", "weight_std", "weight_min", "weight_max", "clip_frac_min", "clip_frac_max",
            "answer_found_rate", "reweighted_rate", "advantage_scale_ratio", "nonfinite_rows", "saliency_rows",
            "saliency_seconds",
        ])
        assert grail["answer_found_rate"] > 0.5 and grail["nonfinite_rows"] == 0
        assert math.isfinite(metrics[step]["actor/grad_norm"])
        if metrics[step].get("training/off_policy/trajectory_staleness_worst/max", 0) == 0:  # by this step's policy
            assert metrics[step]["training/rollout_probs_diff_max"] < 1e-5
    # Half of the groups are solvable, and eight responses at even odds are hardly ever of one mind.
    assert max(metrics[step]["actor/grail/saliency_rows"] for step in steps) > 0


def check_against_rollouts(responses: list[dict], folder) -> None:
    """Steps and rewards are those of verl's own dump; both outcomes are there."""
    for response in responses:
        lines = map(json.loads, (folder / f"{response['step']}.jsonl").read_text().splitlines())
        text = "".join(response["tokens"]).replace("<|im_end|>", "")
        assert (text, response["reward"]) in {(line["output"], line["score"]) for line in lines}
        assert response["advantage"] >= 0 if response["reward"] else response["advantage"] <= 0
    assert {response["reward"] for response in responses} == {0.0, 1.0}


def check_against_attribution(responses: list[dict], home) -> None:
    """What attribution makes of the first policy's part of verl's dump: the same, from text alone."""
    attribute.main([
        f"{home}/policy", "--rollouts", f"{home}/rollouts/1.jsonl", "--out", f"{home}/after", "rollouts=all",
    ])
    after = {"".join(one["tokens"]): one for one in records.read(home / "after").responses}
    compared = 0
    for response in responses:
        if response["step"] == 1 and response["weighted"]:
            other = after["".join(response["tokens"])]
            assert other["prompt"] == response["prompt"]
            if other["tokens"] == response["tokens"]:  # else they are not the tokens that were sampled
                assert other["weight"] == pytest.approx(response["weight"], rel=1e-3)
                assert other["saliency"] == pytest.approx(response["saliency"], rel=1e-3, abs=1e-6)
                compared += 1
    assert compared > 0


@pytest.mark.sweep
@pytest.mark.parametrize("name", RUNS)
def test_trains(name, home):
    overrides, exceeded = RUNS[name]
    metrics = train(home, f"{name}.jsonl", *overrides)
    check(metrics)
    for metric, value in exceeded.items():
        assert max(of_step[metric] for of_step in metrics.values()) > value, metric


def test_trains_validates_saves_and_resumes(home):
    overrides = [
        *FSDP2, "trainer.resume_mode=auto", "trainer.save_freq=1",
        "trainer.test_freq=1", "trainer.val_before_train=True",
        "+algorithm.grail.dump_dir=records", "+algorithm.grail.dump_responses=7", "trainer.rollout_data_dir=rollouts",
    ]
    metrics = train(home, "first.jsonl", *overrides)
    assert sorted(metrics) == [0, 1, 2] and all(any("val-" in name for name in metrics[step]) for step in metrics)
    check(metrics)
    found = records.read(home / "records")
    assert Counter(response["step"] for response in found.responses) == {1: 7, 2: 7}
    for step in (1, 2):
        assert found.metrics[step] == {
            name.removeprefix("actor/grail/"): value for name, value in metrics[step].items() if "actor/grail" in name
        }
    check_against_rollouts(found.responses, home / "rollouts")
    check_against_attribution(found.responses, home)

    metrics = train(home, "second.jsonl", *overrides, "trainer.total_training_steps=3")
    assert sorted(metrics) == [2, 3]  # validated at step 2, where the checkpoint is, then trained one step
    assert "actor/grail/weight_mean" in metrics[3] and "actor/grail/weight_mean" not in metrics[2]
    resumed = records.read(home / "records")
    assert [response for response in resumed.responses if response["step"] < 3] == found.responses
    assert Counter(response["step"] for response in resumed.responses) == {1: 7, 2: 7, 3: 7}
    assert sorted(resumed.metrics) == [1, 2, 3]


@pytest.mark.sweep
def test_a_rank_that_fails_ends_the_run(home):
    (home / "failing.py").write_text(FAILING)
    done = main_ppo(home, "failing.jsonl", *FSDP2, "actor_rollout_ref.model.external_lib=failing")
    waited = time.time() - float((home / "failed_at").read_text())
    assert done.returncode != 0 and "rank 1 cannot go on" in done.stdout + done.stderr
    assert waited < 120


# In the reward workers alone: main_ppo's own process, which reads the ground truths, starts no Ray before.
NO_GRADER = """
from wrapt import when_imported

@when_imported("grail_verl.reward.grader")
def break_it(module):
    import ray
    if ray.is_initialized():
        module._Grader._COMMAND = "raise SystemExit('no grader today')"
"""


def test_a_missing_ground_truth_stops_the_command(home):
    rows = pd.read_parquet(home / "problems.parquet")
    rows["reward_model"] = [{"ground_truth": "" if n == 3 else "7"} for n in range(len(rows))]
    rows.to_parquet(home / "missing.parquet")
    done = main_ppo(home, "missing.jsonl", *FSDP2, f"data.train_files={home}/missing.parquet", timeout=120)
    assert done.returncode != 0 and "1 of 16 rows" in done.stderr and "missing.parquet row 3" in done.stderr
    assert "Started a local Ray instance" not in done.stdout + done.stderr


@pytest.mark.parametrize("mode", ["sync", pytest.param("colocate_async", marks=pytest.mark.sweep)])
def test_a_reward_that_cannot_grade_ends_the_run(home, mode, monkeypatch):
    (home / "sitecustomize.py").write_text(NO_GRADER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(home), *sys.path]))
    done = main_ppo(home, "no_grader.jsonl", *FSDP2, f"trainer.v1.trainer_mode={mode}")
    (home / "sitecustomize.py").unlink()
    assert done.returncode == 1
    assert "grail_verl.reward ends the run: RuntimeError: the grading process" in done.stderr
