"""What happens to a user's config before Ray starts: checks, and the hand-over of the options.

`verl.utils.config.validate_config` runs in main_ppo's process, before anything expensive; `patches.py` puts
`prepare` in front of it, and of `run_ppo`, by which other entry points start. verl's workers are given
`config.actor_rollout_ref`, a section that keeps its tie to the rest of the config when Ray pickles it: there they find
the estimator and the checked options as they are when the trainer starts (`options_of_actor`).
"""

import copy
import difflib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigKeyError

from grail_verl.credit.config import SECTION, GrailConfig

if TYPE_CHECKING:
    from grail_verl.credit.rule import Rule

ESTIMATOR = "grail"
STRATEGIES = ("fsdp", "fsdp2", "veomni")
METRICS = "actor/grail/"  # as verl's trainers name what metrics.py hands over


def prepare(config: DictConfig) -> None:
    """Checks the options of a run with `algorithm.adv_estimator=grail`, for loggers and for the workers.

    Leaves any other config as it is. Afterwards `algorithm.grail` holds every option. The section is a structured one:
    unpickling it where grail-verl is not installed, or not active (handover.py), fails there, instead of training
    without GRAIL. One that was prepared before, or was saved then and loaded, is checked again.

    Raises:
        ValueError: an option that is unknown or out of range, a module that cannot be imported, or a way to run
            verl that GRAIL does not serve; names the option, the value and what is allowed.
    """
    if config.algorithm.adv_estimator != ESTIMATOR:
        return
    from grail_verl.credit.modules import absolute  # this module is imported wherever verl is, GRAIL on or off
    from grail_verl.credit.rule import Rule
    from grail_verl.hook.handover import HandedOver
    from grail_verl.look.records import refuse_others

    _refuse_misplaced(config)
    section = config.algorithm.get("grail")
    if OmegaConf.is_config(section):
        section = OmegaConf.to_container(section, resolve=True)
    options = GrailConfig.from_options(section)
    options = replace(options, modules=[absolute(module) for module in options.modules])
    rule = Rule(options)
    rule.refuse_unread(_chosen(section or {}))
    _refuse_unserved(config, rule)
    _refuse_lost_weights(config)
    _refuse_unseen_pictures(config, options)
    # The legacy trainer asks again, with the path made absolute, where the folder may not be.
    looked_at = is_prepared(config.algorithm) and os.path.isabs(options.dump_dir or "")
    if options.dump_dir is not None and not looked_at:
        options = replace(options, dump_dir=_dump_folder(options.dump_dir))
        refuse_others(options, config.trainer.default_local_dir)
    with open_dict(config):
        config.algorithm.grail = OmegaConf.structured(HandedOver(**vars(options)))
    OmegaConf.set_readonly(config.algorithm.grail, False)  # a notebook may change an option and start again


def _chosen(section: dict) -> dict:
    """What a user wrote of these options: as `prepare`, of this version or another, leaves them, those that are not the
    default."""
    if not {"std", "total", "share"} <= section.keys():  # of different weights: a user has no use for all of them
        return section
    defaults = asdict(GrailConfig())
    return {name: value for name, value in section.items() if value != defaults[name]}


def from_section(section: DictConfig, place: str) -> Any:
    """What stands in another place of the config that a section came from; None if it came alone.

    Args:
        section: as verl's workers and helpers are given it.
        place: relative to it, as in `..algorithm`.
    """
    try:
        return OmegaConf.select(section, place) if OmegaConf.is_config(section) else None
    except ConfigKeyError:
        return None


def options_of_actor(section: DictConfig) -> GrailConfig | None:
    """The options that an actor is to train with; None where another estimator than `grail` is chosen.

    Args:
        section: verl's `actor_rollout_ref`, as a worker is given it.
    """
    algorithm = from_section(section, "..algorithm")
    if algorithm is None or algorithm.adv_estimator != ESTIMATOR or not is_prepared(algorithm):
        return None
    return OmegaConf.to_object(algorithm.grail)


