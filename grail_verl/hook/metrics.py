"""What a user reads in the logger under `actor/grail/`: one line per quantity, exact over all ranks.

Behind the weights in the hook (worker.py). Rates are weighted by rows or tokens: ranks add up counts and sums first and
divide afterwards.
"""

import torch
import torch.distributed as dist
from verl.utils.device import get_device_id

from grail_verl.credit.batch import Credit


def credit_metrics(credit: Credit, bounds: tuple[float, float], rows: int, seconds: float) -> dict[str, float]:
    """The metrics of one rollout batch; a collective call over the batch's ranks.

    Responses without a valid token (verl's padding rows) are not counted. The weights described are those
    that change something: on valid tokens whose advantage is not zero.

    Args:
        credit: of this rank.
        bounds: where weights were clipped.
        rows: of this rank, that went through a pass of the model.
        seconds: this rank's time for the scores.

    Returns:
        name → value, the same on every rank.
    """
    batch, weights, advantages = credit.batch, credit.weights_BT, credit.batch.advantages_BT
    rows_B = batch.response_mask_BT.any(dim=-1)
    found_B = rows_B & batch.answered_B
    matter_BT = batch.response_mask_BT & (advantages != 0)
    weights_N, sizes_N = weights[matter_BT], advantages[matter_BT].double().abs()
    scored_BT = credit.weighted_B[:, None] & batch.reasoning_BT
    scored_M = weights_N[scored_BT[matter_BT]]  # compared with the bounds in float32, as they were clamped
    weights_N = weights_N.double()
    sums = torch.cat(  # small tensors: as few operations as may be
        [
            torch.stack([rows_B, found_B, credit.weighted_B, credit.nonfinite_B]).sum(dim=-1).double(),
            torch.stack([weights_N, weights_N**2, weights_N * sizes_N, sizes_N]).sum(dim=-1),
            torch.stack([scored_M <= bounds[0], scored_M >= bounds[1]]).sum(dim=-1).double(),
            torch.tensor([weights_N.numel(), scored_M.numel(), rows], dtype=torch.float64, device=weights.device),
        ]
    )
    some = weights_N.numel() > 0
    extremes = torch.tensor(
        [-weights_N.min() if some else -torch.inf, weights_N.max() if some else -torch.inf, seconds],
        dtype=torch.float64,
    )
    sums, extremes = sums.to(get_device_id()), extremes.to(get_device_id())
    dist.all_reduce(sums, op=dist.ReduceOp.SUM, group=batch.ranks)
    dist.all_reduce(extremes, op=dist.ReduceOp.MAX, group=batch.ranks)
    (rows, found, weighted, nonfinite, total, squares, scaled, plain, at_min, at_max, tokens, scored, passed) = (
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
        "grail/reweighted_rate": weighted / rows if rows else 0.0,
        "grail/advantage_scale_ratio": scaled / plain if plain else 1.0,
        "grail/nonfinite_rows": nonfinite,
        "grail/saliency_rows": passed,
        "grail/saliency_seconds": seconds,
    }
