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
from transformers import GenerationConfig, Qwen3Config
from verl.experimental.agent_loop import agent_loop
from verl.utils.dataset.rl_dataset import RLHFDataset
from verl.workers.rollout.replica import TokenOutput

pytestmark = pytest.mark.fast

LIMIT = 6
TOKENIZER = tiny.tokenizer()
END, PAD = TOKENIZER.eos_token_id, TOKENIZER.pad_token_id


def run(name: str, token_ids: list[int], *overrides: str):
    async def generate(**request):
        return TokenOutput(token_ids=token_ids, log_probs=[-1.0] * len(token_ids), stop_reason="completed")

    async def one_turn():
        config = composed(
            f"actor_rollout_ref.rollout.response_length={LIMIT}", "actor_rollout_ref.rollout.name=vllm", *overrides
        )
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


@pytest.fixture(scope="module")
def policies(tmp_path_factory) -> dict[str, str]:
    """Models that say in one place or the other what ends a response, beside the tokenizer's end."""
    folders = {}
    for name, listed in {"generation config": 7, "its list": [END, 7, 8], "model's config": [8, 7]}.items():
        folder = tmp_path_factory.mktemp("policy")
        Qwen3Config(eos_token_id=listed if name == "model's config" else END).save_pretrained(folder)
        if name != "model's config":
            GenerationConfig(eos_token_id=listed).save_pretrained(folder)
        folders[name] = str(folder)
    return folders


@pytest.mark.parametrize("place", ["generation config", "its list", "model's config"])
def test_ends_that_only_the_model_knows_are_ends(policies, place):
    model = f"actor_rollout_ref.model.path={policies[place]}"
    assert run("mask_truncated_agent", [5, 6, 5, 6, 5, 7], model).response_mask == [1] * LIMIT
    assert run("mask_truncated_agent", [5, 6, 5, 6, 5, END], model).response_mask == [1] * LIMIT
    assert run("mask_truncated_agent", [5, 6, 5, 6, 7, 9], model).response_mask == [0] * LIMIT


def test_the_models_length_truncates_too():
    """Where prompt and response together reach it, the response is cut short of its own limit."""
    prompt = len(run("single_turn_agent", [5]).prompt_ids)
    room = f"actor_rollout_ref.rollout.max_model_len={prompt + 4}"
    assert run("mask_truncated_agent", [5, 6, 7, 8], room).response_mask == [0] * 4
    assert run("mask_truncated_agent", [5, 6, 7, END], room).response_mask == [1] * 4
    assert run("mask_truncated_agent", [5, 6, 7], room).response_mask == [1] * 3
