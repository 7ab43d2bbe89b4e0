"""Proportional weights: a response's tokens before its answer share the budget `total` by their scores.

weight = total · score / sum of the scores before the answer; the answer and what lies behind it weigh 0, and in a
response without an answer every token shares. Responses that `rollouts` leaves out keep 1, and so do those whose scores
before the answer are all 0: there is nothing to share by.

Scores 1, 3 before the answer and total 4: weights 1, 3.
"""

import torch

from grail_verl.credit.weights.base import Weights, register_weights, selected_by_advantage


@register_weights("proportional")
class Proportional(Weights):
    options = frozenset({"total", "rollouts", "occurrence"})

    def selected(self, batch):
        return selected_by_advantage(batch, self.config.rollouts)

    def token_weights(self, scores_BT, weighted_B, batch):
        shares_BT = torch.where(batch.reasoning_BT, scores_BT.double(), 0.0)
        weights_BT = self.config.total * shares_BT / shares_BT.sum(dim=-1, keepdim=True)
        return torch.where(weighted_B[:, None], weights_BT, 1.0).float()
