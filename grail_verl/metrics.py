"""What a user reads in the logger under `actor/grail/`: one line per quantity, exact over all ranks.

Rates are weighted by rows or tokens: ranks add up counts and sums first and divide afterwards.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from grail_verl.config import GrailConfig


def weight_metrics(
    weights: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    found: Tensor,
    reweighted: Tensor,
    scored: Tensor,
    nonfinite: Tensor,
    seconds: float,
    config: GrailConfig,
    *,
    device,
    group,
) -> dict[str, float]:
    """The metrics of one rollout batch; a collective call over the data-parallel group.

    Responses without a valid token (verl's padding rows) are not counted. The weights described are those
    that change something: on valid tokens whose advantage is not zero.

    Args:
        weights, advantages: (B, T) float32, before they are multiplied.
        response_mask: (B, T).
        found, reweighted, nonfinite: (B,) bool, rows with an answer, with weights from their saliency, and
            with a saliency that is not finite.
        scored: (B, T) bool, tokens whose weight comes from their score.
        seconds: this rank's time in the saliency pass.
        config: the options.
        device, group: of the collective.

    Returns:
        name → value, the same on every rank.
    """
    valid_BT = response_mask.bool()
    rows_B = valid_BT.any(dim=-1)
    matter_BT = valid_BT & (advantages != 0)
    scored_BT = scored & matter_BT
    weights_N, sizes_N = weights[matter_BT].double(), advantages[matter_BT].double().abs()
    sums = torch.stack(
        [
            rows_B.sum(),
            (rows_B & found).sum(),
            reweighted.sum(),
            nonfinite.sum(),
            torch.tensor(weights_N.numel()),
            weights_N.sum(),
            (weights_N**2).sum(),
            scored_BT.sum(),
            (scored_BT & (weights <= config.w_min)).sum(),
            (scored_BT & (weights >= config.w_max)).sum(),
            (weights_N * sizes_N).sum(),
            sizes_N.sum(),
        ]
    ).double()
    some = weights_N.numel() > 0
    extremes = torch.tensor(
        [-weights_N.min() if some else -torch.inf, weights_N.max() if some else -torch.inf, seconds],
        dtype=torch.float64,
    )
    sums, extremes = sums.to(device), extremes.to(device)
    dist.all_reduce(sums, op=dist.ReduceOp.SUM, group=group)
    dist.all_reduce(extremes, op=dist.ReduceOp.MAX, group=group)
    (rows, found, reweighted, nonfinite, tokens, total, squares, scored, at_min, at_max, scaled, plain) = (
        sums.tolist()
    )
    low, high, seconds = extremes.tolist()

    mean = total / tokens if tokens else 1.0
    return {
        "grail/weight_mean": mean,
        "grail/weight_std": max(squares / tokens - mean**2, 0.0) ** 0.5 if tokens else 0.0,
        "grail/weight_min": -low if tokens else 1.0,
        "grail/weight_max": high if tokens else 1.0,
        "grail/clip_frac_min": at_min / scored if scored else 0.0,
        "grail/clip_frac_max": at_max / scored if scored else 0.0,
        "grail/answer_found_rate": found / rows if rows else 0.0,
        "grail/reweighted_rate": reweighted / rows if rows else 0.0,
        "grail/advantage_scale_ratio": scaled / plain if plain else 1.0,
        "grail/nonfinite_rows": nonfinite,
        "grail/saliency_rows": reweighted + nonfinite,
        "grail/saliency_seconds": seconds,
    }
