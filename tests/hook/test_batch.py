"""verl's data as the rules of credit see it: who wrote a token, and what became of it."""

import pytest
import tiny
import torch
import verl  # noqa: F401  loads the plugin
from composed import composed
from legacy import LEGACY
from verl.protocol import DataProto
from verl.trainer.ppo import rollout_corr_helper
from verl.utils import tensordict_utils as tu
from verl.workers.utils.padding import left_right_2_no_padding

from grail_verl import AnswerLocator
from grail_verl.credit.batch import located
from grail_verl.hook.batch import read, written

pytestmark = pytest.mark.fast

TEXT = (r"\boxed{1} or ", r"\boxed{2}", r"? 2<|im_end|>")


def tokens() -> tuple[list[int], range]:
    """The response, and which of its tokens are the last box."""
    before, box, behind = map(tiny.tokenizer().encode, TEXT)
    return [*before, *box, *behind], range(len(before), len(before) + len(box))


def answers(data) -> list[tuple[int, int]]:
    batch = located(read(data, ranks=None), AnswerLocator(tiny.tokenizer()), written(data))
    assert not (batch.response_mask_BT & (batch.content_BT & ~batch.answer_BT)).any()
    return [(span.start, span.end) for span in batch.answers]


def test_a_box_that_was_rejected_is_the_answer_and_one_that_a_tool_wrote_is_not():
    """V1: rollout correction takes what it rejects out of `response_mask`, and leaves `loss_mask` alone."""
    ids, box = tokens()
    without = [int(t not in box) for t in range(len(ids))]
    data = tiny.rollout_batch([ids] * 3, [-1.0] * 3, [[1] * len(ids), [1] * len(ids), without])
    rejected = [torch.tensor(mask) for mask in ([1] * len(ids), without, without)]
    data["response_mask"] = torch.nested.as_nested_tensor(rejected, layout=torch.jagged)
    first = AnswerLocator(tiny.tokenizer(), "first").locate(ids)
    assert answers(data) == [(box.start, box.stop), (box.start, box.stop), (first.start, first.end)]
    assert written(data).sum(dim=-1).tolist() == [len(ids), len(ids), sum(without)]


@LEGACY
@pytest.mark.parametrize("estimator", ["grail", "grpo"])
def test_the_legacy_trainers_batch_keeps_what_rollout_correction_rejected(estimator):
    """V0, whose one mask is both: rejection by verl's own helper, then verl's own way into the worker."""
    ids, box = tokens()
    settings = composed(f"algorithm.adv_estimator={estimator}").algorithm.rollout_correction
    settings.rollout_rs, settings.rollout_rs_threshold = "token_k1", "0.5_2.0"
    padded = torch.tensor([[2, 3, *ids], [4, 5, *ids]])
    ones, old = torch.ones_like(padded), torch.full((2, len(ids)), -0.5)
    rollout_log_probs = old.clone()
    rollout_log_probs[0, box] = -5.0
    mask = torch.ones(2, len(ids), dtype=torch.long)
    mask[1, box] = 0  # a tool's
    batch = DataProto.from_dict(
        {
            "prompts": padded[:, :2],
            "responses": padded[:, 2:],
            "input_ids": padded,
            "attention_mask": ones,
            "position_ids": ones.cumsum(-1) - 1,
            "response_mask": mask,
            "old_log_probs": old,
            "advantages": -mask.float(),
            "rollout_log_probs": rollout_log_probs,
        }
    )
    batch, _ = rollout_corr_helper.compute_rollout_correction_and_add_to_batch(batch, settings)
    assert not batch.batch["response_mask"][0, box].any() and batch.batch["response_mask"][0].any()
    data = left_right_2_no_padding(batch.to_tensordict())
    tu.assign_non_tensor(data, temperature=1.0)
    first = AnswerLocator(tiny.tokenizer(), "first").locate(ids)
    if estimator == "grail":
        assert answers(data) == [(box.start, box.stop), (first.start, first.end)]
    else:
        assert written(data).equal(read(data, ranks=None).response_mask_BT)
