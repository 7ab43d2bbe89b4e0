"""Rules of one's own (`algorithm.grail.modules`) in verl's actor worker, on two ranks: by a pass of the model, by what
the batch holds, and in a module that is not there."""

import os
import subprocess
import sys
import textwrap

import harness
import pytest
import ranks
import tiny
import torch
from harness import Case
from omegaconf import OmegaConf

RULES = """
    import torch

    from grail_verl import Score, Weights, register_score, register_weights
    from grail_verl.credit.leaf import leaf_gradient


    @register_score("gradient_norm")
    class GradientNorm(Score):
        needs_answer = True
        model_pass = "gradient"

        def from_model(self, model, inputs, targets, recompute, loss_scale):
            def loss(output):
                return torch.nn.functional.cross_entropy(output.logits.float(), targets.labels_N, reduction="sum")

            _, gradient_BSD = leaf_gradient(model, inputs, targets.keep_BS, loss, "embeddings", recompute, loss_scale)
            return gradient_BSD.norm(dim=-1)


    @register_weights("mean_one")
    class MeanOne(Weights):
        def selected(self, batch):
            return batch.advantages_B > 0

        def token_weights(self, scores_BT, weighted_B, batch):
            own_BT = batch.response_mask_BT
            mean_B1 = (scores_BT * own_BT).sum(dim=-1, keepdim=True) / own_BT.sum(dim=-1, keepdim=True)
            return torch.where(weighted_B[:, None], scores_BT / mean_B1, 1.0)


    @register_weights("group")
    class Group(Weights):
        needs = frozenset({"groups", "rewards_B"})

        def token_weights(self, scores_BT, weighted_B, batch):
            everywhere = batch.of_all_ranks(batch.groups)
            size_B = torch.tensor([everywhere.count(group) for group in batch.groups])
            return (size_B + batch.rewards_B)[:, None].expand_as(scores_BT)
"""


def with_groups(rank: int):
    """Groups of four, two of them on each rank, and rewards, as verl's trainers hand them over."""
    from tensordict import NonTensorData, NonTensorStack

    data = harness.rollout(rank)
    data["uid"] = NonTensorStack(*[NonTensorData(f"prompt {row // 2}") for row in range(len(data))])
    data["rm_scores"] = torch.nested.as_nested_tensor(
        [torch.tensor([0.0] * (len(row) - 1) + [row_number / 4])[: len(row)]
         for row_number, row in enumerate(data["responses"].unbind())],
        layout=torch.jagged,
    )
    return data


def session(rank: int, folders: dict, rules: str) -> dict:
    found = {}
    modules = {"modules": f"[{rules}]"}
    worker = Case("tied", "fsdp2", {"score": "gradient_norm", "weights": "mean_one", **modules}).actor(folders, "grail")
    data = harness.rollout(1 - rank)
    found["metrics"] = worker.reweight_advantages(data)
    found["sums"] = [
        (sum(got), sum(before), got != before)
        for got, before in zip(
            (row.tolist() for row in data["advantages"].unbind()),
            (row.tolist() for row in harness.rollout(1 - rank)["advantages"].unbind()),
            strict=True,
        )
    ]
    worker = Case("tied", "fsdp2", {"score": "surprise", "weights": "group", **modules}).actor(folders, "grail")
    data = with_groups(rank)
    worker.reweight_advantages(data)
    found["grouped"] = [(row.tolist(), before.tolist()) for row, before in zip(
        data["advantages"].unbind(), harness.rollout(rank)["advantages"].unbind(), strict=True
    )]
    try:
        worker.reweight_advantages(harness.rollout(rank))
    except (ValueError, RuntimeError) as error:
        found["lacking"] = str(error)
    return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("own_rule")
    tiny.save_policy(folder / "tied")
    (folder / "rules.py").write_text(textwrap.dedent(RULES))
    return {"tied": str(folder / "tied"), "rules": str(folder / "rules.py")}


@pytest.fixture(scope="module")
def results(folders) -> list[dict]:
    return ranks.on_ranks(session, 2, {"tied": folders["tied"]}, folders["rules"])


def test_a_score_by_a_pass_and_weights_of_ones_own(results):
    """Those with an answer and an advantage above 0 are changed, and keep their sum."""
    for result in results:
        assert all(got == pytest.approx(before, abs=1e-5) for got, before, _ in result["sums"])
    assert [changed for *_, changed in results[0]["sums"]] == [True, True, True, False, False, True, False, False]
    assert not any(changed for *_, changed in results[1]["sums"])
    assert results[0]["metrics"] == pytest.approx(results[1]["metrics"]) and len(results[0]["metrics"]) == 12
    assert results[0]["metrics"]["grail/saliency_rows"] == 4


def test_a_rule_sees_groups_and_rewards(results):
    for result in results:
        for row, (got, before) in enumerate(result["grouped"]):
            reward = row / 4 if before else 0.0
            assert got == pytest.approx([(4 + reward) * value for value in before])


def test_a_trainer_that_does_not_hand_over_what_a_rule_needs_is_told_so(results):
    for result in results:
        assert "grail.weights=group need RolloutBatch.groups, which this trainer does not hand" in result["lacking"]


def test_a_module_that_is_not_on_a_workers_node_ends_it_with_its_name(folders):
    with pytest.raises((RuntimeError, TimeoutError)) as error:
        ranks.on_ranks(missing_on_a_worker, 1, {"tied": folders["tied"]}, folders["rules"])
    assert "algorithm.grail.modules: " in str(error.value) and "elsewhere.py cannot be used on" in str(error.value)


def missing_on_a_worker(rank: int, folders: dict, rules: str) -> None:
    """The config as the driver prepared it, with a file that is not there."""
    from verl.workers.engine_workers import ActorRolloutRefWorker

    config = ranks.actor_config(
        folders["tied"], "algorithm.adv_estimator=grail", f"+algorithm.grail.modules=[{rules}]",
        "+algorithm.grail.weights=mean_one",
    )
    options = OmegaConf.select(config, "..algorithm.grail")
    OmegaConf.set_readonly(options, False)
    options.modules = [rules.replace("rules.py", "elsewhere.py")]
    ActorRolloutRefWorker(config, role="actor").init_model()


@pytest.mark.parametrize(
    ("text", "option", "says"),
    [
        (None, "score=mine", "algorithm.grail.modules: {here}/rules.py cannot be used on"),
        (RULES, "std=0.1 +algorithm.grail.weights=mean_one", "algorithm.grail.std=0.1 has no effect with"),
    ],
)
def test_what_is_wrong_with_a_module_ends_the_command_before_ray_starts(tmp_path, text, option, says):
    if text is not None:
        (tmp_path / "rules.py").write_text(textwrap.dedent(text))
    run = subprocess.run(
        [
            sys.executable, "-m", "verl.trainer.main_ppo", "+grail=cpu", "algorithm.adv_estimator=grail",
            "+algorithm.grail.modules=[rules.py]", *f"+algorithm.grail.{option}".split(),
        ],
        capture_output=True, text=True, cwd=tmp_path, timeout=120, env={**os.environ, "HYDRA_FULL_ERROR": "0"},
    )
    assert run.returncode != 0 and says.format(here=tmp_path) in run.stderr, run.stderr[-2000:]
    assert "Started a local Ray instance" not in run.stdout + run.stderr
