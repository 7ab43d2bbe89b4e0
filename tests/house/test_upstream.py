"""The faults of verl's in docs/upstream.md, each with nothing of ours around it. A test that fails here tells that verl
has mended one: then its workaround can go. What it would take a GPU or a run of main_ppo to see stands in its source.
"""

import ast
import importlib.util
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import verl  # noqa: F401  loads the plugin, whose patches keep what they wrap as __wrapped__
from composed import composed
from verl.protocol import DataProto
from verl.trainer.ppo import core_algos, ray_trainer
from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories
from verl.utils import activation_offload, distributed
from verl_source import Source

pytestmark = pytest.mark.fast

VLLM = "verl.workers.rollout.vllm_rollout."
FSDP = "verl.workers.engine.fsdp.transformer_impl.FSDPEngine."
VEOMNI = "verl.workers.engine.veomni.transformer_impl."

# name: (a function, class or module of verl's, what stands there, what would stand there if it were mended)
IN_SOURCE = {
    "a plugin that fails": ("verl", "debug(\"Failed to load plugin", "warning(\"Failed to load plugin"),
    "no mask for the reward": (
        "verl.experimental.agent_loop.agent_loop.AgentLoopWorker._compute_score", "'tool_extra_fields'",
        "response_mask",
    ),
    "a tool's text is graded": (
        "verl.experimental.reward_loop.reward_manager.naive.NaiveRewardManager.run_single", "tokenizer.decode(valid_re",
        "response_mask",
    ),
    "a reward that raises": (
        "verl.trainer.ppo.v1.agent_loop_tq.AgentLoopWorkerTQ._run_prompt", "'Error in _run_prompt", "raise",
    ),
    "a rejected token is a tool's": (
        "verl.trainer.ppo.rollout_corr_helper.compute_rollout_correction_and_add_to_batch",
        "batch.batch['response_mask'] = modified_response_mask", None,
    ),
    "cut off or ended": (VLLM + "vllm_async_server.vLLMHttpServer.generate", "reason in ('stop', 'length')", None),
    "numbers are bootstrapped": ("verl.trainer.ppo.metric_utils.bootstrap_metric", "n_bootstrap: int=1000", None),
    "a checkpoint runs code": (
        "verl.model_merger.fsdp_model_merger.FSDPModelMerger", "weights_only=False", "weights_only=True",
    ),
    "seconds between two looks": (
        "verl.trainer.ppo.v1.replay_buffer.ReplayBuffer.__init__", "poll_interval: float=2.0", None,
    ),
    "weights only from rank 0": (FSDP + "_build_fsdp_module", "sync_module_states=True", None),
    "merged weights are bf16": (FSDP + "_merged_lora_per_tensor_param", "to(torch.bfloat16", None),
    "a socket of Ray's job": (VLLM + "vllm_rollout.ServerAdapter.__init__", "get_job_id()", None),
    "a receiver that is gone": (VLLM + "bucketed_weight_transfer.BucketedWeightSender", "self.socket.recv()", "timeo"),
    "vllm by that name alone": ("verl.workers.rollout.vllm_rollout", "vllm_package_name = 'vllm'", None),
    "a copy that is none": ("verl.utils.fsdp_utils.fsdp2_sharded_save_to_cpu", "param.detach().cpu()", "clone()"),
    "a log call is given flush": ("verl.trainer.ppo.v1.trainer_separate_async", "flush=True", None),
    "eval_mode that trains": (VEOMNI + "EngineEvalModeCtx", "module.train()", "module.eval()"),
    "a precision without a name": (VEOMNI + "VeOmniEngine", "_is_offload_param", "_autocast_dtype"),
    "bf16 for VeOmni": (
        VEOMNI + "VeOmniEngine._build_model_optimizer", "MixedPrecisionConfig(enable=self.engine_config.mixed_p",
        "dtype=self",
    ),
    "experts one by one": (
        VEOMNI + "VeOmniEngine.get_per_tensor_param", "get_moe_param_handler(model_type, ps.ep_enabled)", None,
    ),
    "flash attention for critics": ("verl.utils.model", "attn_implementation='flash_attention_2'", None),
}  # fmt: skip


