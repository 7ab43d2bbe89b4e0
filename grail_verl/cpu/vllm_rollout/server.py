"""verl's vLLM replica, and the actor that is its server, with a CPU's worker extension."""

import os

import ray
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica

from grail_verl.cpu.vllm_rollout.adapter import run_id


class Server(vLLMHttpServer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        os.environ["VERL_RAY_JOB_ID"] = run_id()  # part of the name by which verl's worker extension finds its sender

    def _get_worker_extension_cls(self) -> str:
        return "grail_verl.cpu.vllm_rollout.worker.WorkerExtension"


class Replica(vLLMReplica):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.server_class = ray.remote(Server)
