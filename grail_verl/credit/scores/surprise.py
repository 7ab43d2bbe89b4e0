"""Surprise: the negative log-probability of the token itself, at the rollout's temperature.

verl's old log-probs give it for nothing; responses out of files need one forward pass without gradient.
"""

from torch import Tensor

from grail_verl.credit.scores.base import Score, register_score
from grail_verl.credit.scores.prediction import prediction_scores


@register_score("surprise")
class Surprise(Score):
    model_pass = "forward"

    def from_batch(self, batch):
        return None if batch.old_log_probs_BT is None else _surprise(batch.old_log_probs_BT)

    def from_model(self, model, inputs, targets, recompute, loss_scale):
        return _surprise(prediction_scores(model, inputs, targets, log_prob, fused="log_probs"))


def log_prob(log_probs_NV: Tensor, tokens_N: Tensor) -> Tensor:
    """(N,): of each token."""
    return log_probs_NV.gather(-1, tokens_N[:, None]).squeeze(-1)


def _surprise(log_probs: Tensor) -> Tensor:
    return (-log_probs).clamp(min=0)  # rounding puts the log-prob of a certain token above 0
