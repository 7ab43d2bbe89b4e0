"""What happens to a user's config before Ray starts: checks, and the hand-over of the options.

`verl.utils.config.validate_config` runs in main_ppo's process, before anything expensive; `patches.py` puts
`prepare` in front of it, and of `run_ppo`, by which other entry points start. verl's workers are given
`config.actor_rollout_ref` only, so the checked options travel there; a config without that section is a run in
which GRAIL is off.
"""

from collections.abc import Mapping

from omegaconf import DictConfig, OmegaConf, open_dict

from grail_verl.config import SECTION, GrailConfig
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
    _refuse_unread(section or {}, options.weighting, weighting)
    _refuse_unserved(config, weighting)
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


def _refuse_unread(section: Mapping, name: str, weighting: type[Weighting]) -> None:
    """An option that changes nothing is a misunderstanding, whatever its value."""
    read = {"weighting", "occurrence", *weighting.options}
    for option in sorted(section.keys() - read):
        raise ValueError(
            f"{SECTION}.{option}={section[option]!r} has no effect with {SECTION}.weighting={name}; "
            f"allowed: {', '.join(sorted(read))}"
        )


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
