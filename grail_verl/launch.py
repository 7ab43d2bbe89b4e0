"""What happens to a user's config before Ray starts: checks, and the hand-over of the options.

`verl.utils.config.validate_config` runs in main_ppo's process, before anything expensive; `patches.py` puts
`prepare` in front of it, and of `run_ppo`, by which other entry points start. verl's workers are given
`config.actor_rollout_ref` only, so the checked options travel there; a config without that section is a run in
which GRAIL is off.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict

from grail_verl.config import EVERYONES, SECTION, GrailConfig
from grail_verl.weightings import Weighting, scheme

ESTIMATOR = "grail"
STRATEGIES = ("fsdp", "fsdp2")


def prepare(config: DictConfig) -> None:
    """Checks the options of a run with `algorithm.adv_estimator=grail` and hands them to the workers.

    Leaves any other config as it is. Afterwards `algorithm.grail` holds every option, so that loggers
    record it, and `actor_rollout_ref.grail` holds the same. The section is a structured one: unpickling
    it on a node where grail-verl is not installed fails there, instead of training without GRAIL.

    Raises:
        ValueError: an option that is unknown or out of range, or a way to run verl that GRAIL does not
            serve; names the option, the value and what is allowed.
    """
    if config.algorithm.adv_estimator != ESTIMATOR or is_prepared(config.algorithm):
        return
    section = config.algorithm.get("grail")
    if OmegaConf.is_config(section):
        section = OmegaConf.to_container(section, resolve=True)
    options = GrailConfig.from_options(section)
    weighting = scheme(options.weighting)
    refuse_unread(section or {}, options)
    _refuse_unserved(config, weighting)
    if options.dump_dir is not None:
        options = replace(options, dump_dir=_dump_folder(options.dump_dir))
    with open_dict(config):
        config.algorithm.grail = OmegaConf.structured(options)
        config.actor_rollout_ref.grail = OmegaConf.structured(options)


def is_prepared(algorithm: DictConfig) -> bool:
    """`prepare` has seen this `algorithm` section."""
    section = algorithm.get("grail")
    return OmegaConf.is_config(section) and OmegaConf.get_type(section) is GrailConfig


def require_prepared(algorithm: DictConfig) -> None:
    """Raises RuntimeError unless `prepare` has seen this `algorithm` section: the workers of a trainer
    that skips verl's `validate_config` would know nothing of GRAIL and silently train GRPO."""
    if not is_prepared(algorithm):
        raise RuntimeError(
            "algorithm.adv_estimator=grail: this entry point did not call verl's validate_config, so the "
            "workers never got GRAIL's options; start with `python -m verl.trainer.main_ppo`"
        )


def refuse_unread(section: Mapping, options: GrailConfig) -> None:
    """An option that changes nothing is a misunderstanding, whatever its value.

    Args:
        section: what a user wrote.
        options: those, checked.

    Raises:
        ValueError: one without effect.
    """
    read = EVERYONES | scheme(options.weighting).options
    for option in sorted(section.keys() - read):
        raise ValueError(
            f"{SECTION}.{option}={section[option]!r} has no effect with {SECTION}.weighting={options.weighting}; "
            f"allowed: {', '.join(sorted(read))}"
        )
    if "dump_responses" in section and options.dump_dir is None:
        raise ValueError(
            f"{SECTION}.dump_responses={section['dump_responses']!r} has no effect without {SECTION}.dump_dir"
        )


def _dump_folder(folder: str) -> str:
    """As an absolute path, since Ray's workers run elsewhere. Whether they can write there, too, they find out."""
    path = Path(folder).expanduser().absolute()
    known = next(place for place in (path, *path.parents) if place.exists())
    if "://" in folder:
        why = "is no folder"
    elif not known.is_dir():
        why = f"cannot be a folder: {known} is a file"
    elif not os.access(known, os.W_OK | os.X_OK):
        why = f"cannot be written: {known} allows no writing"
    else:
        return str(path)
    raise ValueError(f"{SECTION}.dump_dir={folder!r} {why}; allowed: a folder to write, new or with records of the run")


def _refuse_unserved(config: DictConfig, weighting: type[Weighting]) -> None:
    if weighting.needs_logits and config.actor_rollout_ref.model.use_fused_kernels:
        raise ValueError(
            f"{SECTION}.weighting={config.algorithm.grail.weighting} needs logits: "
            "actor_rollout_ref.model.use_fused_kernels=True is not allowed; allowed: False"
        )
    strategy = config.actor_rollout_ref.actor.strategy
    if strategy not in STRATEGIES:
        raise ValueError(
            f"algorithm.adv_estimator=grail needs an FSDP actor: actor_rollout_ref.actor.strategy="
            f"{strategy!r} is not allowed; allowed: {' | '.join(STRATEGIES)}"
        )
    if "rollout" in config:  # the section of verl.experimental's one_step_off_policy and fully_async_policy
        raise ValueError(
            "algorithm.adv_estimator=grail is not served by verl's experimental trainers (one_step_off_policy, "
            "fully_async_policy); allowed: python -m verl.trainer.main_ppo"
        )
