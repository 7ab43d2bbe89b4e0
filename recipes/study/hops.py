"""Credit carried back by hops, every number of them from one graph; and variants of it that the plugin does not have.

Beside credit.py and hop_variants.py. The formula is that of grail_verl/credit/scores/hops.py, which gives one number of
hops at a time; the tests hold this to it. Variants (`Variant`) are for comparison alone, nothing trains with them.

Shapes: B responses, a row each; S input positions, padded on the right; N tokens in question; K hops.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from grail_verl.credit.leaf import leaf_graph
from grail_verl.credit.rows import Targets
from grail_verl.credit.scores.likelihood import log_likelihoods

Hop = Callable[[Tensor], Tensor]  # (N,) credit of the tokens → (B, S) what they were predicted from gets


@dataclass(frozen=True)
class Variant:
    """How a hop hands credit on.

    Attributes:
        leaf: where the gradient is taken.
        signs: as the norm of one gradient, of Σ_t ±√ω_t ℓ_t, each sign drawn anew for each hop: gradients of different
            tokens do not cancel, and the squared norm is in expectation the sum of the tokens' own. The first hop, from
            the answer, is without.
        log_odds: ℓ_t = log p / (1 − p).
        token_by_token: every token hands on by shares that sum to 1, as in carried.py, for a backward pass each.
    """

    leaf: str = "embeddings"
    signs: bool = False
    log_odds: bool = False
    token_by_token: bool = False


def hop_scores(
    model, inputs: Mapping[str, Tensor], targets: Targets, hops: int, variant: Variant = Variant()
) -> Tensor:
    """Scores of every input position for 0 … K hops.

    Args:
        model: causal LM in evaluation mode.
        inputs, targets: of `response.in_batch`; in question are all tokens, those that credit starts from are the
            answer's.

    Returns:
        (K + 1, B, S) float32.
    """
    keep_BS = targets.keep_BS
    with leaf_graph(model, inputs, keep_BS, variant.leaf) as (output, activation, at, _):
        if variant.log_odds:
            value_N = log_odds(output.logits, targets.labels_N)
        else:
            value_N = log_likelihoods(output, keep_BS, targets.labels_N, targets.temperature_N)

        def saliency(coefficient_N: Tensor) -> Tensor:
            (gradient,) = torch.autograd.grad((coefficient_N * value_N).sum(), at, retain_graph=True)
            return (gradient * activation).norm(dim=-1).detach()

        hop = by_token(saliency, targets) if variant.token_by_token else saliency
        credit_BS = torch.zeros(keep_BS.shape).masked_scatter(keep_BS, targets.answer_N.float()).roll(1, dims=1)
        generators = [torch.Generator().manual_seed(seed) for seed in targets.seeds]
        found = []
        for number in range(hops + 1):
            of_response_BS = credit_BS * keep_BS.roll(1, dims=1)
            weight_N = shares(of_response_BS).roll(-1, dims=1)[keep_BS]
            if variant.signs and number:
                weight_N = weight_N.sqrt() * random_signs(generators, targets.lengths_R)
            credit_BS = shares(hop(weight_N))
            found.append(credit_BS)
    return torch.stack(found).cumsum(dim=0)


def shares(values_BS: Tensor) -> Tensor:
    """Of each row's sum; 0 where that is 0."""
    return values_BS / values_BS.sum(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)


def by_token(saliency: Hop, targets: Targets) -> Hop:
    """Credit times the shares that each token hands on by itself, summed."""
    place_N = torch.cat([torch.arange(int(length)) for length in targets.lengths_R])
    shares_TBS = torch.stack([shares(saliency((place_N == place).float())) for place in range(int(place_N.max()) + 1)])

    def hop(weight_N: Tensor) -> Tensor:
        weight_BT = torch.zeros(len(targets.lengths_R), len(shares_TBS))
        weight_BT[targets.response_N, place_N] = weight_N
        return torch.einsum("bt,tbs->bs", weight_BT, shares_TBS)

    return hop


def random_signs(generators: list[torch.Generator], lengths_R: Tensor) -> Tensor:
    """(N,) of ±1, which a response's tokens and the number of the draw determine."""
    drawn = [
        torch.randint(2, (int(length),), generator=generator)
        for generator, length in zip(generators, lengths_R, strict=True)
    ]
    return 2.0 * torch.cat(drawn) - 1


def log_odds(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """(N,): a logit over the log of the others' sum, which keeps its gradient where p is all but 1."""
    of_token = torch.nn.functional.one_hot(labels_N, logits_NV.shape[1]).bool()
    return logits_NV[of_token] - logits_NV.masked_fill(of_token, -torch.inf).logsumexp(dim=1)
