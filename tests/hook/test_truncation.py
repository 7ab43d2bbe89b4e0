"""The agent loop that keeps truncated responses out of the loss, as verl's agent loop worker builds and runs it.

The server is a stand-in that says what a test wants generated; recipes run the loop with a real one
(test_recipes_paper.py).
"""

import asyncio
from types import SimpleNamespace

import hydra
import pytest
import tiny
from composed import composed
from verl.experimental.agent_loop import agent_loop
from verl.utils.dataset.rl_dataset import RLHFDataset
from verl.workers.rollout.replica import TokenOutput

pytestmark = pytest.mark.fast

LIMIT = 6
TOKENIZER = tiny.tokenizer()
END, PAD = TOKENIZER.eos_token_id, TOKENIZER.pad_token_id


def run(name: str, token_ids: list[int]):
    async def generate(**request):
        return TokenOutput(token_ids=token_ids, log_probs=[-1.0] * len(token_ids), stop_reason="completed")

    async def one_turn():
        config = composed(f"actor_rollout_ref.rollout.response_length={LIMIT}", "actor_rollout_ref.rollout.name=vllm")
        loop = hydra.utils.instantiate(
            agent_loop._agent_loop_registry[name],
            trainer_config=agent_loop.DictConfigWrap(config),
            server_manager=SimpleNamespace(generate=generate),
            tokenizer=TOKENIZER,
            processor=None,
            hf_model_type="qwen3",
            dataset_cls=RLHFDataset,
            data_config=agent_loop.DictConfigWrap(config.data),
        )
        return await loop.run({"temperature": 1.0}, raw_prompt=[{"role": "user", "content": "3 + 4"}])

    return asyncio.run(one_turn())


@pytest.mark.parametrize(
    ("token_ids", "mask"),
    [
        ([5, 6, 7, END], [1, 1, 1, 1]),  # it ended
        ([5, 6, 7], [1, 1, 1]),  # at a stop string: short of the limit, so not cut off
        ([5, 6, 7, 8, 9, END], [1] * LIMIT),  # just in time
        ([5, 6, 7, 8, 9, PAD], [1] * LIMIT),  # base models end with what their chat models pad with
        ([5, 6, 7, 8, 9, 10], [0] * LIMIT),
        ([5, 6, 7, END, 9, 10], [0] * LIMIT),  # an end that was not taken for one
        ([5, 6, 7, 8, 9, 10, 11, 12], [0] * LIMIT),
    ],
)
def test_truncated_responses_are_masked_and_nothing_else_changes(token_ids, mask):
    plain, masking = (run(name, token_ids) for name in ("single_turn_agent", "mask_truncated_agent"))
    assert plain.response_mask == [1] * len(mask) and masking.response_mask == mask
    assert masking.response_ids == plain.response_ids == token_ids[:LIMIT]
    fields = {"response_mask", "metrics"}  # metrics are seconds
    assert masking.model_dump(exclude=fields) == plain.model_dump(exclude=fields)