def is_prepared(algorithm: DictConfig) -> bool:
    """`prepare` has seen this `algorithm` section."""
    from grail_verl.hook.handover import HandedOver

    section = algorithm.get("grail")
    return OmegaConf.is_config(section) and OmegaConf.get_type(section) is HandedOver


def require_prepared(algorithm: DictConfig) -> None:
    """Raises RuntimeError unless `prepare` has seen this `algorithm` section: the workers of a trainer
    that skips verl's `validate_config` would know nothing of GRAIL and silently train GRPO."""
    if not is_prepared(algorithm):
        raise RuntimeError(
            "algorithm.adv_estimator=grail: this entry point did not call verl's validate_config, so the "
            "workers never got GRAIL's options; start with `python -m verl.trainer.main_ppo`"
        )


def require_weighted(config: DictConfig, metrics: Mapping) -> None:
    """Raises RuntimeError: an update of the actor came back without GRAIL's metrics in a run with the estimator."""
    if config.algorithm.adv_estimator == ESTIMATOR and not any(name.startswith(METRICS) for name in metrics):
        raise RuntimeError(
            f"algorithm.adv_estimator={ESTIMATOR}, but the actor's update came back without {METRICS}*: it was GRPO's. "
            "Where the actor runs, another plugin or a subclass has set ActorRolloutRefWorker.actor_worker_cls, or it "
            "was given a copy of actor_rollout_ref that has lost the rest of the config"
        )


def _refuse_misplaced(config: DictConfig) -> None:
    """Options in a section that is not `algorithm.grail`: under its name or one that was meant to be, or beside it."""
    known = asdict(GrailConfig()).keys()
    for place, section in _sections(OmegaConf.to_container(config)):
        name = place.rpartition(".")[2]
        likeness = difflib.SequenceMatcher(None, name.lower(), "grail").ratio()
        if place == "algorithm":
            misplaced = [option for option in section if option in known]
        else:
            meant = name == "grail" or (likeness >= 0.8 and section.keys() & known)
            misplaced = list(section) if place != SECTION and meant else []
        if misplaced:
            option, value = misplaced[0], section[misplaced[0]]
            raise ValueError(f"{place}.{option}={value!r} would be read by nobody; write +{SECTION}.{option}={value}")


def _sections(config: dict, place: str = "") -> Iterator[tuple[str, dict]]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield f"{place}{name}", value
            yield from _sections(value, f"{place}{name}.")


def _dump_folder(folder: str) -> str:
    """As an absolute path, since Ray's workers run elsewhere. Whether they can write there, too, they find out."""
    path = Path(os.path.expanduser(folder)).absolute()
    try:
        known = next(place for place in (path, *path.parents) if place.exists())
    except OSError as error:  # too long a name, for one
        why = f"cannot be a folder: {error.strerror}"
    else:
        if "://" in folder:
            why = "is no folder"
        elif not known.is_dir():
            why = f"cannot be a folder: {known} is a file"
        elif not os.access(known, os.W_OK | os.X_OK):
            why = f"cannot be written: {known} allows no writing"
        else:
            return str(path)
    raise ValueError(f"{SECTION}.dump_dir={folder!r} {why}; allowed: a folder to write, new or with records of the run")


def _refuse_unseen_pictures(config: DictConfig, options: GrailConfig) -> None:
    if not options.log_pictures:
        return
    from grail_verl.hook.pictures import TAKERS

    given, loggers = f"{SECTION}.log_pictures={options.log_pictures}", config.trainer.logger
    loggers = [loggers] if isinstance(loggers, str) else list(loggers or ())
    if TAKERS.keys().isdisjoint(loggers):
        raise ValueError(
            f"{given} has no effect with trainer.logger={loggers}, none of which takes pictures; allowed: "
            f"{' or '.join(TAKERS)} among them"
        )
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError(f"{given} needs matplotlib, which is not installed: pip install 'grail-verl[report]'")


