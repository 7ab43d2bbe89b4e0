"""The rollout `transformers` as verl sees it: a server, the replica that starts it, the worker's adapter.

    agent loop -> GenerationServer.generate -> generation.Generator -> TokenOutput
    worker -> ServerAdapter.update_weights -> GenerationServer.update_weights

The worker is one of training, or, where a replica stands alone (V1 `separate_async`), verl's CheckpointEngineWorker,
which transfer.py brings the weights to.

The server is a process of its own with its own, unwrapped copy of the model, overwritten after every update.
A CPU's memory is not partitioned between training and rollout, so there is nothing to do when verl puts the
rollout to sleep or wakes it up.
"""

import asyncio
import os
import sys
import time
import zlib
from collections import Counter
from concurrent.futures import Future

import ray
import torch
from transformers import AutoModelForCausalLM
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.device import get_device_name
from verl.utils.tokenizer import normalize_token_ids
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutMode, RolloutReplica, TokenOutput
from verl.workers.rollout.utils import ensure_async_iterator

from grail_verl.cpu.generation import Generator, Request

LAST_WORDS_SECONDS = 2.0  # for Ray to bring them to the terminal


def server_name(replica_rank: int) -> str:
    return f"transformers_server_{replica_rank}"


def stop_tokens(model_config) -> frozenset[int]:
    """Ids that end a response: the tokenizer's end of sequence and those of the model's generation config."""
    ids = [model_config.tokenizer.eos_token_id]
    listed = getattr(model_config.generation_config, "eos_token_id", None)
    ids += listed if isinstance(listed, list) else [listed]
    return frozenset(token for token in ids if token is not None)


class GenerationServer:
    """Ray actor that answers verl's token-in-token-out requests.

    Args:
        config: verl's RolloutConfig.
        model_config: verl's HFModelConfig.
        replica_rank: which of the replicas this is; each draws random numbers of its own.
    """

    def __init__(self, config, model_config, replica_rank: int):
        if config.logprobs_mode != "processed_logprobs":
            raise ValueError(
                f"rollout.logprobs_mode must be processed_logprobs, not {config.logprobs_mode!r}"
            )
        self.config, self.replica_rank = config, replica_rank
        self.global_steps: int | None = None
        self.stop = stop_tokens(model_config)
        self.asked: Counter[int] = Counter()
        model = AutoModelForCausalLM.from_pretrained(
            model_config.local_path,
            config=model_config.hf_config,
            dtype=getattr(torch, config.dtype),
            trust_remote_code=model_config.trust_remote_code,
        )
        self.names = set(model.state_dict())
        self.received: set[str] = set()
        vocab_size = len(model_config.tokenizer)
        self.generator = Generator(
            model.to(get_device_name()).eval(), vocab_size, config.max_num_seqs, config.max_num_batched_tokens
        )
        self.generator.start()

    async def ready(self) -> None:
        """Returns when the model is loaded."""

    async def lives(self) -> None:
        """Never returns."""
        await asyncio.Event().wait()

    async def generate(
        self, prompt_ids, sampling_params: dict, request_id: str, image_data=None, video_data=None
    ) -> TokenOutput:
        """One response, or its beginning: `abort_all_requests` ends it with the stop reason "aborted".

        Args:
            prompt_ids: token ids.
            sampling_params: vLLM's names; of those, the ones `_request` knows.

        Raises:
            ValueError: a prompt that leaves no room for an answer, images, or an unknown sampling parameter.
        """
        if image_data is not None or video_data is not None:
            raise ValueError("the transformers rollout generates from text only")
        request = self._request(normalize_token_ids(prompt_ids), dict(sampling_params))
        response = await asyncio.wrap_future(self.generator.submit(request))
        return TokenOutput(
            token_ids=response.tokens,
            log_probs=response.logprobs if sampling_params.get("logprobs") else None,
            stop_reason="aborted" if response.aborted else "completed",
            extra_fields={"global_steps": self.global_steps},
        )

    def _request(self, prompt: list[int], params: dict) -> Request:
        config = self.config
        room = config.prompt_length + config.response_length - len(prompt)
        if config.max_model_len is not None:
            room = min(room, config.max_model_len - len(prompt))
        if not prompt or room < 1:
            raise ValueError(f"a prompt of {len(prompt)} tokens leaves no room for an answer")
        params.pop("logprobs", None)
        limit = params.pop("max_tokens", None) or params.pop("max_new_tokens", None) or config.response_length
        stop = frozenset(params.pop("stop_token_ids", None) or ())
        if not params.pop("ignore_eos", config.ignore_eos):
            stop |= self.stop
        top_k = params.pop("top_k", -1)
        request = Request(
            prompt=prompt,
            max_tokens=min(limit, room),
            stop=stop,
            temperature=float(params.pop("temperature", 1.0)),
            top_k=top_k if top_k > 0 else torch.iinfo(torch.int64).max,
            top_p=float(params.pop("top_p", 1.0)),
            seed=self._seed(prompt),
        )
        if params.pop("repetition_penalty", 1.0) != 1.0 or params:
            raise ValueError(f"the transformers rollout knows no repetition_penalty and no {sorted(params)}")
        return request

    def _seed(self, prompt: list[int]) -> int:
        """The same for the k-th request with this prompt at this step of a run, in whatever order."""
        key = zlib.crc32(repr(prompt).encode())
        self.asked[key] += 1
        return hash((self.config.seed, self.replica_rank, self.global_steps or 0, key, self.asked[key]))

    async def abort_all_requests(self, reject_request: bool = False) -> None:
        """Ends responses that have begun. Until `resume_generation` other requests wait, or with `reject_request` are
        sent back at once as aborted, for verl to ask another replica."""
        await asyncio.to_thread(self.generator.pause, reject_request)

    async def resume_generation(self) -> None:
        await asyncio.to_thread(self.generator.resume)

    async def update_weights(self, weights: dict, global_steps: int | None, last: bool) -> None:
        """Take part of the policy's tensors; `last` closes the update, which must have covered the model.

        Args:
            weights: name -> float32 array.
            global_steps: the trainer's step that these weights belong to.
        """
        tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
        await asyncio.to_thread(self.generator.load_weights, tensors)
        self.received |= weights.keys()
        if last:
            if missing := self.names - self.received:
                raise RuntimeError(f"the trainer sent no weights for {sorted(missing)}")
            self.received.clear()
            self.asked.clear()
            self.global_steps = global_steps


