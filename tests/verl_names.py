"""Whether a verl has every name that the plugin relies on, told in seconds and without running any of it.

    python tests/verl_names.py                   # the installed verl
    python tests/verl_names.py FOLDER            # another one's package, as of `pip install --no-deps --target`

What the plugin's source says by itself is read off it (verl_uses.py): imports, attributes, arguments of calls, what its
subclasses override and call, what patches replace, keys of the config that are read, and those that presets set. The
tables below add what only running it would show.
"""

import argparse
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from verl_source import Signature, Source, Thing
from verl_uses import CONFIG, Use, Uses, modules

ROOT = Path(__file__).parents[1]
PACKAGES = (ROOT / "grail_verl", ROOT / "hydra_plugins" / "grail_verl")

ENGINE = "verl.workers.engine.fsdp.transformer_impl.FSDPEngineWithLMHead"

# Names of ours for an object of verl's that our source does not say the class of.
STANDS_FOR = {
    **{("grail_verl.hook." + module, "engine"): ENGINE for module in ("engine_pass", "packing", "dump")},
    ("grail_verl.hook.worker", "self.engine"): ENGINE,
    ("grail_verl.hook.truncation", "output"): "verl.experimental.agent_loop.agent_loop.AgentLoopOutput",
    ("grail_verl.hook.truncation", "self.config"): CONFIG,
    ("grail_verl.cpu.rollout", "config"): "verl.workers.config.RolloutConfig",
    ("grail_verl.cpu.rollout", "model_config"): "verl.workers.config.HFModelConfig",
}

# Of functions that are given a part of the config.
SECTIONS = {
    ("grail_verl.hook.launch", "is_prepared"): "algorithm",
    ("grail_verl.hook.launch", "require_prepared"): "algorithm",
    ("grail_verl.hook.estimator", "compute_grail_advantage"): "algorithm",
    ("grail_verl.hook.truncation", "is_truncated"): "actor_rollout_ref",
    ("grail_verl.hook.truncation", "end_tokens"): "actor_rollout_ref.model",
}

# What verl has to have although no line of ours names it there: attributes that are read by a name made at run time,
# or set and read by both.
EXPECTED = (
    *(f"{ENGINE}.engine_config.{name}" for name in ("use_remove_padding", "use_fused_kernels", "use_dynamic_bsz")),
    *(
        f"{ENGINE}.engine_config.{infer}{name}"
        for infer in ("", "infer_")
        for name in ("max_token_len_per_gpu", "micro_batch_size_per_gpu")
    ),
    "verl.utils.tracking.Tracking.logger",
    "verl.utils.tracking._TensorboardAdapter.writer",
    f"{ENGINE}.checkpoint_manager",
    f"{ENGINE}.lr_scheduler",
    "verl.workers.engine_workers.TrainingWorker.engine",
    "verl.workers.engine_workers.ActorRolloutRefWorker.config",
    "verl.workers.rollout.vllm_rollout.vllm_rollout.ServerAdapter.zmq_handle",
    "verl.trainer.main_ppo.main",
    "verl.model_merger.__main__.main",
    "verl.trainer.ppo.core_algos.AdvantageEstimator.GRPO",
    f"{CONFIG}.actor_rollout_ref.rollout.data_parallel_size",
    f"{CONFIG}.actor_rollout_ref.rollout.pipeline_model_parallel_size",
    f"{CONFIG}.actor_rollout_ref.rollout.agent.default_agent_loop",
    f"{CONFIG}.trainer.validation_data_dir",
)

