"""What a user reads in the logger under `actor/grail/`: one line per quantity, exact over all ranks.

Rates are weighted by rows or tokens: ranks add up counts and sums first and divide afterwards.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def weight_metrics(
    weights: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    found: Tensor,
    reweighted: Tensor,
    scored: Tensor,
    nonfinite: Tensor,
    seconds: float,
    bounds: tuple[float, float],
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
        scored: (B, T) bool, the tokens before the answer of reweighted responses.
        seconds: this rank's time in the saliency pass.
        bounds: where weights were clipped.
        device, group: of the collective.

    Returns:
        name → value, the same on every rank.
    """
    rows_B = response_mask.bool().any(dim=-1)
    matter_BT = response_mask.bool() & (advantages != 0)
    weights_N, sizes_N = weights[matter_BT], advantages[matter_BT].double().abs()
    scored_M = weights_N[scored[matter_BT]]  # compared with the bounds in float32, as they were clamped
    weights_N = weights_N.double()
    sums = torch.cat(  # small tensors: as few operations as may be
        [
            torch.stack([rows_B, rows_B & found, reweighted, nonfinite]).sum(dim=-1).double(),
            torch.stack([weights_N, weights_N**2, weights_N * sizes_N, sizes_N]).sum(dim=-1),
            torch.stack([scored_M <= bounds[0], scored_M >= bounds[1]]).sum(dim=-1).double(),
            torch.tensor([weights_N.numel(), scored_M.numel()], dtype=torch.float64, device=weights.device),
        ]
    )
    some = weights_N.numel() > 0
    extremes = torch.tensor(
        [-weights_N.min() if some else -torch.inf, weights_N.max() if some else -torch.inf, seconds],
        dtype=torch.float64,
    )
    sums, extremes = sums.to(device), extremes.to(device)
    dist.all_reduce(sums, op=dist.ReduceOp.SUM, group=group)
    dist.all_reduce(extremes, op=dist.ReduceOp.MAX, group=group)
    (rows, found, reweighted, nonfinite, total, squares, scaled, plain, at_min, at_max, tokens, scored) = (
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
