"""What the hook does beside its arithmetic, which test_matrix.py compares: metrics, weights of one, NaNs, an old policy
that is put back for a while."""

import harness
import pytest
import ranks
import tiny
import torch
from harness import Case

from grail_verl.credit.answer import AnswerLocator

WIDE = Case("tied", "fsdp")
ONES = Case("tied", "fsdp2", {"w_min": 1.0, "w_max": 1.0, "rollouts": "all"})


def second_mini_batch(rank: int, folders: dict, strategy: str) -> dict:
    """What V1 `separate_async` asks of a worker between two transfers: an update, old log-probs by the policy before
    it, another update."""
    from verl.experimental.separation.engine_workers import DetachActorWorker

    worker = DetachActorWorker(
        ranks.actor_config(
            folders["tied"], "algorithm.adv_estimator=grail", f"actor_rollout_ref.actor.strategy={strategy}",
            *[f"+algorithm.grail.{name}={value}" for name, value in WIDE.written.items()],
        ),
        role="actor",
    )  # fmt: skip
    worker.init_model()
    worker.save_model_to_cpu(0)
    old = ranks.full_parameters(worker.actor)
    worker.update_actor(harness.rollout(rank))
    new = ranks.full_parameters(worker.actor)
    worker.save_model_to_cpu(1)
    worker.restore_model_from_cpu(0)
    put_back = ranks.full_parameters(worker.actor)
    worker.restore_model_from_cpu(1)
    data = harness.rollout(rank)
    worker.actor.reweight_advantages(data)
    model = harness.plain_model(folders["tied"])
    by_old = harness.expected_advantages(model, harness.rollout(rank), WIDE.grail)
    model.load_state_dict(new)
    by_new = harness.expected_advantages(model, harness.rollout(rank), WIDE.grail)
    return {
        "old is old": all(torch.equal(put_back[name], old[name]) for name in old),
        "moved": not all(torch.equal(new[name], old[name]) for name in old),
        "got": data["advantages"].values().tolist(),
        "by the old policy": torch.cat(by_old).tolist(),
        "by the updated policy": torch.cat(by_new).tolist(),
    }


def session(rank: int, folders: dict) -> dict:
    """A batch's metrics; then weights that are all 1 beside GRPO; then a policy with a NaN in it; then an old one."""
    from verl.utils import tensordict_utils as tu

    expected = harness.expected_advantages(harness.plain_model(folders["tied"]), harness.rollout(rank), WIDE.grail)
    metrics = WIDE.actor(folders, "grail").reweight_advantages(harness.rollout(rank))

    grail, grpo = (ONES.actor(folders, estimator) for estimator in ("grail", "grpo"))
    start = harness.shards(grpo)
    for _ in range(2):
        grail.train_mini_batch(harness.rollout(rank))
        grpo.train_mini_batch(harness.rollout(rank))
    one, other = harness.shards(grail), harness.shards(grpo)

    broken = Case("tied", "fsdp2").actor(folders, "grail")
    with torch.no_grad():
        for name, parameter in broken.engine.module.named_parameters():
            if name == "model.layers.1.mlp.down_proj.weight":
                parameter.fill_(float("nan"))
    data = harness.rollout(rank)
    output = broken.train_mini_batch(data)
    return {
        "metrics": metrics,
        "expected": [row.tolist() for row in expected],
        "same": all(map(torch.equal, one, other)),
        "trained": not all(map(torch.equal, one, start)),
        "broken": {key: value for key, value in tu.get(output, "metrics").items() if "grail" in key},
        "broken advantages": [row.tolist() for row in data["advantages"].unbind()],
        "second mini-batch": {strategy: second_mini_batch(rank, folders, strategy) for strategy in ("fsdp", "fsdp2")},
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("tied")
    tiny.save_policy(folder)
    return ranks.on_ranks(session, 2, {"tied": str(folder)})


def test_metrics_count_over_both_ranks(results):
    """Against the expected advantages of both ranks put together."""
    mine, other = (result["metrics"] for result in results)
    assert mine == other
    ratios, scaled, plain = [], 0.0, 0.0
    for rank, result in enumerate(results):
        data = harness.rollout(rank)
        for row, expected in enumerate(result["expected"]):
            for value, before, valid in zip(
                expected, data["advantages"][row].tolist(), data["response_mask"][row].tolist(), strict=True
            ):
                scaled, plain = scaled + abs(value), plain + abs(before)
                if valid and before != 0:
                    ratios.append(value / before)
    weights = torch.tensor(ratios, dtype=torch.float64)
    assert mine["grail/weight_mean"] == pytest.approx(weights.mean().item(), rel=1e-5)
    assert mine["grail/weight_std"] == pytest.approx(weights.std(unbiased=False).item(), rel=1e-5)
    assert mine["grail/weight_min"] == pytest.approx(weights.min().item(), rel=1e-4)
    assert mine["grail/weight_max"] == pytest.approx(50.0)
    assert mine["grail/advantage_scale_ratio"] == pytest.approx(scaled / plain, rel=1e-5)
    assert mine["grail/answer_found_rate"] == pytest.approx(10 / 15)
    assert mine["grail/saliency_rows"] == 5  # wrong, with a complete box
    assert mine["grail/reweighted_rate"] == pytest.approx(5 / 15)
    assert mine["grail/nonfinite_rows"] == 0
    assert mine["grail/saliency_seconds"] > 0


def test_weights_of_one_train_to_grpos_parameters_to_the_last_bit(results):
    assert all(report["same"] and report["trained"] for report in results)


def test_scores_that_are_no_numbers_are_counted_and_training_goes_on(results):
    for rank, report in enumerate(results):
        assert report["broken"]["grail/nonfinite_rows"] == 5
        data = harness.rollout(rank)
        locator = AnswerLocator(tiny.tokenizer())
        for row, got in enumerate(report["broken advantages"]):
            span = locator.locate(data["responses"][row].tolist())
            before = data["advantages"][row].tolist()
            until = len(got) if span is None else span.start
            assert got[:until] == before[:until]  # weight 1
            if span is not None:
                content = slice(span.content_start, span.content_end)
                assert got[content] == [50.0 * value for value in before[content]]


@pytest.mark.parametrize("strategy", ["fsdp", "fsdp2"])
def test_the_old_policy_is_put_back_and_saliency_is_that_of_the_updated_one(results, strategy):
    reports = [result["second mini-batch"][strategy] for result in results]
    for report in reports:
        assert report["moved"] and report["old is old"]
        assert report["got"] == pytest.approx(report["by the updated policy"], rel=1e-5, abs=1e-5)
    assert any(report["got"] != pytest.approx(report["by the old policy"], rel=1e-2) for report in reports)
