"""The study's control: GRAIL's weights in no place. Named to the plugin by `algorithm.grail.modules`, see train.py."""

import torch

from grail_verl import GrailConfig, register_weights
from grail_verl.credit.weights.standardised import Standardised


@register_weights("shuffled")
class Shuffled(Standardised):
    """GRAIL's weights, dealt out at random among the tokens of each response: the same numbers, in no place."""

    def __init__(self, config: GrailConfig):
        super().__init__(config)
        self._random = torch.Generator().manual_seed(torch.initial_seed())  # the run's

    def token_weights(self, scores_BT, weighted_B, batch):
        weights_BT = super().token_weights(scores_BT, weighted_B, batch)
        for weights_T, valid_T in zip(weights_BT, batch.response_mask_BT):
            own = weights_T[valid_T]
            weights_T[valid_T] = own[torch.randperm(len(own), generator=self._random)]
        return weights_BT
