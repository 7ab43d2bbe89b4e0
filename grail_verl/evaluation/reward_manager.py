"""What verl notes about each response of an evaluation, through its extension point for reward managers.

verl's dump of a validation has the response's text, but not which problem it answers, how many tokens it has or
whether it was cut off. Everything goes into one string: a number of its own would be bootstrapped by verl a
thousand times for each problem (15 ms each, minutes for all), and a string is left alone.
"""

import json

from verl.protocol import DataProto

from grail_verl.hook.truncation import is_truncated
from grail_verl.reward.manager import PolicyRewardManager

FIELD = "grail_verl_evaluation"


class EvaluationRewardManager(PolicyRewardManager):
    """The reward's own manager, whose reward_extra_info is FIELD alone: a JSON object with the score function's values
    and benchmark, index, sample, response_tokens and truncated."""

    async def run_single(self, data: DataProto) -> dict:
        """Grades the last output of one session, whose response is padded on the right."""
        result = await super().run_single(data)
        item = data[-1]
        prompt_width = item.batch["prompts"].shape[-1]
        mask = item.batch["attention_mask"]
        tokens = int(mask[prompt_width:].sum())
        response_ids, prompt_length = item.batch["responses"][:tokens].tolist(), int(mask[:prompt_width].sum())
        index = item.non_tensor_batch["extra_info"]["index"]
        note = {
            **result["reward_extra_info"],
            "benchmark": item.non_tensor_batch["data_source"],
            "index": index if isinstance(index, str) else int(index),
            "sample": int(item.non_tensor_batch["session_id"]),
            "response_tokens": tokens,
            "truncated": is_truncated(response_ids, prompt_length, self.config.actor_rollout_ref, self.tokenizer),
        }
        return {**result, "reward_extra_info": {FIELD: json.dumps(note)}}
