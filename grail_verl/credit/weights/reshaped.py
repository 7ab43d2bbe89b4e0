"""OAR-G's weights (arXiv 2601.07408): reshaped about a threshold of the response's own, their sum that of weights of 1.

b = log(1 + score), min-max normalised over the response to h in [0, 1]; tau = the value at rank ⌊0.4 · tokens⌋ of the
sorted h; below it max(h / tau, 0.1), at or above it 1 + 2 · (h − tau) / (1 − tau); rescaled to sum to the number of
tokens. Applied to every response that has scores, all its tokens alike; the others keep 1.

Five tokens of scores e⁰ − 1 … e⁴ − 1: h = 0, ¼, ½, ¾, 1, tau = ½, reshaped 0.1, 0.5, 1, 2, 3, weights these · 5 / 6.6.
"""

import torch
from torch import Tensor

from grail_verl.credit.weights.base import Weights, register_weights

EPS = 1e-12
TAU_RANK = 0.4  # share of a response's tokens below the threshold
FLOOR = 0.1  # least weight below it, before rescaling
BOOST = 2.0  # added weight of the most important token, before rescaling


@register_weights("reshaped")
class Reshaped(Weights):
    def token_weights(self, scores_BT, weighted_B, batch):
        weights_BT = torch.ones(scores_BT.shape, device=scores_BT.device)
        if weighted_B.any():
            of_rows_RT = reshaped(scores_BT[weighted_B], batch.response_mask_BT[weighted_B])
            weights_BT[weighted_B] = of_rows_RT.to(weights_BT.dtype)
        return weights_BT


def reshaped(scores_RT: Tensor, valid_RT: Tensor) -> Tensor:
    """OAR-G's weights of each response from its scores; they sum to its number of valid tokens.

    Args:
        scores_RT: (R, T) float, at least 0.
        valid_RT: (R, T) bool, some True in each row.

    Returns:
        (R, T) float64; where valid_RT is False it means nothing. In float64, since scores of 1e-9 differ
        from one another by less than float32 holds beside 1.
    """
    raised_RT = scores_RT.double().log1p()
    low_R1 = raised_RT.masked_fill(~valid_RT, torch.inf).amin(dim=-1, keepdim=True)
    high_R1 = raised_RT.masked_fill(~valid_RT, -torch.inf).amax(dim=-1, keepdim=True)
    importance_RT = (raised_RT - low_R1) / (high_R1 - low_R1 + EPS)

    count_R1 = valid_RT.sum(dim=-1, keepdim=True)
    ascending_RT = importance_RT.masked_fill(~valid_RT, torch.inf).sort(dim=-1).values
    tau_R1 = ascending_RT.gather(-1, (count_R1.double() * TAU_RANK).long())
    weights_RT = torch.where(
        importance_RT < tau_R1,
        (importance_RT / (tau_R1 + EPS)).clamp(min=FLOOR),
        1 + BOOST * (importance_RT - tau_R1) / (1 - tau_R1 + EPS),
    )
    return weights_RT * count_R1 / weights_RT.masked_fill(~valid_RT, 0.0).sum(dim=-1, keepdim=True)
