"""verl's FSDP and VeOmni engines on gloo ranks without an accelerator, against the plain model."""

import pytest
import ranks
import tiny
import torch
from lanes import VEOMNI

PADDED = "actor_rollout_ref.model.use_remove_padding=False"
OFFLOAD = "actor_rollout_ref.actor.fsdp_config.param_offload=True"
LORA = ["actor_rollout_ref.model.lora_rank=8", "actor_rollout_ref.model.lora.merge=True"]
NO_CHECKPOINTING = "actor_rollout_ref.model.enable_gradient_checkpointing=False"

UNTIED, MOE = {"tied": False}, {"architecture": "qwen3_moe"}

# name: (what the model is, ranks, strategy, verl's overrides)
CASES = {
    "fsdp": (UNTIED, 2, "fsdp", []),
    "fsdp2": ({}, 2, "fsdp2", [PADDED, NO_CHECKPOINTING]),
    "fsdp2, lora": (UNTIED, 2, "fsdp2", LORA),
    "fsdp, one rank": ({}, 1, "fsdp", [PADDED, OFFLOAD]),  # there is nowhere to offload to
    "fsdp2, one rank": (UNTIED, 1, "fsdp2", []),
    "veomni": ({}, 2, "veomni", []),
    "veomni, four ranks": (UNTIED, 4, "veomni", [PADDED, NO_CHECKPOINTING]),
    "veomni, qwen3_moe": (MOE, 2, "veomni", []),
}


def batch():
    responses = [[5, 6, 7, 8], [9] * 9, [10, 11], [12, 13, 14]]
    return tiny.rollout_batch(responses, [1.0, -1.0, 0.5, -0.5], return_model_output=True)


def received(engine) -> dict[str, torch.Tensor]:
    """The weights as a rollout gets them."""
    return {name: weight.detach().clone() for name, weight in engine.get_per_tensor_param()[0]}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def train_and_come_back(
    rank: int, policy: str, options: dict, folder: str, strategy: str, overrides: list[str]
) -> dict:
    """Log-probs, one update, a checkpoint, another update, the checkpoint again, and again another update."""
    worker = ranks.actor(
        policy, "algorithm.adv_estimator=grpo", f"actor_rollout_ref.actor.strategy={strategy}", *overrides
    )
    data = batch()
    log_probs = worker.infer_batch(data.clone())["log_probs"].unbind()
    before = received(worker.engine)
    worker.train_mini_batch(batch())
    worker.save_checkpoint(folder, None, 1, None)
    saved = received(worker.engine)
    worker.train_mini_batch(batch())
    twice = received(worker.engine)
    worker.load_checkpoint(folder, None, False)
    back = received(worker.engine)
    worker.train_mini_batch(batch())  # the optimizer's moments came back too, or this differs
    again = received(worker.engine)
    return {
        "log_probs": [row.tolist() for row in log_probs],
        "input_ids": [row.tolist() for row in data["input_ids"].unbind()],
        # Every rank gets the whole model under transformers' own names, ready for the rollout.
        "exported": same(before, dict(tiny.model(**options).state_dict())),
        "moved": not same(before, saved),
        "restored": same(saved, back) and not same(saved, twice),
        "resumed": same(twice, again),
    }


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=VEOMNI if CASES[name][2] == "veomni" else ()) for name in CASES]
)
def test_engine(name, tmp_path):
    options, world_size, strategy, overrides = CASES[name]
    policy = str(tmp_path / "policy")
    tiny.save_policy(policy, **options)
    model = tiny.model(**options).eval()
    checkpoint = str(tmp_path / "checkpoint")
    for answer in ranks.on_ranks(
        train_and_come_back, world_size, policy, options, checkpoint, strategy, overrides
    ):
        assert answer["exported"] and answer["moved"] and answer["restored"] and answer["resumed"]
        for ids, log_probs in zip(answer["input_ids"], answer["log_probs"], strict=True):
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, :-1]
            expected = logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None]).squeeze(1)
            # The last position of a row predicts what follows it in the batch: nothing.
            torch.testing.assert_close(torch.tensor(log_probs[:-1]), expected, atol=1e-5, rtol=0)
