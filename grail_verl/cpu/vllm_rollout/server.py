"""verl's vLLM replica, and the actor that is its server, with a CPU's worker extension."""

import os

import ray
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

from grail_verl.cpu.vllm_rollout.adapter import run_id


class Server(vLLMHttpServer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        os.environ["VERL_RAY_JOB_ID"] = run_id()  # part of the name by which verl's worker extension finds its sender

    def _validate_configs(self) -> None:
        """verl's, before vLLM starts; ValueError for attention heads that vLLM would fail on with the first request."""
        super()._validate_configs()
        model, sizes = self.model_config.hf_config, CPUAttentionBackend.get_supported_head_sizes()
        size = getattr(model, "head_dim", None) or model.hidden_size // model.num_attention_heads
        if size not in sizes:
            raise ValueError(
                f"actor_rollout_ref.rollout.name=vllm on a CPU: the model's attention heads are of size {size}; "
                f"allowed: {', '.join(map(str, sizes))}"
            )

    def _get_worker_extension_cls(self) -> str:
        return "grail_verl.cpu.vllm_rollout.worker.WorkerExtension"


class Replica(vLLMReplica):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.server_class = ray.remote(Server)
