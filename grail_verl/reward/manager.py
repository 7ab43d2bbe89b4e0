"""verl's reward manager, grading only what the policy wrote, and ending the run when that fails.

On the data's way: response → *policy's tokens* → reward. In a conversation with tools verl decodes the whole response,
what a tool wrote included, and a tool that writes a box would be graded. Here tokens with response_mask 0 are left out,
so that the answer graded is the one that GRAIL weighs.

verl's agent loop gives a reward worker no mask; hook/patches.py puts it where `run_single` finds it.
"""

import torch
from tensordict import TensorDict
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager
from verl.protocol import DataProto

from grail_verl.printable import told
from grail_verl.reward import ending

MASK = "grail_verl_response_mask"  # among the fields that an agent loop sends to a reward worker


class PolicyRewardManager(NaiveRewardManager):
    """What `reward.custom_reward_function.path=pkg://grail_verl.reward` makes of verl's default, `naive`."""

    async def run_single(self, data: DataProto) -> dict:
        """Grades the last output of one session.

        Raises:
            RuntimeError: the score function raised. The run ends, whoever catches this.
        """
        try:
            return await super().run_single(policy_tokens(data[-1:]))
        except Exception as error:
            ending.tell(told(error))
            raise RuntimeError("grail_verl.reward cannot grade, the run ends") from error


def policy_tokens(data: DataProto) -> DataProto:
    """One response without the tokens that the policy did not write."""
    fields = data.non_tensor_batch.get("tool_extra_fields")
    mask = None if fields is None else fields[0].get(MASK)
    if mask is None and "response_mask" in list(data.batch.keys()):
        mask = data.batch["response_mask"][0].tolist()
    if mask is None:
        return data
    columns = dict(data.non_tensor_batch)
    if fields is not None:
        columns["tool_extra_fields"] = fields.copy()
        columns["tool_extra_fields"][0] = {name: value for name, value in fields[0].items() if name != MASK}
    prompts, responses = data.batch["prompts"], data.batch["responses"]
    attended = data.batch["attention_mask"][0, prompts.shape[-1] :].bool()
    own = torch.tensor(mask, dtype=torch.bool)
    own = torch.nn.functional.pad(own, (0, responses.shape[-1] - len(own))) & attended
    left = responses[:, own]
    # verl reads the response's length off the end of the attention mask: a token to read it from must be there.
    left = torch.nn.functional.pad(left, (0, 1))
    attention = torch.nn.functional.pad(data.batch["attention_mask"][:, : prompts.shape[-1]], (0, left.shape[-1]))
    attention[:, prompts.shape[-1] : -1] = 1
    batch = TensorDict({"prompts": prompts, "responses": left, "attention_mask": attention}, batch_size=1)
    return DataProto(batch, columns, data.meta_info)