# Texts and names that have to stand somewhere in a function, class or module of verl's, between blanks here: keys of
# data and of registries, variables of the environment, names of files, options of commands, calls across processes.
MENTIONS = {
    "verl": "verl.plugins VERL_USE_EXTERNAL_PLUGINS",
    "verl.plugin.platform.platform_manager": "VERL_PLATFORM",
    "verl.workers.engine.fsdp.transformer_impl": "language_model fsdp fsdp2",
    "verl.workers.engine.veomni.transformer_impl": "language_model veomni",
    f"{ENGINE}.prepare_model_inputs": "input_ids position_ids temperature use_remove_padding use_fused_kernels "
    "pad_token_id",
    f"{ENGINE}.forward_step": "_autocast_dtype autocast",
    "verl.workers.engine_workers.ActorRolloutRefWorker": "actor_worker_cls ppo_loss config",
    "verl.workers.engine_workers.TrainingWorker.train_mini_batch": "metrics epochs mini_batch_size",
    "verl.workers.utils.losses.ppo_loss": "advantages old_log_probs response_mask ref_log_prob dp_size "
    "batch_num_tokens global_batch_size",
    "verl.trainer.ppo.ray_trainer.compute_advantage": "token_level_rewards response_mask config index",
    "verl.trainer.ppo.ray_trainer.RayPPOTrainer._update_actor": "actor/ temperature metrics",
    "verl.trainer.ppo.v1.trainer_base.PPOTrainer._update_actor": "actor/ temperature extra_info",
    "verl.trainer.ppo.v1.trainer_base.PPOTrainer": "rm_scores entropy old_log_probs advantages uid",
    "verl.trainer.ppo.v1.agent_loop_tq": "loss_mask response_mask prompts responses position_ids",
    "verl.trainer.ppo.v1.utils.compute_advantage_for_multi_trajectories": "GRPO adv_estimator",
    "verl.trainer.ppo.reward.resolve_reward_manager_cls": "register importlib module",
    "verl.experimental.reward_loop.reward_manager.naive": "naive tool_extra_fields attention_mask",
    "verl.experimental.agent_loop.agent_loop.AgentLoopWorker._compute_score": "extra_fields tool_extra_fields",
    "verl.workers.rollout.vllm_rollout.utils": "VERL_RAY_JOB_ID",
    "verl.workers.rollout.vllm_rollout.vllm_rollout.ServerAdapter": "update_weights_from_ipc",
    "verl.utils.tracking": "VERL_FILE_LOGGER_PATH VERL_FILE_LOGGER_ROOT",
    "verl.utils.tracking.Tracking.__init__": "tensorboard wandb",
    "verl.trainer.ppo.v1.trainer_base.PPOTrainer.fit": "Tracking config to_container logger log data step",
    "verl.trainer.ppo.ray_trainer.RayPPOTrainer.fit": "Tracking config to_container logger log data step",
    "verl.trainer.ppo.v1.trainer_separate_async": "save_model_to_cpu restore_model_from_cpu logger",
    "verl.experimental.separation.engine_workers.DetachActorWorker": "fsdp2_sharded_save_to_cpu",
    "verl.checkpoint_engine.CheckpointEngineManager": "prepare build_topology init_process_group finalize",
    "verl.workers.engine_workers.ActorRolloutRefWorker.init_model": "is_master bucket_size custom_backend_module",
    "verl.workers.engine_workers.ActorRolloutRefWorker.update_weights": "send_weights",
    "verl.checkpoint_engine.CheckpointEngineWorker": "receive_weights bucket_size replica_rank",
    "verl.model_merger.base_model_merger": "--local_dir --target_dir --trust-remote-code --backend",
    "verl.model_merger.fsdp_model_merger": "fsdp_config.json",
}

# Methods of an actor of ours that verl calls through Ray there, in whatever way it calls them.
CALLED = {
    ("verl.workers.rollout.llm_server", "generate"): "grail_verl.cpu.rollout.GenerationServer",
    ("verl.workers.rollout.replica.RolloutReplica", "abort_all_requests"): "grail_verl.cpu.rollout.GenerationServer",
    ("verl.workers.rollout.replica.RolloutReplica", "resume_generation"): "grail_verl.cpu.rollout.GenerationServer",
}

# Attributes that a class of verl's has from what it is mixed into, and keys that belong to others than verl: Ray, vLLM,
# ourselves.
NOT_VERLS = (
    "verl.workers.rollout.vllm_rollout.utils.vLLMColocateWorkerExtension.model_runner",
    "verl.workers.rollout.vllm_rollout.utils.vLLMColocateWorkerExtension.vllm_config",
    f"{CONFIG}.algorithm.grail",
    f"{CONFIG}.ray_kwargs.ray_init",
    f"{CONFIG}.trainer.v1.separate_async.checkpoint_backend",
)


