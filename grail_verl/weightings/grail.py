"""GRAIL (arXiv 2606.04889): gradient × activation of the answer's log-likelihood at a leaf, weights by its logarithm.

saliency.py has its score (METHOD steps 2 to 4), weights.py its arithmetic (steps 5 to 8).
"""

from grail_verl.saliency import position_scores
from grail_verl.weightings import Weighting
from grail_verl.weights import selected_responses, token_weights


class Scheme(Weighting):
    options = frozenset({"std", "mean", "w_min", "w_max", "leaf", "rollouts", "alignment", "statistics"})
    # float16 has no room below 6e-8 for the small gradients of tokens far from the answer, and none above 65,504.
    # verl's scaler follows the update's loss, a mean over tokens; this one is a sum, so it gets a scale of its own.
    fp16_loss_scale = 256.0

    @property
    def bounds(self):
        return self.config.w_min, self.config.w_max

    @property
    def alignment(self):
        return self.config.alignment

    def selected(self, advantages_B):
        return selected_responses(advantages_B, self.config.rollouts)

    def position_scores(self, model, inputs, positions, recompute, loss_scale):
        return position_scores(
            model,
            inputs,
            positions.keep_BS,
            positions.labels_N,
            positions.temperature_N,
            self.config.leaf,
            recompute,
            loss_scale,
        )

    def token_weights(self, scores_BT, response_mask_BT, answer_BT, content_BT, advantages_B):
        return token_weights(scores_BT, response_mask_BT, answer_BT, content_BT, advantages_B, self.config)
