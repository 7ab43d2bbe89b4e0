"""Two controls beside GRAIL and OAR-G, behind the plugin's own interface of a weighting.

train.py puts them in the place of the worker's scheme: nobody but the study should train with them, so they are no
value of `algorithm.grail.weighting`. Shapes as in grail_verl/weightings: B rows, S input positions, T response tokens.
"""

import torch

from grail_verl.config import GrailConfig
from grail_verl.weightings.grail import Scheme as Grail


class Shuffled(Grail):
    """GRAIL's weights, dealt out at random among the tokens of each response: the same numbers, in no place."""

    def __init__(self, config: GrailConfig, seed: int):
        super().__init__(config)
        self._random = torch.Generator().manual_seed(seed)

    def token_weights(self, scores_BT, response_mask_BT, answer_BT, content_BT, advantages_B):
        weights_BT = super().token_weights(scores_BT, response_mask_BT, answer_BT, content_BT, advantages_B)
        for weights_T, valid_T in zip(weights_BT, response_mask_BT.bool()):
            own = weights_T[valid_T]
            weights_T[valid_T] = own[torch.randperm(len(own), generator=self._random)]
        return weights_BT


class Surprise(Grail):
    """GRAIL's weights of another score: a token's negative log-probability under the policy, at temperature 1."""

    needs_logits = True

    def position_scores(self, model, inputs, positions, recompute, loss_scale):
        with torch.no_grad():
            log_probs_BSV = model(**inputs, use_cache=False).logits.float().log_softmax(dim=-1)
        following_BS1 = inputs["input_ids"].roll(-1, dims=-1)[..., None]
        return -log_probs_BSV.gather(-1, following_BS1).squeeze(-1)
