"""The advantage estimator `grail`: verl's GRPO under a name of its own.

Runs in the driver, before the actor's workers rescale its result token by token (worker.py). The name is
what switches the hook on; the numbers are those of `algorithm.adv_estimator=grpo`.
"""

import numpy as np
from omegaconf import DictConfig
from torch import Tensor

from grail_verl.hook.launch import require_prepared


def compute_grail_advantage(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: np.ndarray,
    config: DictConfig,
    **unused,
) -> tuple[Tensor, Tensor]:
    """GRPO's group-relative advantages (verl/trainer/ppo/core_algos.py, compute_grpo_outcome_advantage).

    Args:
        token_level_rewards: (B, T) float32.
        response_mask: (B, T).
        index: (B,) group of each response (its prompt's uid).
        config: verl's `algorithm` section. verl hands `norm_adv_by_std_in_grpo` to its own estimator only,
            so it is read here; absent means True, as in verl.
        unused: what verl offers to other estimators (reward_baselines).

    Returns:
        advantages and returns, (B, T) each.
    """
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage  # this module registers there

    require_prepared(config)
    return compute_grpo_outcome_advantage(
        token_level_rewards=token_level_rewards,
        response_mask=response_mask,
        index=index,
        norm_adv_by_std_in_grpo=config.get("norm_adv_by_std_in_grpo", True),
    )
