"""Entropy, in nats, of the distribution that a token was drawn from, at the rollout's temperature, before top_k, top_p.

verl's V1 trainer has computed it beside the old log-probs; elsewhere it takes one forward pass without gradient.
"""

from torch import Tensor

from grail_verl.credit.scores.base import Score, register_score
from grail_verl.credit.scores.prediction import prediction_scores


@register_score("entropy")
class Entropy(Score):
    model_pass = "forward"

    def from_batch(self, batch):
        # Rounding puts the entropy of a certain token below 0.
        return None if batch.entropy_BT is None else batch.entropy_BT.clamp(min=0)

    def from_model(self, model, inputs, targets, recompute, loss_scale):
        return prediction_scores(model, inputs, targets, entropy, fused="entropy").clamp(min=0)


def entropy(log_probs_NV: Tensor, tokens_N: Tensor) -> Tensor:
    """(N,): of each distribution, whatever token was drawn from it."""
    return -(log_probs_NV.exp() * log_probs_NV).sum(dim=-1)
