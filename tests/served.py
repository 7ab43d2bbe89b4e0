"""A rollout of the CPU preset without a trainer: verl's replica in Ray, a training worker's adapter in this process.

For tests/test_vllm_server.py and benchmarks/rollout.py.
"""

import asyncio
import os
from itertools import count

import psutil
import ray
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.rollout.base import get_rollout_class
from verl.workers.rollout.replica import TokenOutput, get_rollout_replica_class


@ray.remote(num_gpus=0.5)
class Trainer:
    """In place of the training worker beside whose accelerator a server is put."""


class Served:
    """Starts Ray, where it does not run, and one replica of the rollout.

    Args:
        rollout: actor_rollout_ref.rollout.name.
        overrides: verl's; the model's path and the lengths are asked for.
    """

    def __init__(self, rollout: str, *overrides: str):
        with initialize_config_module("verl.trainer.config", version_base=None):
            config = compose("ppo_trainer", [
                "+grail=cpu", f"actor_rollout_ref.rollout.name={rollout}", *overrides,
            ])
        settings = config.actor_rollout_ref
        if not ray.is_initialized():
            environment = OmegaConf.to_container(config.ray_kwargs.ray_init.runtime_env)
            ray.init(num_gpus=1, num_cpus=8, include_dashboard=False, runtime_env=environment)
        self.replica = get_rollout_replica_class(rollout)(0, settings.rollout, settings.model, gpus_per_node=1)
        self._trainer = Trainer.remote()
        workers = type("WorkerGroup", (), {"workers": [self._trainer]})
        asyncio.run(self.replica.init_hybrid(workers))
        self.server = self.replica.servers[0]
        os.environ.update(RANK="0", RAY_LOCAL_WORLD_SIZE="1")  # of a training worker
        self.adapter = get_rollout_class(rollout)(
            omega_conf_to_dataclass(settings.rollout), omega_conf_to_dataclass(settings.model), device_mesh=None
        )
        self._requests = count()

    def update(self, weights, step: int | None = None) -> None:
        """Hand over (name, tensor) pairs, as after step `step` of training."""
        asyncio.run(self.adapter.update_weights(iter(weights), global_steps=step))

    def generate(self, prompts: list[list[int]], **sampling) -> list[TokenOutput]:
        """All at once, as an agent loop asks."""
        return ray.get([
            self.server.generate.remote(
                prompt_ids=prompt, sampling_params={"logprobs": True, **sampling}, request_id=str(next(self._requests))
            )
            for prompt in prompts
        ])

    def processes(self) -> list[psutil.Process]:
        """The server's, and those below it, the deepest last."""
        server = psutil.Process(ray.get(self.server.__ray_call__.remote(lambda _: os.getpid())))
        return [server, *server.children(recursive=True)]

    def stop(self) -> None:
        for actor in (self.server, self._trainer):
            ray.kill(actor)
