"""The rollout server under verl's client for partial rollouts, with no Ray between the two; and with Ray a server that
dies."""

import asyncio
import os
import sys
import time
from types import SimpleNamespace

import pytest
import ray
import tiny
import torch
from hydra import compose, initialize_config_module
from test_cpu_generation import teacher_forced
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.rollout.llm_server import FullyAsyncLLMServerClient

from grail_verl.cpu.rollout import GenerationServer, end_with

LENGTH = 200


class Client(FullyAsyncLLMServerClient):
    def __init__(self, config, server: GenerationServer):
        super().__init__(config)
        self.server = SimpleNamespace(generate=SimpleNamespace(remote=server.generate))

    async def _acquire_server(self, request_id, **fields):
        return "the only one", self.server

    def _release_server(self, server_id, request_id=None):
        pass


def test_the_client_gets_one_response_across_an_update_of_the_policy(tmp_path):
    vocabulary = len(tiny.tokenizer())
    tiny.save_policy(tmp_path, vocabulary=vocabulary)
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", [
            "+grail=cpu", f"actor_rollout_ref.model.path={tmp_path}", "data.max_prompt_length=8",
            f"data.max_response_length={LENGTH}", "actor_rollout_ref.rollout.ignore_eos=True",
        ])
    settings = config.actor_rollout_ref
    server = GenerationServer(omega_conf_to_dataclass(settings.rollout), omega_conf_to_dataclass(settings.model), 0)
    policies = [tiny.model(vocabulary=vocabulary, seed=seed).eval() for seed in (0, 1)]
    prompt = [5, 6, 7]

    async def update(step: int):
        weights = {name: weight.numpy() for name, weight in policies[step].state_dict().items()}
        await server.update_weights(weights, step, last=True)

    async def generate():
        await update(0)
        asked = Client(config, server).generate("id", prompt_ids=prompt, sampling_params={"logprobs": True})
        response = asyncio.create_task(asked)
        while server.generator.batch is None:
            await asyncio.sleep(0.001)
        await server.abort_all_requests(reject_request=False)
        await update(1)
        await server.resume_generation()
        return await response

    output = asyncio.run(generate())
    assert len(output.token_ids) == LENGTH and output.stop_reason == "length"
    assert (output.extra_fields["min_global_steps"], output.extra_fields["max_global_steps"]) == (0, 1)
    before, after = (teacher_forced(policy, prompt, output.token_ids) for policy in policies)
    log_probs = torch.tensor(output.log_probs)
    begun = int(((log_probs - before).abs() < 1e-5).long().cumprod(0).sum())
    assert 0 < begun < LENGTH
    torch.testing.assert_close(log_probs[begun:], after[begun:], atol=1e-5, rtol=0)


class Idle(GenerationServer):
    """Without a model."""

    def __init__(self):
        pass


class Trainer:
    """In place of verl's TaskRunner, which waits for responses."""

    def run(self, server):
        end_with(server)
        time.sleep(60)


@pytest.mark.sweep
def test_the_trainer_ends_with_a_server_that_dies():
    """Here nothing else of its would tell."""
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}
    ray.init(num_cpus=2, include_dashboard=False, runtime_env=environment)
    try:
        server, trainer = ray.remote(Idle).remote(), ray.remote(Trainer).remote()
        running = trainer.run.remote(server)
        with pytest.raises(ray.exceptions.GetTimeoutError):
            ray.get(running, timeout=5)
        ray.kill(server)
        with pytest.raises(ray.exceptions.ActorDiedError):
            ray.get(running, timeout=30)
    finally:
        ray.shutdown()
