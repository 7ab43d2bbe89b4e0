"""Truncated responses kept out of the loss: an agent loop of verl's, chosen by

    actor_rollout_ref.rollout.agent.default_agent_loop=mask_truncated_agent

First on the data's way, at the rollout, and whatever the advantage estimator: verl has no such setting. The response
mask of a response that ran into the length limit is 0 throughout. Its reward still counts in its group's mean, and its
row in the rows that Dr.GRPO divides by, as where TRL masks truncated completions. So that it can be graded, the mask of
zeros still knows what the policy wrote.
"""

from collections.abc import Collection
from typing import Any

from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, register
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop


class Untrained(list):
    """A response mask of zeros, and the one in whose place it is."""

    def __init__(self, written: list[int]):
        super().__init__([0] * len(written))
        self.written = written


def written(response_mask: list[int]) -> list[int]:
    """1 for each token of the policy's, trained on or not."""
    return response_mask.written if isinstance(response_mask, Untrained) else response_mask


@register("mask_truncated_agent")
class MaskTruncatedAgentLoop(SingleTurnAgentLoop):
    """verl's single turn, in which the policy is not trained on a response without an end."""

    async def run(self, sampling_params: dict[str, Any], **kwargs) -> AgentLoopOutput:
        output = await super().run(sampling_params, **kwargs)
        ends = (self.tokenizer.eos_token_id, self.tokenizer.pad_token_id)
        if is_truncated(output.response_ids, self.response_length, ends):
            output.response_mask = Untrained(output.response_mask)
        return output


def is_truncated(response_ids: list[int], response_length: int, ends: Collection[int | None]) -> bool:
    """It is as long as may be and its last token ends nothing (verl's servers tell either stop as "completed")."""
    return len(response_ids) >= response_length and response_ids[-1] not in ends
