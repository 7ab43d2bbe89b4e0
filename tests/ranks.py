"""Runs a function on several ranks, each with a real verl actor worker built from verl's own config."""

import copy
import functools
import os
import socket
import traceback

import torch
import torch.multiprocessing as mp

TIMEOUT_S = 600

ENGINE = "actor_rollout_ref.actor.fsdp_config."
# What the CPU preset sets for an actor, on a GPU.
ON_A_GPU = [
    "actor_rollout_ref.rollout.name=vllm",  # verl wants a name; an actor does not read it
    "+actor_rollout_ref.model.override_config.attn_implementation=sdpa",
    f"+{ENGINE}mixed_precision={{param_dtype:fp32,reduce_dtype:fp32,buffer_dtype:fp32}}",
    f"{ENGINE}use_torch_compile=False",
]

VEOMNI = "actor_rollout_ref.actor.strategy=veomni"  # whose engine's section takes the place of another one's


@functools.cache
def _composed(veomni: bool):
    """main_ppo's config with what all tests have in common, and the CPU preset of the engine on a CPU, or FSDP's on
    a GPU."""
    from hydra import compose, initialize_config_module
    from verl.utils.device import get_device_name

    if get_device_name() == "cpu":
        engine = ["+grail=cpu_veomni" if veomni else "+grail=cpu"]
    else:
        engine = ["model_engine=veomni"] if veomni else ON_A_GPU
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose(
            "ppo_trainer",
            [
                *engine,
                "actor_rollout_ref.model.lora.merge=True",  # for a CPU's rollout; an actor does not read it
                "algorithm.adv_estimator=grpo",
                "actor_rollout_ref.actor.optim.lr=1e-3",
                "actor_rollout_ref.actor.optim.total_training_steps=10",
                "actor_rollout_ref.actor.ppo_mini_batch_size=4",
                "actor_rollout_ref.actor.use_dynamic_bsz=True",
                "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz=True",
                "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=64",
            ],
        )


def actor_config(policy: str, *overrides: str):
    """verl's composed `actor_rollout_ref` section, as main_ppo hands it to the workers. Hydra composes once in a
    process, which takes it a second; overrides, read by its own parser, are put in afterwards."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    config = copy.deepcopy(_composed(VEOMNI in overrides))
    config.actor_rollout_ref.model.path = policy
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        OmegaConf.update(config, override.key_or_group, override.value(), force_add=override.is_add())
    validate_config(
        config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config)
    )
    return config.actor_rollout_ref


def actor(policy: str, *overrides: str):
    """The actor's TrainingWorker, built the way verl builds it, on this rank."""
    import verl  # noqa: F401  loads the plugin
    from verl.utils.device import get_torch_device
    from verl.workers.engine_workers import ActorRolloutRefWorker

    get_torch_device().set_device(int(os.environ["LOCAL_RANK"]))  # Ray shows a worker none but its own
    worker = ActorRolloutRefWorker(actor_config(policy, *overrides), role="actor")
    worker.init_model()
    return worker.actor


def full_parameters(worker) -> dict[str, torch.Tensor]:
    """The unsharded parameters, on every rank (a collective call)."""
    named, _ = worker.engine.get_per_tensor_param()
    return {name: tensor.detach().clone() for name, tensor in named}


def on_ranks(function, world_size: int, *args, threads: int = 1) -> list:
    """What function(rank, *args) returns on each of world_size ranks, each on so many CPU threads.

    Raises:
        RuntimeError: a rank failed; holds its traceback, if it had one.
        TimeoutError: a rank hangs.
    """
    context = mp.get_context("spawn")
    results = context.SimpleQueue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        context.Process(target=_run, args=(function, rank, world_size, port, threads, results, args), daemon=True)
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    answers = {}
    try:
        for _ in range(TIMEOUT_S * 10):
            while not results.empty():
                rank, answer, error = results.get()
                if error is not None:
                    raise RuntimeError(f"rank {rank}:\n{error}")
                answers[rank] = answer
            if len(answers) == world_size:
                return [answers[rank] for rank in range(world_size)]
            for process in processes:
                process.join(0.1 / world_size)
            crashed = [rank for rank, process in enumerate(processes) if (process.exitcode or 0) < 0]
            if crashed and results.empty():
                raise RuntimeError(f"ranks {crashed} were killed by a signal")
        raise TimeoutError(f"ranks {sorted(set(range(world_size)) - set(answers))} did not finish in {TIMEOUT_S} s")
    finally:
        for process in processes:
            process.kill()


def _run(function, rank, world_size, port, threads, results, args):
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_RANK=str(rank),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        OMP_NUM_THREADS=str(threads),
    )
    torch.set_num_threads(threads)
    try:
        results.put((rank, function(rank, *args), None))
    except BaseException:
        results.put((rank, None, traceback.format_exc()))
        raise
