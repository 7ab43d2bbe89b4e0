"""verl's config with a user's overrides, as main_ppo composes it."""

from hydra import compose, initialize_config_module


def composed(*overrides: str):
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", list(overrides))
