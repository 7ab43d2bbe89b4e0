"""GRAIL's weights (arXiv 2606.04889; METHOD steps 5 to 8): the standardised logarithm of a token's score.

z standardises log(score + 1e-8) over the response's valid tokens (`statistics: response`) or over those before its
answer (`reasoning`), with population variance; weight = clip(mean + std · z, w_min, w_max). In every response with an
answer, weighted or not, the content gets w_max, boundary and what lies behind get `mean`. All other tokens keep 1.

Two tokens of scores e and e³, mean 1, std 0.5: logarithms 1 and 3, z = −1 and 1, weights 0.5 and 1.5.
"""

import torch
from torch import Tensor

from grail_verl.credit.weights.base import Weights, register_weights, selected_by_advantage

EPS = 1e-8  # METHOD: inside the logarithm and beside the variance


@register_weights("standardised")
class Standardised(Weights):
    options = frozenset({"std", "mean", "w_min", "w_max", "rollouts", "statistics", "occurrence"})

    @property
    def bounds(self):
        return self.config.w_min, self.config.w_max

    def selected(self, batch):
        return selected_by_advantage(batch, self.config.rollouts)

    def token_weights(self, scores_BT, weighted_B, batch):
        config, reasoning_BT = self.config, batch.reasoning_BT
        weights_BT = torch.ones(scores_BT.shape, device=scores_BT.device)
        if weighted_B.any():
            counted_BT = reasoning_BT if config.statistics == "reasoning" else batch.response_mask_BT
            z_RT = standardised(scores_BT[weighted_B], counted_BT[weighted_B])
            scored_RT = (config.mean + config.std * z_RT).clamp(config.w_min, config.w_max).float()
            weights_BT[weighted_B] = torch.where(reasoning_BT[weighted_B], scored_RT, 1.0)
        weights_BT = torch.where(batch.answer_BT | batch.behind_BT, config.mean, weights_BT)
        return torch.where(batch.answer_BT & batch.content_BT, config.w_max, weights_BT)


def standardised(scores_RT: Tensor, counted_RT: Tensor) -> Tensor:
    """z of the log-scores by the mean and population variance over each row's counted tokens; float64, since
    equal scores must give z = 0, but a float32 mean is off by an ulp of -18.4, and sqrt(var + eps) = 1e-4
    would blow that up to a visible weight."""
    log_RT = (scores_RT.double() + EPS).log()
    count_R1 = counted_RT.sum(dim=-1, keepdim=True).clamp(min=1)
    mean_R1 = torch.where(counted_RT, log_RT, 0.0).sum(dim=-1, keepdim=True) / count_R1
    var_R1 = torch.where(counted_RT, (log_RT - mean_R1) ** 2, 0.0).sum(dim=-1, keepdim=True) / count_R1
    return (log_RT - mean_R1) / (var_R1 + EPS).sqrt()
