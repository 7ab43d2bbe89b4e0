"""Scores → token weights: the published arithmetic, on dense tensors, and nothing else.

Fourth room on the data's way: options → response → answer span → saliency → weights → advantages.
Shapes: B responses, R of them reweighted, T response tokens, padded on the right where response_mask is 0.
"""

import torch
from torch import Tensor

from grail_verl.config import GrailConfig

EPS = 1e-8  # METHOD: inside the logarithm and beside the variance


def response_advantage(advantages: Tensor, response_mask: Tensor) -> Tensor:
    """The one advantage A_i of each response.

    Args:
        advantages: (B,) or, as verl holds them, (B, T): A_i on every valid token.
        response_mask: (B, T).

    Returns:
        (B,): the first valid token's advantage, 0 for a response without valid tokens.
    """
    if advantages.dim() == 1:
        return advantages
    valid = response_mask.bool()
    first = valid & (valid.cumsum(dim=-1) == 1)
    return torch.where(first, advantages, 0.0).sum(dim=-1)


def selected_responses(advantages_B: Tensor, rollouts: str) -> Tensor:
    """Which responses `rollouts` (wrong | correct | all) reweights: (B,) bool. METHOD step 6."""
    if rollouts == "wrong":
        return advantages_B <= 0
    if rollouts == "correct":
        return advantages_B > 0
    return torch.ones_like(advantages_B, dtype=torch.bool)


def behind_answer(answer_mask: Tensor) -> Tensor:
    """(B, T) bool: the positions behind the answer; none where a row has no answer."""
    answer = answer_mask.bool()
    seen = answer.cumsum(dim=-1) > 0
    return seen & ~answer.flip(-1).cumsum(dim=-1).flip(-1).bool()


def finite_responses(scores: Tensor, response_mask: Tensor) -> Tensor:
    """(B,) bool: every valid token's score is a finite number."""
    return (torch.isfinite(scores) | ~response_mask.bool()).all(dim=-1)


def token_weights(
    scores: Tensor,
    response_mask: Tensor,
    answer_mask: Tensor,
    content_mask: Tensor,
    advantages: Tensor,
    config: GrailConfig,
) -> Tensor:
    """Token weights of each response (METHOD steps 5 to 8; arXiv 2606.04889).

    z standardises log(score + 1e-8) over the response's valid tokens (`statistics: response`) or over the
    valid tokens before its answer (`reasoning`), with population variance; w = clip(mean + std * z). In
    every response with an answer the content gets w_max, boundary and what lies behind get `mean`. All
    other tokens keep 1: those of responses that `rollouts` leaves out, that have no answer (an empty row
    of answer_mask), or whose scores are not finite. Where response_mask is 0 the weight is 0.

    Args:
        scores: (B, T) float, at least 0.
        response_mask: (B, T) bool or 0/1.
        answer_mask: (B, T) bool or 0/1, the tokens of the `\\boxed{…}` expression, contiguous in a row.
        content_mask: (B, T) bool or 0/1, the answer tokens strictly inside the braces.
        advantages: (B,) or (B, T).
        config: the options.

    Returns:
        (B, T) float32.

    Raises:
        ValueError: shapes that do not fit together.
    """
    shape = scores.shape
    for name, tensor in (
        ("response_mask", response_mask), ("answer_mask", answer_mask), ("content_mask", content_mask)
    ):
        if tensor.shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, scores have {tuple(shape)}")
    if advantages.shape not in (shape, shape[:1]):
        raise ValueError(f"advantages have shape {tuple(advantages.shape)}; allowed: {tuple(shape[:1])} or "
                         f"{tuple(shape)}")

    valid_BT, answer_BT, content_BT = response_mask.bool(), answer_mask.bool(), content_mask.bool()
    behind_BT = behind_answer(answer_BT)
    reasoning_BT = valid_BT & ~answer_BT & ~behind_BT
    reweighted_B = (
        selected_responses(response_advantage(advantages, response_mask), config.rollouts)
        & answer_BT.any(dim=-1)
        & finite_responses(scores, response_mask)
    )

    weights_BT = torch.ones(shape, device=scores.device)
    if reweighted_B.any():
        counted_BT = reasoning_BT if config.statistics == "reasoning" else valid_BT
        z_RT = _standardised(scores[reweighted_B], counted_BT[reweighted_B])
        scored_RT = (config.mean + config.std * z_RT).clamp(config.w_min, config.w_max).float()
        weights_BT[reweighted_B] = torch.where(reasoning_BT[reweighted_B], scored_RT, 1.0)
    weights_BT = torch.where(answer_BT | behind_BT, config.mean, weights_BT)
    weights_BT = torch.where(answer_BT & content_BT, config.w_max, weights_BT)
    return torch.where(valid_BT, weights_BT, 0.0)


def _standardised(scores_RT: Tensor, counted_RT: Tensor) -> Tensor:
    """z of the log-scores by the mean and population variance over each row's counted tokens; float64, since
    equal scores must give z = 0, but a float32 mean is off by an ulp of -18.4, and sqrt(var + eps) = 1e-4
    would blow that up to a visible weight."""
    log_RT = (scores_RT.double() + EPS).log()
    count_R1 = counted_RT.sum(dim=-1, keepdim=True).clamp(min=1)
    mean_R1 = torch.where(counted_RT, log_RT, 0.0).sum(dim=-1, keepdim=True) / count_R1
    var_R1 = torch.where(counted_RT, (log_RT - mean_R1) ** 2, 0.0).sum(dim=-1, keepdim=True) / count_R1
    return (log_RT - mean_R1) / (var_R1 + EPS).sqrt()