def missing(folder: Path) -> list[str]:
    """A line for each name that this verl lacks, or that is not what it was.

    Args:
        folder: the package `verl`.
    """
    source, config = Source(folder, "verl"), _config(folder)
    uses = Uses(dict(modules(*PACKAGES)), STANDS_FOR, SECTIONS).found
    uses |= {Use(__file__, name) for name in EXPECTED}
    complaints = [
        (use.where, use.name, _of_config(config, use.name) if use.name.startswith(CONFIG) else _of_source(source, use))
        for use in sorted(uses, key=lambda use: (use.where, use.name))
    ]
    for preset in sorted((ROOT / "grail_verl" / "conf" / "grail").rglob("*.yaml")):
        for key in _keys(OmegaConf.to_container(OmegaConf.load(preset), resolve=False)):
            complaints.append((str(preset), f"{CONFIG}.{key}", _of_config(config, f"{CONFIG}.{key}", source)))
    for name, texts in MENTIONS.items():
        there = source.mentions(name)
        complaints += [(__file__, name, f"says nothing of {text!r}") for text in texts.split() if text not in there]
    ours = Source(PACKAGES[0], "grail_verl")
    for (name, method), owner in CALLED.items():
        signature, calls = ours.signature(f"{owner}.{method}"), list(source.calls(name, f"{method}.remote"))
        for said in [_misfit(signature, *call) for call in calls] or ["is not called"]:
            complaints.append((name, f"{owner}.{method}", said))
    told = (place for place in complaints if place[-1] and not place[1].startswith(NOT_VERLS))
    return list(dict.fromkeys(f"{where.removeprefix(f'{ROOT}/')}: {name} {said}" for where, name, said in told))


def _of_source(source: Source, use: Use) -> str | None:
    thing = source.find(use.name)
    if thing is None:
        return "is not there"
    if isinstance(thing, Thing) and use.implemented is not None:
        lacking = sorted(source.abstract(use.name) - use.implemented)
        return f"has abstract methods that ours lacks: {', '.join(lacking)}" if lacking else None
    if (theirs := source.signature(use.name)) is None:
        return None
    if lacking := [name for name in use.parameters if name not in theirs.named]:
        return f"takes no {', '.join(lacking)}"
    if use.override is not None:
        return _unlike(Signature.of(use.override, bound=True), theirs)
    return _misfit(theirs, *use.call) if use.call is not None else None


def _misfit(theirs: Signature, positional: int | None, named: tuple[str | None, ...]) -> str | None:
    """Why it cannot be called so."""
    if positional is not None and positional > len(theirs.positional) and not theirs.extra:
        return f"takes {len(theirs.positional)} positional arguments, not {positional}"
    if unknown := [name for name in named if name is not None and name not in theirs.named and not theirs.extra_named]:
        return f"takes no {', '.join(unknown)}"
    if positional is None or None in named:
        return None
    lacking = theirs.required - set(theirs.positional[:positional]) - set(named)
    return f"also needs {', '.join(sorted(lacking))}" if lacking else None


def _unlike(ours: Signature, theirs: Signature) -> str | None:
    """Why a call of verl's method cannot be a call of ours."""
    given, needed = theirs.named - ours.named, ours.required - theirs.named
    if given and not ours.extra_named:
        return f"takes {', '.join(sorted(given))}, which our override does not"
    if needed and not theirs.extra_named:
        return f"takes no {', '.join(sorted(needed))}, which our override needs"
    return None


def _config(folder: Path) -> dict:
    """As main_ppo composes it without overrides, with the sections of VeOmni's engine beside FSDP's."""
    with initialize_config_dir(str((folder / "trainer" / "config").resolve()), version_base=None):
        engines = [compose("ppo_trainer", [f"model_engine={engine}"]) for engine in ("veomni", "dp")]
    OmegaConf.set_struct(engines[0], False)
    return OmegaConf.to_container(OmegaConf.merge(*engines), resolve=False)


def _of_config(config: dict, name: str, source: Source | None = None) -> str | None:
    """Why it is no key of verl's; below a key that has none there anything may be.

    Args:
        name: with CONFIG in front.
        source: for a key that is set, not read: the class that verl makes of the section may have it instead.
    """
    section = config
    for key in name.split(".")[1:]:
        if not isinstance(section, dict) or not section:
            return None
        if key not in section:
            made = section.get("_target_") if source is not None else None
            return None if made and source.find(f"{made}.{key}") else "is no key of verl's config"
        section = section[key]
    return None


def _keys(section: dict, place: str = "") -> Iterator[str]:
    for name, value in section.items():
        if isinstance(value, dict) and value:
            yield from _keys(value, f"{place}{name}.")
        elif name != "defaults":
            yield f"{place}{name}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, help="the package verl; the installed one if left out")
    folder = parser.parse_args().folder or Path(importlib.util.find_spec("verl").origin).parent
    version = (folder / "version" / "version").read_text().strip()
    lines = missing(folder)
    print(*lines, f"verl {version} in {folder}: {len(lines) or 'no'} names missing or changed", sep="\n")
    sys.exit(1 if lines else 0)


if __name__ == "__main__":
    main()
