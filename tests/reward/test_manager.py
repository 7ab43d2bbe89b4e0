"""The reward manager grades what the policy wrote, and a fault of the reward ends the run."""

import asyncio
import os
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("math_verify")

from composed import composed
from tensordict import TensorDict
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput, AgentLoopWorker
from verl.protocol import DataProto
from verl.tools.function_tool import FUNCTION_TOOL_REGISTRY, function_tool
from verl.utils.dataset.rl_dataset import RLHFDataset
from verl.workers.rollout.replica import TokenOutput

from grail_verl.credit.answer import AnswerLocator
from grail_verl.reward import compute_score, ending
from grail_verl.reward.manager import MASK, PolicyRewardManager, policy_tokens

TOKENIZER = tiny.tokenizer()


def response(*pieces: tuple[str, int], truth="7", mask=True) -> DataProto:
    """Text and who wrote it: 1 the policy, 0 a tool; as verl's agent loop sends it to a reward worker."""
    ids, masks = [], []
    for text, own in pieces:
        encoded = TOKENIZER.encode(text)
        ids += encoded
        masks += [own] * len(encoded)
    prompts = torch.tensor([[3, 4, 5]])
    tensors = {
        "prompts": prompts,
        "responses": torch.tensor([ids], dtype=torch.int64),
        "attention_mask": torch.ones(1, 3 + len(ids), dtype=torch.int64),
    }
    columns = {
        "data_source": ["tools"],
        "reward_model": [{"ground_truth": truth}],
        "extra_info": [{"index": 0}],
        "tool_extra_fields": [{"turn_scores": [], **({MASK: masks} if mask else {})}],
    }
    arrays = {}
    for name, column in columns.items():
        arrays[name] = np.empty(1, dtype=object)
        arrays[name][:] = column
    return DataProto(TensorDict(tensors, 1), arrays)


def graded(data: DataProto) -> dict:
    async def run():
        manager = PolicyRewardManager(SimpleNamespace(), TOKENIZER, compute_score)
        manager.loop = asyncio.get_running_loop()
        return await manager.run_single(data)

    return asyncio.run(run())["reward_extra_info"]


TOOL_ANSWERS = (r"I ask. ", 1), (r"It is \boxed{7}.", 0)


@pytest.mark.parametrize(
    "pieces, score, found",
    [
        ([(r"So \boxed{7}", 1)], 1, 1),
        (TOOL_ANSWERS, 0, 0),
        ([(r"So \boxed{6}. ", 1), (r"\boxed{7}", 0)], 0, 1),
        ([(r"So \boxed{7}. ", 1), (r"\boxed{6}", 0)], 1, 1),
        ([(r"\boxed{6}", 0), (r" So \boxed{7}. ", 1)], 1, 1),
        ([(r"So \boxed{", 1), ("7", 0), ("}", 1)], 0, 1),
        ([(r"\boxed{7}", 0)], 0, 0),
    ],
)
def test_what_a_tool_wrote_is_not_graded(pieces, score, found):
    info = graded(response(*pieces))
    assert (info["score"], info["answer_found"]) == (score, found)


def test_without_a_mask_all_is_the_policys():
    assert graded(response(*TOOL_ANSWERS, mask=False))["score"] == 1.0


def test_the_mask_goes_no_further():
    data = response((r"So \boxed{7}", 1))
    graded(data)
    assert MASK in data.non_tensor_batch["tool_extra_fields"][0]
    assert MASK not in policy_tokens(data).non_tensor_batch["tool_extra_fields"][0]
    assert MASK not in data.non_tensor_batch["extra_info"][0]


PIECES = st.lists(st.tuples(st.sampled_from([r"\boxed{6}", r"\boxed{7}", r"\boxed{8}", "so ", "it is 4. "]),
                            st.integers(0, 1)), min_size=1, max_size=8)  # fmt: skip


@given(PIECES)
def test_the_answer_graded_is_the_one_that_grail_weighs(pieces):
    data = response(*pieces)
    ids, mask = data.batch["responses"][0].tolist(), data.non_tensor_batch["tool_extra_fields"][0][MASK]
    span = AnswerLocator(TOKENIZER).locate(ids, mask)
    left = policy_tokens(data)
    kept = left.batch["responses"][0][left.batch["attention_mask"][0, 3:].bool()].tolist()
    own = AnswerLocator(TOKENIZER).locate(kept)
    assert (span is None) == (own is None)
    if span is not None:
        assert ids[span.start : span.end] == kept[own.start : own.end]


def test_a_fault_is_raised_with_its_reason():
    with pytest.raises(RuntimeError, match="cannot grade") as told:
        graded(response((r"\boxed{7}", 1), truth=""))
    assert "ground_truth of data source 'tools' is empty" in str(told.value.__cause__)


@pytest.mark.parametrize("text", ["half of a character: \ud800", None])
def test_a_fault_whose_text_cannot_be_encoded_or_had_ends_the_run_too(text, monkeypatch):
    """What would go to Ray's key-value store, in bytes."""

    class Fault(Exception):
        def __str__(self):
            if text is None:
                raise KeyError("text")
            return text

    async def run():
        manager = PolicyRewardManager(SimpleNamespace(), TOKENIZER, compute_score)
        manager.loop = asyncio.get_running_loop()
        manager.compute_score = fail
        return await manager.run_single(response((r"\boxed{7}", 1)))

    def fail(**given):
        raise fault

    fault, reasons = Fault(), []
    monkeypatch.setattr(ending, "tell", lambda reason: reasons.append(reason.encode()))
    with pytest.raises(RuntimeError, match="cannot grade") as raised:
        asyncio.run(run())
    assert raised.value.__cause__ is fault
    assert len(reasons) == 1 and reasons[0].startswith(b"Fault: ")