def _refuse_unserved(config: DictConfig, rule: "Rule") -> None:
    if any(score.needs_logits for score in rule.scores) and config.actor_rollout_ref.model.use_fused_kernels:
        raise ValueError(
            f"{SECTION}.score={rule.config.score} needs logits: "
            "actor_rollout_ref.model.use_fused_kernels=True is not allowed; allowed: False"
        )
    if not config.trainer.get("use_v1", False):
        rule.refuse_lacking(["entropy_BT"], "the legacy trainer (trainer.use_v1=False)")
    if (config.algorithm.get("rollout_correction") or {}).get("bypass_mode", False):
        rule.refuse_lacking(["entropy_BT"], "a trainer that skips old log-probs (rollout_correction.bypass_mode=True)")
    strategy = config.actor_rollout_ref.actor.strategy
    if strategy not in STRATEGIES:
        raise ValueError(
            f"algorithm.adv_estimator=grail needs an FSDP or VeOmni actor: actor_rollout_ref.actor.strategy="
            f"{strategy!r} is not allowed; allowed: {' | '.join(STRATEGIES)}"
        )
    if strategy == "veomni":
        _refuse_untried_of_veomni(config)
    if "rollout" in config:  # the section of verl.experimental's one_step_off_policy and fully_async_policy
        raise ValueError(
            "algorithm.adv_estimator=grail is not served by verl's experimental trainers (one_step_off_policy, "
            "fully_async_policy); allowed: python -m verl.trainer.main_ppo"
        )


def _refuse_untried_of_veomni(config: DictConfig) -> None:
    """Ways to run verl's VeOmni engine on which the pass was never seen to be right."""
    model, section = config.actor_rollout_ref.model, config.actor_rollout_ref.actor.get("veomni")
    strategy = "algorithm.adv_estimator=grail and actor_rollout_ref.actor.strategy='veomni'"
    if section is None:
        raise ValueError(
            "actor_rollout_ref.actor.strategy='veomni' comes without its section actor_rollout_ref.actor.veomni; "
            "allowed: model_engine=veomni, which sets both"
        )
    if model.use_fused_kernels:
        raise ValueError(
            f"actor_rollout_ref.model.use_fused_kernels=True is not allowed with {strategy}, whose fused head has not "
            "been tried; allowed: False"
        )
    lora = {"lora_rank": model.lora_rank, "lora.rank": model.lora.rank, "lora_adapter_path": model.lora_adapter_path}
    for option, value in lora.items():
        if value:
            raise ValueError(
                f"actor_rollout_ref.model.{option}={value} is not allowed with {strategy}, as verl makes no adapter "
                "there and trains the whole model; allowed: strategy fsdp | fsdp2"
            )
    if section.expert_parallel_size != 1:
        raise ValueError(
            f"actor_rollout_ref.actor.veomni.expert_parallel_size={section.expert_parallel_size} is not allowed with "
            f"{strategy}, as expert parallelism has not been tried; allowed: 1"
        )


def _refuse_lost_weights(config: DictConfig) -> None:
    """Losses in which the weights would change nothing."""
    distillation = config.get("distillation") or {}
    if distillation.get("enabled", False) and not distillation.distillation_loss.use_task_rewards:
        raise ValueError(
            "distillation.distillation_loss.use_task_rewards=False is not allowed with algorithm.adv_estimator=grail: "
            "it leaves out the policy loss, in which the weights are; allowed: True"
        )
    from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY
    from verl.utils.config import omega_conf_to_dataclass

    from grail_verl.hook.loss import refuse_blind

    actor = copy.deepcopy(config.actor_rollout_ref.actor)
    if actor.policy_loss.loss_mode not in POLICY_LOSS_REGISTRY:  # the worker may know it, and asks it then
        return
    with open_dict(actor):
        actor.use_dynamic_bsz = True  # the sizes of batches are verl's to check
    refuse_blind(omega_conf_to_dataclass(actor))
