"""What happens before Ray starts to a run whose reward is grail_verl.reward, with any estimator: patches.py puts
`prepare_reward` in front of verl's `validate_config`."""

from omegaconf import DictConfig, ListConfig

REWARD = "pkg://grail_verl.reward"
MANAGER = "pkg://grail_verl.reward.manager"


def prepare_reward(config: DictConfig) -> None:
    """Checks the ground truths, has only the policy's tokens graded, and sees to it that a fault ends the run.

    Leaves a config with another reward as it is. A reward manager that the user chose stays; it may then end no run.

    Raises:
        ValueError: a ground truth is missing, or is neither text nor a number.
    """
    if not is_graded_here(config) or config.reward.reward_manager.module.path == MANAGER:
        return
    reward = config.reward
    from grail_verl.reward import ending, truths

    if (config.data.get("custom_cls") or {}).get("path") is None:  # who knows what columns it reads
        truths.check([*_files(config.data.train_files), *_files(config.data.val_files)])
    if reward.reward_manager.source == "register" and reward.reward_manager.name == "naive":
        reward.reward_manager.source = "importlib"
        reward.reward_manager.name = "PolicyRewardManager"
        reward.reward_manager.module.path = MANAGER
    ending.watch()


def is_graded_here(config: DictConfig) -> bool:
    """The run's reward is grail_verl.reward."""
    return "reward" in config and config.reward.custom_reward_function.path == REWARD


def _files(files) -> list[str]:
    if files is None:
        return []
    return list(files) if isinstance(files, list | ListConfig) else [files]
