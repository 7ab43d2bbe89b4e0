"""What stands around the advantages in verl's update: GRAIL rescales them, whatever is done with them then.

One pair of workers on two ranks, GRAIL's and verl's own on advantages rescaled by hand, goes through one update for
each policy loss, aggregation and penalty; they must stay equal to the last bit. Then the other way round: with
another estimator, verl with the plugin against verl without.
"""

from functools import partial

import harness
import pytest
import ranks
import tiny
import torch
from harness import Case

ACTOR = "actor_rollout_ref.actor."
LOSSES = [
    *("vanilla", "dppo_tv", "dppo_kl", "gspo", "sapo", "gpg"),
    *("clip_cov", "kl_cov", "dro", "cispo", "bypass_mode"),
]
REFUSED = ["geo_mean"]  # test_loss.py
AGGREGATIONS = ["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean"]
AROUND = {
    **{f"loss {name}": [f"{ACTOR}policy_loss.loss_mode={name}"] for name in LOSSES},
    "loss dro": [f"{ACTOR}policy_loss.loss_mode=dro", f"{ACTOR}policy_loss.dro_beta=0.5"],
    "loss bypass_mode": [f"{ACTOR}policy_loss.loss_mode=bypass_mode", f"+{ACTOR}policy_loss.rollout_correction={{}}"],
    **{f"aggregation {name}": [f"{ACTOR}loss_agg_mode={name}"] for name in AGGREGATIONS},
    "KL loss": [f"{ACTOR}use_kl_loss=True", f"{ACTOR}kl_loss_coef=0.1"],
    "entropy bonus": [f"{ACTOR}entropy_coeff=0.01"],
    "clipping": [f"{ACTOR}clip_ratio_low=0.1", f"{ACTOR}clip_ratio_high=0.3"],
    "rollout correction": [],
}
CASE = Case("tied", "fsdp2")
# Rejected besides, as far as rollout correction did not: of rank 0, all of `\boxed{2}` behind `\boxed{1}`.
LAST_BOX = {0: [(1, column) for column in range(8, 13)]}


def rollout(rank: int, corrected: bool = False):
    """A batch with a reference's log-probs; if corrected, with importance weights and rejected tokens from verl's
    own rollout correction, as the V1 trainer puts them into the batch before advantages are computed. A box that is
    rejected whole is the answer."""
    from verl.protocol import DataProto
    from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_and_add_to_batch

    data = harness.rollout(rank, epochs=1, calculate_entropy=True)
    lengths, generator = data["responses"].offsets().diff().tolist(), torch.Generator().manual_seed(rank)

    def nested(values):
        return torch.nested.as_nested_tensor(list(values.split(lengths)), layout=torch.jagged)

    for name in ("ref_log_prob", "rollout_log_probs"):
        values = data["old_log_probs"].values()
        values = values + 0.3 * torch.randn(values.shape, generator=generator)
        data[name] = nested(values)
    if corrected:
        names = ("old_log_probs", "rollout_log_probs", "response_mask")
        batch = DataProto.from_dict({name: torch.nested.to_padded_tensor(data[name], 0) for name in names})
        settings = {"rollout_is": "token", "rollout_rs": "token_k1", "rollout_rs_threshold": "0.7_1.5"}
        batch, _ = compute_rollout_correction_and_add_to_batch(batch, settings)
        for row, column in LAST_BOX.get(rank, []):
            batch.batch["response_mask"][row, column] = 0
        inside_BT = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        for name in ("response_mask", "rollout_is_weights"):
            data[name] = nested(batch.batch[name][inside_BT])
        data["advantages"] = nested(data["advantages"].values() * data["response_mask"].values())
    return data


def session(rank: int, folders: dict) -> dict:
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.utils.losses import ppo_loss

    grail, plain = CASE.actor(folders, "grail"), CASE.actor(folders, "grpo")
    report = {}
    for name, overrides in AROUND.items():
        overrides = ["algorithm.adv_estimator=grail", *overrides]
        config = omega_conf_to_dataclass(ranks.actor_config(folders["tied"], *overrides).actor)
        for worker in (grail, plain):
            worker.set_loss_fn(partial(ppo_loss, config=config))
        hooked, by_hand, unweighted = (rollout(rank, corrected=name == "rollout correction") for _ in range(3))
        grail.reweight_advantages(by_hand)
        before = harness.shards(plain)
        for worker, data in ((grail, hooked), (plain, by_hand)):
            torch.manual_seed(rank)  # some losses draw the tokens they clip
            worker.train_mini_batch(data)
        one, other = harness.shards(grail), harness.shards(plain)
        report[name] = {
            "same": all(map(torch.equal, one, other)),
            "updated": not all(map(torch.equal, before, other)),
            "reweighted": not torch.equal(by_hand["advantages"].values(), unweighted["advantages"].values()),
        }
    return report


def corrected_rows(rank: int, folders: dict) -> dict:
    data = rollout(rank, corrected=True)
    expected = harness.expected_advantages(harness.plain_model(folders["tied"]), data, CASE.grail)
    importance, rejected = data["rollout_is_weights"].values().clone(), data["response_mask"].values() == 0
    CASE.actor(folders, "grail").reweight_advantages(data)
    return {
        "got": data["advantages"].values().tolist(),
        "expected": torch.cat(expected).tolist(),
        "rejected": rejected.tolist(),
        "importance untouched": torch.equal(data["rollout_is_weights"].values(), importance),
    }


def three_updates(rank: int, folders: dict) -> list[list]:
    """With another estimator: verl with the plugin, then with everything of the plugin's taken out of the way."""
    from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker

    with_plugin = CASE.actor(folders, "grpo")
    ActorRolloutRefWorker.actor_worker_cls = TrainingWorker
    without = CASE.actor(folders, "grpo")
    for step in range(3):
        for worker in (with_plugin, without):
            worker.train_mini_batch(harness.rollout(rank + 2 * step))
    return [[shard.tolist() for shard in harness.shards(worker)] for worker in (with_plugin, without)]


def everything(rank: int, folders: dict) -> dict:
    return {
        "around": session(rank, folders),
        "corrected": corrected_rows(rank, folders),
        "three updates": three_updates(rank, folders),
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("tied")
    tiny.save_policy(folder)
    return ranks.on_ranks(everything, 2, {"tied": str(folder)})


def test_every_policy_loss_of_verl_is_here():
    from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY

    assert sorted(LOSSES + REFUSED) == sorted(POLICY_LOSS_REGISTRY)


@pytest.mark.parametrize("name", AROUND)
def test_the_update_is_verls_on_rescaled_advantages(results, name):
    for result in results:
        assert result["around"][name] == {"same": True, "updated": True, "reweighted": True}


def test_importance_weights_stay_and_rejected_tokens_stay_rejected(results):
    """Their weights are those of a response whose mask leaves them out."""
    for result in results:
        case = result["corrected"]
        assert case["got"] == pytest.approx(case["expected"], rel=1e-5, abs=1e-7)
        assert case["importance untouched"]
        rejected = [value for value, out in zip(case["got"], case["rejected"], strict=True) if out]
        assert len(rejected) > 10 and not any(rejected)


def test_off_is_off_to_the_last_bit(results):
    for result in results:
        with_plugin, without = result["three updates"]
        assert with_plugin == without