def end_with(server) -> None:
    """Ends the actor that this process is, verl's TaskRunner, when the server's process has died; in a process of
    another kind nothing happens. verl's agent loop catches what a request raises then, and an asynchronous trainer,
    which may come to no update, draws other prompts for ever."""

    def end(lives: Future) -> None:
        print(f"grail_verl.cpu ends the run: {lives.exception()}", file=sys.stderr, flush=True)
        time.sleep(LAST_WORDS_SECONDS)
        os._exit(1)

    if ray.get_runtime_context().get_actor_id() is not None:
        server.lives.remote().future().add_done_callback(end)


class TransformersReplica(RolloutReplica):
    """Starts one GenerationServer per replica, on the node of its worker."""

    async def launch_servers(self) -> None:
        if self.rollout_mode is RolloutMode.COLOCATED or self.is_reward_model or self.is_teacher_model:
            raise NotImplementedError("the transformers rollout serves the policy only, no reward model and no teacher")
        node = await self.workers[0].__ray_call__.remote(
            lambda worker: ray.get_runtime_context().get_node_id()
        )
        server = (
            ray.remote(GenerationServer)
            .options(
                name=server_name(self.replica_rank),
                max_concurrency=self.max_concurrency,
                scheduling_strategy=ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
                    node, soft=False
                ),
            )
            .remote(self.config, omega_conf_to_dataclass(self.model_config), self.replica_rank)
        )
        await server.ready.remote()
        end_with(server)
        self.servers = [server]
        self._server_handle, self._server_address = server, server_name(self.replica_rank)

    async def sleep(self) -> None:
        pass

    async def wake_up(self) -> None:
        pass

    async def release_kv_cache(self) -> None:
        pass

    async def resume_kv_cache(self) -> None:
        pass


class ServerAdapter(BaseRollout):
    """In each worker of a replica, of training or its own: hands the policy's weights to that replica."""

    def __init__(self, config, model_config, device_mesh, replica_rank: int = -1):
        super().__init__(config, model_config, device_mesh)
        self.replica_rank = int(os.environ["RANK"]) if replica_rank == -1 else replica_rank

    async def update_weights(
        self, weights, global_steps: int | None = None, peft_config=None, **kwargs
    ) -> None:
        """Send (name, tensor) pairs, in pieces of rollout.checkpoint_engine.update_weights_bucket_megabytes.

        In training every rank has a server and so walks through the whole generator, which it must: gathering a
        sharded parameter takes all of them.
        """
        if peft_config is not None:
            raise NotImplementedError("the transformers rollout needs LoRA merged: model.lora.merge=True")
        server = ray.get_actor(server_name(self.replica_rank))
        room = self.config.checkpoint_engine.update_weights_bucket_megabytes << 20
        bucket, size = {}, 0
        async for name, weight in ensure_async_iterator(weights):
            if size + 4 * weight.numel() > room and bucket:
                await server.update_weights.remote(bucket, global_steps, last=False)
                bucket, size = {}, 0
            # float32 holds bf16 and fp16 exactly, and is known to numpy, which Ray sends without a copy.
            bucket[name] = weight.detach().float().numpy()
            size += 4 * weight.numel()
        await server.update_weights.remote(bucket, global_steps, last=True)

    async def resume(self, tags: list[str]) -> None:
        pass

    async def release(self) -> None:
        pass
