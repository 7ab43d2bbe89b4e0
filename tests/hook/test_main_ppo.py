"""The command a user types: verl's main_ppo with `algorithm.adv_estimator=grail`, really training.

Two ranks over gloo and a policy that boxes digits, about a minute each on two cores, nearly all of it start-up.
FSDP2 with packed rows is what the resumed run trains; every other way to run verl has an entry in RUNS, for the sweep.
"""

import json
import os
import sys
import textwrap
import time
from collections import Counter

import pandas as pd
import pytest
import verl
from legacy import LEGACY
from pictures import drawn, in_tensorboard, same
from runs import FSDP2, boxing_policy, check, main_ppo, problems, train

from grail_verl import __main__ as command
from grail_verl.look import records

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


# GRAIL's weights, by a rule of one's own that writes down what RolloutBatch says its trainer hands over.
WITNESS = """
    import json
    import os

    from grail_verl import register_weights
    from grail_verl.credit.weights.standardised import Standardised

    @register_weights("witness")
    class Witness(Standardised):
        needs = frozenset({"rewards_B", "groups", "old_log_probs_BT"})

        def token_weights(self, scores_BT, weighted_B, batch):
            seen = {
                "groups": list(batch.groups),
                "rewards": batch.rewards_B.tolist(),
                "entropy": batch.entropy_BT is not None,
                "log_probs": bool((batch.old_log_probs_BT[batch.response_mask_BT] < 0).all()),
                "advantages": batch.advantages_B.tolist(),
            }
            with open(f"seen-{os.environ['RANK']}.jsonl", "a") as file:
                file.write(json.dumps(seen) + "\\n")
            return super().token_weights(scores_BT, weighted_B, batch)
"""
WITNESSED = ["+algorithm.grail.modules=[rules.py]", "+algorithm.grail.weights=witness"]


def check_what_was_handed_over(home, entropy: bool) -> None:
    """Of the first step: GRPO's advantages come from the groups and rewards that the rule saw."""
    seen = [json.loads((home / f"seen-{rank}.jsonl").read_text().splitlines()[0]) for rank in (0, 1)]
    rows = [row for rank in seen for row in zip(rank["groups"], rank["rewards"], rank["advantages"], strict=True)]
    groups = {group: [reward for other, reward, _ in rows if other == group] for group, *_ in rows}
    assert sorted(map(len, groups.values())) == [8, 8]
    for group, reward, advantage in rows:
        assert advantage == pytest.approx(reward - sum(groups[group]) / 8, abs=1e-6)
    assert all(rank["log_probs"] and rank["entropy"] == entropy for rank in seen)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    boxing_policy(folder / "policy")
    problems(folder / "problems.parquet")
    (folder / "rules.py").write_text(textwrap.dedent(WITNESS))
    return folder


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
    command.main([
        "attribute", f"{home}/policy", "--rollouts", f"{home}/rollouts/1.jsonl", "--out", f"{home}/after",
        "rollouts=all",
    ])
    after = {"".join(one["tokens"]): one for one in records.read(home / "after").responses}
    compared = 0
    for response in responses:
        if response["step"] == 1 and response["weighted"]:
            other = after["".join(response["tokens"])]
            assert other["prompt"] == response["prompt"]
            if other["tokens"] == response["tokens"]:  # else they are not the tokens that were sampled
                assert other["weight"] == pytest.approx(response["weight"], rel=1e-3)
                assert other["score"] == pytest.approx(response["score"], rel=1e-3, abs=1e-6)
                for name in ("surprise", "entropy"):  # verl's own
                    assert other["channels"][name] == pytest.approx(response["channels"][name], rel=1e-2, abs=1e-3)
                compared += 1
    assert compared > 0


@pytest.mark.sweep
@pytest.mark.parametrize("name", [pytest.param(name, marks=LEGACY) if name == "V0" else name for name in RUNS])
def test_trains(name, home):
    overrides, exceeded = RUNS[name]
    metrics = train(home, f"{name}.jsonl", *overrides)
    check(metrics)
    for metric, value in exceeded.items():
        assert max(of_step[metric] for of_step in metrics.values()) > value, metric


def test_trains_validates_saves_and_resumes(home):
    overrides = [
        *FSDP2, *WITNESSED, "algorithm.norm_adv_by_std_in_grpo=False",
        "trainer.resume_mode=auto", "trainer.save_freq=1",
        "trainer.test_freq=1", "trainer.val_before_train=True",
        "+algorithm.grail.dump_dir=records", "+algorithm.grail.dump_responses=7", "trainer.rollout_data_dir=rollouts",
        "+algorithm.grail.log_pictures=2", "trainer.logger=[console,file,tensorboard]",
    ]
    metrics = train(home, "first.jsonl", *overrides)
    assert sorted(metrics) == [0, 1, 2] and all(any("val-" in name for name in metrics[step]) for step in metrics)
    check(metrics)
    found = records.read(home / "records")
    assert Counter(response["step"] for response in found.responses) == {1: 7, 2: 7}
    for step in (1, 2):
        assert found.metrics[step] == pytest.approx({
            "pass_rate": metrics[step]["critic/score/mean"],  # rewards are 0 and 1
            **{name.removeprefix("actor/grail/"): value for name, value in metrics[step].items() if "grail" in name},
        })  # fmt: skip
    (events,) = (home / "tensorboard_log").glob("*/*")
    assert (shown := in_tensorboard(events)) and same(shown, drawn(home / "records", 2))
    check_against_rollouts(found.responses, home / "rollouts")
    check_against_attribution(found.responses, home)
    check_what_was_handed_over(home, entropy=True)

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


