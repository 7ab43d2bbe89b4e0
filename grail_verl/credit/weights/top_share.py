"""The tokens with the largest scores weigh 1, all others 0: the 80/20 rule (arXiv 2506.01939), there for entropy.

The largest are the share `share` (0.2 in the paper) of the tokens that the policy wrote in all responses of the rollout
batch that have scores, on all ranks together; tokens of the same score as the last of them count too. Responses without
scores keep 1.

Scores 5, 1, 2 on one rank, 3, 4 on another and share 0.4: weights 1, 0, 0 and 0, 1.
"""

import math
from fractions import Fraction

import torch

from grail_verl.credit.weights.base import Weights, register_weights


@register_weights("top_share")
class TopShare(Weights):
    options = frozenset({"share"})
    compares_responses = True

    def token_weights(self, scores_BT, weighted_B, batch):
        weighted_BT = weighted_B[:, None] & batch.response_mask_BT
        all_N = batch.of_all_ranks(scores_BT[weighted_BT])
        if len(all_N) == 0:
            return torch.ones_like(scores_BT)
        count = math.ceil(Fraction(str(self.config.share)) * len(all_N))  # 0.07 of 100 is 7, in floats a little more
        least = all_N.kthvalue(len(all_N) - count + 1).values
        return torch.where(weighted_BT, (scores_BT >= least).float(), 1.0)
