"""Credit carried back by hops (docs/hops.md; no paper known to us): saliency, repeated from what it found.

One gradient of the answer sees what the answer reads directly, the last result. So each further hop takes the gradient
of the log-likelihood of all the response's tokens, each weighted by what the hop before found at it. One forward and
hops + 1 backward passes over the same graph where it can be walked again, else a forward for each; all but the first
through the blocks alone.

Shapes: R responses of a micro-batch, N tokens of them up to the answer's end; B, S, D as in leaf.py.
"""

import contextlib
from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers.utils import ModelOutput

from grail_verl.credit.leaf import can_walk_again, leaf_graph
from grail_verl.credit.rows import Targets
from grail_verl.credit.scores.likelihood import log_likelihoods


def hop_shares(
    model: nn.Module,
    inputs: Mapping[str, object],
    targets: Targets,
    hops: int,
    leaf: str = "embeddings",
    recompute: Callable[[], bool] = lambda: False,
    loss_scale: float = 1.0,
) -> list[Tensor]:
    """s^0 … s^K at every input position, each a response's shares, which sum to 1 with its prompt's.

    s^k_p is ‖∂(Σ_t ω_t log p(token t)) / ∂leaf_p ⊙ leaf_p‖₂ over its sum; ω is 1/n on the answer's n tokens for
    k = 0, then s^(k-1) at the tokens' own positions over its sum.

    Args:
        model, inputs, leaf, recompute, loss_scale: see `leaf.leaf_gradient`.
        targets: the responses' tokens up to the answer's end, those of the answer marked.
        hops: K, how often the pass is repeated.

    Returns:
        (B, S) float32 each, detached.
    """
    again, shares = can_walk_again(model), []
    weight_N = _shares(targets.answer_N.float(), targets.response_N, targets)
    with contextlib.ExitStack() as graph:
        for hop in range(hops + 1):
            weight_BS1 = torch.zeros_like(targets.keep_BS, dtype=torch.float32)
            weight_BS1 = weight_BS1.masked_scatter(targets.keep_BS, weight_N)[..., None]
            if hop == 0:
                forward = leaf_graph(model, inputs, targets.keep_BS, leaf, recompute)
                output, activation, at, hidden = graph.enter_context(forward)
                gradient, slope_BSD = _from_the_head(
                    output, at, hidden, weight_BS1, targets, loss_scale, retain_graph=again and hops > 0
                )
                del output  # and with it all logits
            elif again:
                weighted_BSD = _weighted(slope_BSD, weight_BS1)
                (gradient,) = torch.autograd.grad(hidden, at, weighted_BSD, retain_graph=hop < hops)
            else:
                graph.close()
                forward = leaf_graph(model, inputs, _one_position(targets.keep_BS), leaf, recompute)
                output, activation, at, hidden = graph.enter_context(forward)
                gradient = _past_the_head(output, at, hidden, _weighted(slope_BSD, weight_BS1))
                del output
            score_BS = (gradient.float() * activation.detach().float()).norm(dim=-1)
            share_BS = _shares(score_BS, targets.response_BS, targets)
            shares.append(share_BS)
            weight_N = _shares(_at_the_tokens(share_BS, targets), targets.response_N, targets)
    return shares


def _from_the_head(
    output: ModelOutput,
    at: Tensor,
    hidden: Tensor,
    weight_BS1: Tensor,
    targets: Targets,
    loss_scale: float,
    retain_graph: bool,
) -> tuple[Tensor, Tensor]:
    """The gradient of the weighted sum at the leaf, and that of each log-likelihood at the last block's output, where
    it is its own position's. So weights come in there, and other weights need the head no more."""
    slopes: list[Tensor] = []

    def weigh(slope_BSD: Tensor) -> Tensor:
        slopes.append(slope_BSD)
        return _weighted(slope_BSD, weight_BS1)

    log_probs_N = log_likelihoods(output, targets.keep_BS, targets.labels_N, targets.temperature_N)
    hook = hidden.register_hook(weigh)
    try:
        (gradient,) = torch.autograd.grad(log_probs_N.sum() * loss_scale, at, retain_graph=retain_graph)
    finally:
        hook.remove()
    return gradient, slopes[0]


def _one_position(keep_BS: Tensor) -> Tensor:
    """As little of the head as there can be."""
    one_BS = torch.zeros_like(keep_BS)
    one_BS[0, 0] = True
    return one_BS


def _past_the_head(output: ModelOutput, at: Tensor, hidden: Tensor, weighted_BSD: Tensor) -> Tensor:
    """The gradient at the leaf of what the last block's output is given; the head's output gets none, but is walked:
    FSDP1 begins a backward pass by a hook on the whole model's output."""
    head = getattr(output, "log_probs", None)  # of verl's fused kernels
    head = output.logits if head is None else head
    (gradient,) = torch.autograd.grad([head, hidden], at, [torch.zeros_like(head), weighted_BSD])
    return gradient


def _weighted(slope_BSD: Tensor, weight_BS1: Tensor) -> Tensor:
    return (slope_BSD.float() * weight_BS1).to(slope_BSD.dtype)


def _shares(values: Tensor, response: Tensor, targets: Targets) -> Tensor:
    """The values over the sum of their response's, in both float32; 0 where that is 0. Under Ulysses the sum is over
    all ranks' parts."""
    sum_R1 = torch.zeros(len(targets.lengths_R) + 1, device=values.device)  # the last is padding's
    sum_R1.index_add_(0, response.flatten(), values.flatten())
    if targets.group is not None:
        dist.all_reduce(sum_R1, group=targets.group)
    return values / sum_R1.clamp(min=torch.finfo(torch.float32).tiny)[response]


def _at_the_tokens(values_BS: Tensor, targets: Targets) -> Tensor:
    """(N,): at each token's own position, the one behind that which predicts it; under Ulysses it may be another
    rank's."""
    if targets.group is not None:
        parts = [torch.empty_like(values_BS) for _ in range(dist.get_world_size(targets.group))]
        dist.all_gather(parts, values_BS.contiguous(), group=targets.group)
        values_BS = torch.cat(parts, dim=1)
    return values_BS.roll(-1, dims=1)[:, targets.own][targets.keep_BS]