@pytest.mark.end_to_end
def test_a_fault_in_a_worker_ends_the_process_that_started_ray():
    """Whatever it is waiting for: here for a task that never ends."""
    script = """
        import time, ray
        from grail_verl.reward import ending
        ending.watch()
        ray.init(num_cpus=2, include_dashboard=False)
        @ray.remote
        def fail():
            from grail_verl.reward import ending
            ending.tell("no grader today")
            ending.tell("another reason")
            time.sleep(600)
        ray.get(fail.remote())
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "grail_verl.reward ends the run: no grader today" in done.stderr


async def graded_here(data: DataProto) -> dict:
    manager = PolicyRewardManager(SimpleNamespace(), TOKENIZER, compute_score)
    manager.loop = asyncio.get_running_loop()
    return await manager.run_single(data)


def agent_loop_worker(reward: str | None, *overrides: str):
    """verl's own AgentLoopWorker, whose reward worker is called without Ray."""
    worker = AgentLoopWorker.__new__(AgentLoopWorker)
    worker.config = composed(f"reward.custom_reward_function.path={reward or 'null'}", *overrides)
    worker.rollout_config = worker.config.actor_rollout_ref.rollout
    worker.tokenizer, worker.processor, worker.mm_processor_kwargs = TOKENIZER, None, {}
    worker.hf_model_type, worker.dataset_cls, worker.distillation_enabled = "qwen3", RLHFDataset, False
    worker.reward_loop_worker_handles = [SimpleNamespace(compute_score=SimpleNamespace(remote=graded_here))]
    return worker


COLUMNS = {"data_source": "tools", "reward_model": {"ground_truth": "7"}, "extra_info": {"index": 0}}


@pytest.mark.parametrize("path, score", [("pkg://grail_verl.reward", 0.0), (None, 1.0)])
def test_verls_agent_loop_hands_over_the_mask(path, score):
    """Another reward is left as verl has it."""
    sent = response((r"I ask. ", 1), (r"It is \boxed{7}.", 0))
    output = AgentLoopOutput(
        prompt_ids=[3, 4, 5],
        response_ids=sent.batch["responses"][0].tolist(),
        response_mask=sent.non_tensor_batch["tool_extra_fields"][0][MASK],
        metrics=AgentLoopMetrics(),
    )
    asyncio.run(agent_loop_worker(path)._compute_score([output], kwargs=COLUMNS))
    assert output.reward_score == score
    assert MASK not in output.extra_fields


def rolled_out(agent: str, reward: str | None, turns: list[str], *overrides: str):
    """A response of verl's own agent loop, with a stand-in for the server that says the policy's turns."""
    said = iter(turns)

    async def generate(**request):
        ids = TOKENIZER.encode(next(said))
        return TokenOutput(token_ids=ids, log_probs=[-1.0] * len(ids), stop_reason="completed")

    async def run():
        worker = agent_loop_worker(reward, "actor_rollout_ref.rollout.name=vllm", *overrides)
        worker.llm_client, worker.tools = SimpleNamespace(generate=generate), [FUNCTION_TOOL_REGISTRY["oracle"]]
        trajectory = {"step": 0, "sample_index": 0, "rollout_n": 0, "validate": False}
        prompt = [{"role": "user", "content": "3 + 4"}]
        return await worker._run_agent_loop({}, trajectory, agent_name=agent, trace=False, raw_prompt=prompt, **COLUMNS)

    return asyncio.run(run())


@function_tool
def oracle() -> str:
    """Knows the truth, and boxes it."""
    return r"It is \boxed{7}."


ASKS = '<tool_call>{"name": "oracle", "arguments": {}}</tool_call><|im_end|>'


@pytest.mark.parametrize(
    "reward, last, score",
    [
        ("pkg://grail_verl.reward", "Thanks.<|im_end|>", 0.0),
        ("pkg://grail_verl.reward", r"So \boxed{7}<|im_end|>", 1.0),
        (None, "Thanks.<|im_end|>", 1.0),  # as verl grades: the tool's box
    ],
)
def test_a_tool_that_boxes_the_truth_earns_nothing(reward, last, score):
    """verl's own tool agent, with a tool of verl's."""
    output = rolled_out("tool_agent", reward, [ASKS, last], "actor_rollout_ref.rollout.multi_turn.enable=True")
    text = TOKENIZER.decode(output.response_ids[0])
    assert r"It is \boxed{7}." in text and text.index("oracle") < text.index("It is")
    assert output.reward_score == score


def test_a_truncated_response_is_graded_all_the_same():
    """mask_truncated_agent keeps it out of the loss, not out of its group's mean."""
    said = r"So \boxed{7}. " + "3 + 4 = 7, so " * 20
    output = rolled_out(
        "mask_truncated_agent", "pkg://grail_verl.reward", [said], "actor_rollout_ref.rollout.response_length=48"
    )
    assert not output.response_mask.any()
    assert output.reward_score == 1.0
