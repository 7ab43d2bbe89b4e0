"""The advantage estimator `grail`: verl's GRPO under a name of its own.

Runs in the driver, before the actor's workers rescale its result token by token (worker.py). The name is
what switches the hook on; the numbers are those of `algorithm.adv_estimator=grpo`, but 0 where those are rounding.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
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
    centred_BT, advantages_BT = (
        compute_grpo_outcome_advantage(
            token_level_rewards=token_level_rewards,
            response_mask=response_mask,
            index=index,
            norm_adv_by_std_in_grpo=by_std,
        )[0]
        for by_std in (False, config.get("norm_adv_by_std_in_grpo", True))
    )
    advantages_BT = without_rounding(advantages_BT, centred_BT, token_level_rewards, index)
    return advantages_BT, advantages_BT


def without_rounding(advantages_BT: Tensor, centred_BT: Tensor, rewards_BT: Tensor, groups: Sequence) -> Tensor:
    """The advantages, 0 where a reward is no further from its group's mean than rounding takes it.

    verl's float32 mean of eight rewards of 0.3 is 3e-8 off, which its division by their deviation plus 1e-6 makes 0.03:
    enough to be on one side of 0. A mean of n numbers is off by n roundings of the largest at most.

    Args:
        advantages_BT: GRPO's.
        centred_BT: GRPO's, not divided by the deviation.
        rewards_BT: per token, of which a response's reward is the sum.
        groups: B, of each response.
    """
    sizes_B, rows_of = rewards_BT.abs().sum(dim=-1), defaultdict(list)
    for row, group in enumerate(groups):
        rows_of[group].append(row)
    bounds_B = torch.empty_like(sizes_B)
    for rows in rows_of.values():
        bounds_B[rows] = len(rows) * torch.finfo(torch.float32).eps * sizes_B[rows].max()
    return torch.where(centred_BT.abs() <= bounds_B[:, None], 0.0, advantages_BT)