@pytest.fixture(scope="module")
def source() -> Source:
    return Source(Path(importlib.util.find_spec("verl").origin).parent, "verl")


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, marks=pytest.mark.skipif(verl.__version__ == "0.9.0", reason="that is 0.9.1's"))
        if fault == "a log call is given flush"
        else fault
        for fault in IN_SOURCE
    ],
)
def test_it_is_still_in_verls_source(source, fault):
    name, there, mended = IN_SOURCE[fault]
    text = ast.unparse(source.find(name).node)
    assert there in text and (mended is None or mended not in text)


def data_of(rewards: list[float]) -> DataProto:
    """One group."""
    rewards_B1 = torch.tensor(rewards)[:, None]
    fields = {"token_level_rewards": rewards_B1, "response_mask": torch.ones_like(rewards_B1)}
    return DataProto.from_dict(fields, {"uid": np.array(["a"] * len(rewards))})


def test_equal_rewards_have_an_advantage():
    data = ray_trainer.compute_advantage(data_of([0.3] * 8), "grpo", config=composed().algorithm)
    assert data.batch["advantages"].abs().min() > 0.02


def test_an_estimator_of_ones_own_is_not_told_whether_to_divide(monkeypatch):
    def estimator(token_level_rewards, response_mask, index, config, **others):
        assert not others and "norm_adv_by_std_in_grpo" not in others
        return token_level_rewards, token_level_rewards

    monkeypatch.setitem(core_algos.ADV_ESTIMATOR_REGISTRY, "own", estimator)
    ray_trainer.compute_advantage(
        data_of([1.0, 0.0]), "own", config=composed().algorithm, norm_adv_by_std_in_grpo=False
    )


def test_sessions_with_several_outputs_are_groups_of_grpos_alone(monkeypatch):
    """A response of two outputs, and one of one, in which GRPO of any other name counts three."""
    monkeypatch.setitem(core_algos.ADV_ESTIMATOR_REGISTRY, "own", core_algos.compute_grpo_outcome_advantage)
    named, other = (
        compute_advantage_for_multi_trajectories.__wrapped__(
            data_of([0.0, 1.0, 0.0]), batch_keys=["a_0_0", "a_0_1", "a_1_0"], adv_estimator=name,
            norm_adv_by_std_in_grpo=False, config=composed().algorithm,
        ).batch["advantages"][:, 0].tolist()
        for name in ("grpo", "own")
    )  # fmt: skip
    assert named == [0.5, 0.5, -0.5] and other != named


@pytest.fixture
def offloaded(monkeypatch) -> activation_offload.AsyncDoubleBufferGroupOffloadHandler:
    """verl's, which pins memory, of which a machine without a GPU has none."""
    handler = activation_offload.SynchronizedGroupOffloadHandler
    monkeypatch.setattr(handler, "offload", partial(handler.offload, pin_memory=False))
    return activation_offload.AsyncDoubleBufferGroupOffloadHandler(1, 1)


def brought_back(handler, activations: list[torch.Tensor]) -> list[torch.Tensor]:
    """Saved in a block's forward, asked for in its backward."""
    tags = [handler.tensor_push(activation) for activation in activations]
    handler.on_group_commit_forward()
    handler.on_group_commit_backward()
    return [handler.tensor_pop(tag) for tag in tags]


def test_an_offloaded_mask_comes_back_without_the_strides_that_its_kernel_needs(offloaded):
    mask_TT = torch.zeros(42, 44)[:, :42]
    assert brought_back(offloaded, [mask_TT])[0].stride() == (42, 1) != mask_TT.stride()


def test_of_two_views_that_are_offloaded_one_comes_back_in_the_others_order(offloaded):
    """Attention saves its output by heads, the layer behind it the same memory by tokens."""
    by_heads_HT = torch.arange(6.0).view(3, 2).T
    one, other = brought_back(offloaded, [by_heads_HT, by_heads_HT.T])
    assert torch.equal(one, by_heads_HT) and not torch.equal(other, by_heads_HT.T)


def test_a_device_named_cpu_is_named_twice(monkeypatch):
    """Which torch refuses."""
    backends = []
    monkeypatch.setattr(distributed, "get_device_name", lambda: "cpu")
    monkeypatch.setattr(distributed, "get_nccl_backend", lambda: "gloo")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **settings: backends.append(backend))
    original = distributed.initialize_global_process_group_ray
    getattr(original, "__wrapped__", original)()
    assert backends == ["cpu:gloo,cpu:gloo"]
    with pytest.raises(ValueError, match="[Dd]uplicate"):
        torch.distributed.distributed_c10d.BackendConfig(torch.distributed.Backend(backends[0]))
