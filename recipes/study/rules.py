"""The study's controls: a rule's weights in other places. Named to the plugin by `algorithm.grail.modules`, methods.py.

The numbers of a response's weights stay as they are, or their sum; so a rule that is no better than these owes nothing
to where its weights are.
"""

import torch

from grail_verl import GrailConfig, register_weights
from grail_verl.credit.weights.proportional import Proportional
from grail_verl.credit.weights.standardised import Standardised


class Shuffling:
    """Deals out numbers at random, which a run's seed determines."""

    def __init__(self, config: GrailConfig):
        super().__init__(config)
        self._random = torch.Generator().manual_seed(torch.initial_seed())  # the run's

    def moved(self, weights_N: torch.Tensor) -> torch.Tensor:
        return weights_N[torch.randperm(len(weights_N), generator=self._random)]


@register_weights("shuffled")
class Shuffled(Shuffling, Standardised):
    """GRAIL's weights, dealt out at random among the tokens of each response: the same numbers, in no place."""

    def token_weights(self, scores_BT, weighted_B, batch):
        weights_BT = super().token_weights(scores_BT, weighted_B, batch)
        for weights_T, valid_T in zip(weights_BT, batch.response_mask_BT):
            weights_T[valid_T] = self.moved(weights_T[valid_T])
        return weights_BT


class Moved(Proportional):
    """Shares of the tokens before the answer of each weighted response, moved among them by `moved`."""

    def token_weights(self, scores_BT, weighted_B, batch):
        weights_BT = super().token_weights(scores_BT, weighted_B, batch)
        for row in weighted_B.nonzero()[:, 0].tolist():
            before_T = batch.reasoning_BT[row]
            weights_BT[row, before_T] = self.moved(weights_BT[row, before_T])
        return weights_BT


@register_weights("shuffled_shares")
class ShuffledShares(Shuffling, Moved):
    """In no place."""


@register_weights("inverted_shares")
class InvertedShares(Moved):
    """In the wrong place: the token with the largest share gets the smallest, and so on by rank."""

    def moved(self, weights_N):
        by_rank_N = weights_N.argsort()
        return torch.empty_like(weights_N).scatter(0, by_rank_N, weights_N[by_rank_N.flip(0)])


@register_weights("even_shares")
class EvenShares(Moved):
    """In every place: the same sum."""

    def moved(self, weights_N):
        return weights_N.mean().expand_as(weights_N)