SHADOWING = """
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker

ActorRolloutRefWorker.actor_worker_cls = TrainingWorker
"""


@pytest.mark.sweep
def test_another_plugin_that_takes_the_actors_place_ends_the_run(home):
    (home / "shadowing.py").write_text(SHADOWING)
    done = main_ppo(home, "shadowing.jsonl", *FSDP2, "actor_rollout_ref.model.external_lib=shadowing")
    assert done.returncode != 0 and "came back without actor/grail/*" in done.stdout + done.stderr


TRAINERS = {
    "colocate_async": (["trainer.v1.trainer_mode=colocate_async"], True),
    "V0": (["trainer.use_v1=False"], False),
    "bypass_mode": (["algorithm.rollout_correction.bypass_mode=True"], False),
}


@pytest.mark.sweep
@pytest.mark.parametrize("name", [pytest.param(name, marks=LEGACY) if name == "V0" else name for name in TRAINERS])
def test_a_rule_sees_what_its_trainer_hands_over(home, name):
    """And where entropy is handed over, to score by it takes no pass."""
    overrides, entropy = TRAINERS[name]
    for rank in (0, 1):
        (home / f"seen-{rank}.jsonl").unlink(missing_ok=True)
    metrics = train(
        home, f"{name}.jsonl", *FSDP2, *WITNESSED, *overrides, "+algorithm.grail.score=entropy",
        "algorithm.norm_adv_by_std_in_grpo=False", "trainer.total_training_steps=1",
    )
    check_what_was_handed_over(home, entropy)
    assert (metrics[1]["actor/grail/saliency_rows"] == 0) == entropy


# Notes every tensor of a transfer, as the trainer's first rank sends it and as the server holds it afterwards.
TRANSFERS = """
import json
import zlib
from pathlib import Path
from wrapt import when_imported

def note(side, step, weights):
    sums = {name: zlib.crc32(weight.detach().numpy().tobytes()) for name, weight in weights}
    with open(Path(__file__).parent / f"{side}.jsonl", "a") as file:
        file.write(json.dumps([step, sums]) + "\\n")

@when_imported("grail_verl.cpu.transfer")
def sent(module):
    original = module.SocketCheckpointEngine.send_weights

    async def send_weights(self, weights, global_steps):
        weights = list(weights)
        if self.is_master:
            note("sent", global_steps, weights)
        await original(self, iter(weights), global_steps)

    module.SocketCheckpointEngine.send_weights = send_weights

@when_imported("grail_verl.cpu.rollout")
def held(module):
    original = module.GenerationServer.update_weights

    async def update_weights(self, weights, global_steps, last):
        await original(self, weights, global_steps, last)
        if last:
            note(f"held-{self.replica_rank}", global_steps, self.generator.model.state_dict().items())

    module.GenerationServer.update_weights = update_weights
"""

# name: (verl's overrides, the rank of the replica that stands alone)
SEPARATE = {
    # A policy for each mini-batch, all of them held against the one before the first.
    "two mini-batches to a transfer, a replica in each training worker, too": (
        ["trainer.v1.separate_async.parameter_sync_step=2", "data.train_batch_size=4", "trainer.test_freq=1"], 2
    ),
    "a transfer after each update, no other replica": (
        ["trainer.v1.separate_async.parameter_sync_step=1", "actor_rollout_ref.hybrid_engine=False"], 0
    ),
}  # fmt: skip


@pytest.mark.sweep
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.skipif(verl.__version__ == "0.9.0", reason="0.9.0 has a replica in each"))
        if "no other replica" in name
        else name
        for name in SEPARATE
    ],
)
def test_a_rollout_of_its_own_is_given_each_policy_and_lags_behind(home, name, tmp_path, monkeypatch):
    overrides, replica = SEPARATE[name]
    (tmp_path / "sitecustomize.py").write_text(TRANSFERS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    metrics = train(home, f"{name}.jsonl", *FSDP2, "trainer.v1.trainer_mode=separate_async", *overrides)
    check(metrics)  # among others: before the first transfer the old policy is the one that wrote the responses
    assert metrics[2]["training/off_policy/trajectory_staleness/min"] == 1
    sent, held = (
        dict(map(json.loads, (tmp_path / f"{side}.jsonl").read_text().splitlines()))
        for side in ("sent", f"held-{replica}")
    )
    assert sorted(sent) == [0, 1, 2] and held == sent
    assert sent[0] != sent[1] != sent[2]


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
