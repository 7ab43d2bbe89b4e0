"""What verl notes about each response of an evaluation, through its extension point for reward managers.

verl's dump of a validation has the response's text, but not which problem it answers, how many tokens it has or
whether it was cut off. Everything goes into one string: a number of its own would be bootstrapped by verl a
thousand times for each problem (15 ms each, minutes for all), and a string is left alone.
"""

import json

from transformers import GenerationConfig
from verl.protocol import DataProto

from grail_verl.hook.truncation import is_truncated
from grail_verl.reward.manager import PolicyRewardManager

FIELD = "grail_verl_evaluation"


class EvaluationRewardManager(PolicyRewardManager):
    """The reward's own manager, whose reward_extra_info is FIELD alone: a JSON object with the score function's values
    and benchmark, index, sample, response_tokens and truncated."""

    def __init__(self, config, tokenizer, compute_score, **options):
        super().__init__(config, tokenizer, compute_score, **options)
        self.end_tokens = _end_tokens(tokenizer, config.actor_rollout_ref.model.path)

    async def run_single(self, data: DataProto) -> dict:
        """Grades the last output of one session, whose response is padded on the right."""
        result = await super().run_single(data)
        item = data[-1]
        prompt_width = item.batch["prompts"].shape[-1]
        mask = item.batch["attention_mask"]
        tokens = int(mask[prompt_width:].sum())
        rollout = self.config.actor_rollout_ref.rollout
        limit = rollout.response_length
        if rollout.max_model_len is not None:
            limit = min(limit, rollout.max_model_len - int(mask[:prompt_width].sum()))
        index = item.non_tensor_batch["extra_info"]["index"]
        note = {
            **result["reward_extra_info"],
            "benchmark": item.non_tensor_batch["data_source"],
            "index": index if isinstance(index, str) else int(index),
            "sample": int(item.non_tensor_batch["session_id"]),
            "response_tokens": tokens,
            "truncated": is_truncated(item.batch["responses"][:tokens].tolist(), limit, self.end_tokens),
        }
        return {**result, "reward_extra_info": {FIELD: json.dumps(note)}}


def _end_tokens(tokenizer, model_path: str) -> set[int]:
    """Ids that end a response: those of the tokenizer and of the model's generation config, as in vLLM."""
    try:
        listed = GenerationConfig.from_pretrained(model_path).eos_token_id
    except OSError:  # a model without one
        listed = None
    ids = [tokenizer.eos_token_id, *(listed if isinstance(listed, list) else [listed])]
    return {token for token in ids if token is not None}
