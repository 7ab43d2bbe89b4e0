"""A rule of credit in a file of one's own: a wrong response is blamed from its greatest doubt on.

    bash recipes/own_rule/run.sh

A token's score is its doubt: by how many nats it was more surprising than the response's tokens are on average, 0 where
it was not. In a response with a negative advantage the tokens before the most doubtful one weigh 0, that one and what
follows 1: until then the policy had no reason to think that it went wrong. Other responses keep 1.

Surprises 0.1, 0.1, 2.1, 0.1, which are 0.6 on average: doubts 0, 0, 1.5, 0, and in a wrong response weights 0, 0, 1, 1.
"""

import torch

from grail_verl import Score, Weights, register_score, register_weights


@register_score("doubt")
class Doubt(Score):
    needs = frozenset({"old_log_probs_BT"})

    def from_batch(self, batch):
        own_BT = batch.response_mask_BT
        surprise_BT = torch.where(own_BT, -batch.old_log_probs_BT, 0.0)
        mean_B1 = surprise_BT.sum(dim=-1, keepdim=True) / own_BT.sum(dim=-1, keepdim=True)
        return torch.where(own_BT, surprise_BT - mean_B1, 0.0).clamp(min=0)


@register_weights("from_peak")
class FromPeak(Weights):
    def selected(self, batch):
        return batch.advantages_B < 0

    def token_weights(self, scores_BT, weighted_B, batch):
        peak_B1 = scores_BT.argmax(dim=-1, keepdim=True)
        from_peak_BT = torch.arange(scores_BT.shape[-1], device=scores_BT.device) >= peak_B1
        return torch.where(weighted_B[:, None], from_peak_BT.float(), 1.0)
