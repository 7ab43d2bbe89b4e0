"""A number for each token from the distribution that predicted it, by one forward pass without gradient: what surprise
and entropy share where verl has not computed them.

Shapes: N tokens in question, V vocabulary; B, S as in base.py.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from grail_verl.credit.leaf import LOSS_PART, forward_at
from grail_verl.credit.rows import Targets


def prediction_scores(
    model: nn.Module,
    inputs: Mapping[str, object],
    targets: Targets,
    of_distribution: Callable[[Tensor, Tensor], Tensor],
    fused: str | None = None,
) -> Tensor:
    """(B, S) float32, 0 at positions that predict no token in question; (B, S, C) of C numbers each.

    Args:
        model, inputs, targets: as of Score.from_model.
        of_distribution: log-probs (n, V) float32 and tokens (n,) → (n,) or (n, C), a part of the N at a time.
        fused: what verl's fused kernels call the same in the model's output, (B, S), or by Triton one row behind the
            other; None where there are none.
    """
    output = forward_at(model, inputs, targets.keep_BS)
    by_kernel = None if fused is None else getattr(output, fused, None)
    if by_kernel is not None:  # temperature included
        values_N = by_kernel.view(targets.keep_BS.shape)[targets.keep_BS].float()
    else:
        parts = zip(
            *(part.split(LOSS_PART) for part in (output.logits, targets.labels_N, targets.temperature_N)), strict=True
        )
        values_N = torch.cat(
            [
                of_distribution((logits.float() / temperature[:, None]).log_softmax(dim=-1), labels)
                for logits, labels, temperature in parts
            ]
        )
    scores_BS = values_N.new_zeros((*targets.keep_BS.shape, *values_N.shape[1:]))
    scores_BS[targets.keep_BS] = values_N
    return scores_BS
