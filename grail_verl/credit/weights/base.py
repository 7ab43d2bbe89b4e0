"""What weights are: how scores become the numbers that advantages are multiplied by. The interface; one rule, one file.

On the data's way: options → responses → answers → scores → *weights* → advantages.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from grail_verl.credit.batch import RolloutBatch
from grail_verl.credit.config import GrailConfig
from grail_verl.credit.registry import Registry


class Weights(ABC):
    """A rule that makes weights of scores, whatever the scores are. Shapes: B responses, T response tokens.

    Attributes:
        options: names of the options that it reads.
        needs: fields of RolloutBatch that may be None, without which there are no weights.
        bounds: where it clips weights, for the metrics `clip_frac_*`.
        compares_responses: a response's weights depend on other responses' scores. Then responses with an advantage
            of 0 are scored too, which else change nothing.
    """

    options: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    bounds = (float("-inf"), float("inf"))
    compares_responses = False

    def __init__(self, config: GrailConfig):
        self.config = config

    def selected(self, batch: RolloutBatch) -> Tensor:
        """(B,) bool: the responses that it weights by their scores."""
        return torch.ones_like(batch.advantages_B, dtype=torch.bool)

    @abstractmethod
    def token_weights(self, scores_BT: Tensor, weighted_B: Tensor, batch: RolloutBatch) -> Tensor:
        """(B, T) float: the weight of each token. A row that is no finite number keeps 1 and is counted.

        Args:
            scores_BT: float32, at least 0 by every score of this package; 0 where none were computed.
            weighted_B: bool, responses that are selected and have scores, all of them finite; with an answer where
                the score needs one. What the others get is the rule's to say; 1 changes nothing.
            batch: the responses.
        """


WEIGHTS = Registry("weights", Weights)
register_weights = WEIGHTS.register


def selected_by_advantage(batch: RolloutBatch, rollouts: str) -> Tensor:
    """(B,) bool: what the option `rollouts` (wrong | correct | all) chooses. METHOD step 6."""
    if rollouts == "wrong":
        return batch.advantages_B <= 0
    if rollouts == "correct":
        return batch.advantages_B > 0
    return torch.ones_like(batch.advantages_B, dtype=torch.bool)
