"""The settings of an evaluation: verl's config with the preset `evaluation` and the user's overrides.

Second room: problems → *settings* → model → validation or server → results. Composed before anything expensive,
so that a mistyped override ends the command at once; a server is asked by the same values.
"""

from collections.abc import Callable
from dataclasses import dataclass

from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from grail_verl.command import CommandError

PRESET = "evaluation"


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn, both ways.

    Attributes:
        samples: responses to each problem.
        temperature: of the softmax.
        top_p: mass of the likeliest tokens kept.
        top_k: likeliest tokens kept; -1 for all.
        max_response_length: in tokens.
        chat_template: arguments of the chat template, such as enable_thinking.
    """

    samples: int
    temperature: float
    top_p: float
    top_k: int
    max_response_length: int
    chat_template: dict

    @classmethod
    def of(cls, config: DictConfig) -> "Sampling":
        """Those of a composed config of verl's."""
        drawn = config.actor_rollout_ref.rollout.val_kwargs
        return cls(
            samples=drawn.n,
            temperature=drawn.temperature,
            top_p=drawn.top_p,
            top_k=drawn.top_k,
            max_response_length=config.data.max_response_length,
            chat_template=OmegaConf.to_container(config.data.apply_chat_template_kwargs, resolve=True),
        )


def score_function(config: DictConfig) -> Callable[..., dict]:
    """The function that verl will grade by.

    Raises:
        CommandError: it cannot be imported, or what it needs.
    """
    from verl.trainer.ppo.reward import get_custom_reward_fn

    try:
        return get_custom_reward_fn(config)
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        raise CommandError(f"no score function: {error}") from error


def with_preset(overrides: list[str]) -> list[str]:
    """The overrides with `+grail=[evaluation, ...]` in front, the user's own presets (+grail=cpu) within.

    Raises:
        CommandError: an override that Hydra cannot read.
    """
    presets, others = [PRESET], []
    try:
        for text, override in zip(overrides, OverridesParser.create().parse_overrides(overrides), strict=True):
            if override.key_or_group == "grail" and not override.is_delete():
                value = override.value()
                presets += [name for name in (value if isinstance(value, list) else [value]) if name != PRESET]
            else:
                others.append(text)
    except HydraException as error:
        raise CommandError(str(error)) from error
    return [f"+grail=[{','.join(presets)}]", *others]


def compose_config(overrides: list[str]) -> DictConfig:
    """verl's trainer config, as main_ppo composes it from the same overrides.

    Raises:
        CommandError: an override that does not fit it, in Hydra's words.
    """
    try:
        with initialize_config_module("verl.trainer.config", version_base=None):
            return compose("ppo_trainer", overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise CommandError(str(error)) from error
