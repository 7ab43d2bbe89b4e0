"""Truncated responses kept out of the loss: an agent loop of verl's, chosen by

    actor_rollout_ref.rollout.agent.default_agent_loop=mask_truncated_agent

First on the data's way, at the rollout, and whatever the advantage estimator: verl has no such setting. The response
mask of a response that ran into the length limit is 0 throughout. Its reward still counts in its group's mean, and its
row in the rows that Dr.GRPO divides by, as where TRL masks truncated completions. So that it can be graded, the mask of
zeros still knows what the policy wrote.
"""

import functools
from collections.abc import Collection
from typing import Any

from omegaconf import DictConfig
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, register
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.utils.fs import copy_to_local
from verl.utils.model import get_generation_config


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
        if is_truncated(output.response_ids, len(output.prompt_ids), self.config.actor_rollout_ref, self.tokenizer):
            output.response_mask = Untrained(output.response_mask)
        return output


def is_truncated(response_ids: list[int], prompt_length: int, config: DictConfig, tokenizer) -> bool:
    """It is as long as may be and its last token ends nothing (verl's servers tell either stop as "completed").

    Args:
        response_ids: of the response, without padding.
        prompt_length: in tokens.
        config: verl's `actor_rollout_ref`, which limits responses and names the model.
        tokenizer: the model's.
    """
    limit = config.rollout.response_length
    if config.rollout.max_model_len is not None:
        limit = min(limit, config.rollout.max_model_len - prompt_length)
    return len(response_ids) >= limit and response_ids[-1] not in end_tokens(config.model, tokenizer)


def end_tokens(model: DictConfig, tokenizer) -> Collection[int]:
    """Ids that end a response: what rollouts stop at, the tokenizer's end and those of the model's generation config;
    and padding, with which base models end that were shown their chat models' data."""
    path = model.get("hf_config_path") or model.path
    return {tokenizer.eos_token_id, tokenizer.pad_token_id, *_listed(path, model.get("trust_remote_code", False))}


@functools.cache  # asked for at every response
def _listed(path: str, trust_remote_code: bool) -> Collection[int]:
    """As verl's HFModelConfig finds them: without a generation config, those of the model's own config."""
    config = get_generation_config(copy_to_local(path), trust_remote_code)
    listed = None if config is None else config.eos_token_id
    return listed if isinstance(listed, list) else [listed]
