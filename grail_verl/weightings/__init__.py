"""The interface of a weighting: how a response's own answer becomes token weights. One scheme, one file.

Stands between the hook (worker.py), which chooses rows and multiplies advantages, and the arithmetic of a scheme.
A further one is a file `weightings/<name>.py` whose class `Scheme` derives from `Weighting`; its name is then a value
of `algorithm.grail.weighting`. It says which responses it weights (`selected`), scores input positions by passes
through the model (`position_scores`; saliency.py has the gradient at a leaf) and turns a response's scores into
weights (`token_weights`). Micro-batches, sharding, packing, Ulysses, failures and metrics are not its business.

Nothing here imports torch: the options are checked where it need not be loaded.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.distributed import ProcessGroup

    from grail_verl.config import GrailConfig

NAMES = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


@dataclass(frozen=True)
class AnswerPositions:
    """Where the answers of a micro-batch are predicted, and what belongs to each place.

    R responses, N answer tokens in row-major order of keep_BS. Under Ulysses (B, S) and N are this rank's part, R and
    spans those of the whole micro-batch.

    Attributes:
        keep_BS: bool, the input positions whose output predicts an answer token.
        labels_N: int64, those tokens.
        temperature_N: float32, the rollout's, for each.
        response_N: int64, the response that each belongs to.
        lengths_R: float32, tokens of each answer.
        spans: row, start and stop of the positions that predict each response's tokens.
        seeds: a number for each response that its tokens determine.
        own: the part of the positions 0 … S that is this rank's.
        group: the ranks that share the positions, None without Ulysses.
    """

    keep_BS: Tensor
    labels_N: Tensor
    temperature_N: Tensor
    response_N: Tensor
    lengths_R: Tensor
    spans: list[tuple[int, int, int]]
    seeds: list[int]
    own: slice
    group: ProcessGroup | None


class Weighting(ABC):
    """A weighting scheme. Shapes: B responses, T response tokens, S input positions of a micro-batch.

    Attributes:
        options: names of the options it reads, beside those that are everyone's (config.EVERYONES).
        needs_logits: verl's fused kernels, which give log-probs in place of logits, are refused.
        bounds: where it clips weights, for the metrics `clip_frac_*`.
        alignment: predictor | token: the input position whose score is a token's.
        fp16_loss_scale: brings its loss's gradients into float16's range.
    """

    options: frozenset[str] = frozenset()
    needs_logits = False
    bounds = (float("-inf"), float("inf"))
    alignment = "predictor"
    fp16_loss_scale = 1.0

    def __init__(self, config: GrailConfig):
        self.config = config

    @abstractmethod
    def selected(self, advantages_B: Tensor) -> Tensor:
        """(B,) bool: the responses it weights, by their advantage. Scores are computed for those among them that
        have an answer and an advantage other than 0."""

    @abstractmethod
    def position_scores(
        self,
        model: nn.Module,
        inputs: Mapping[str, object],
        positions: AnswerPositions,
        recompute: Callable[[], bool],
        loss_scale: float,
    ) -> Tensor:
        """Scores of a micro-batch that ends with its answers: (B, S) float32. Every rank makes the same calls of
        the model, whatever its rows: they gather sharded parameters.

        Args:
            model: verl's, in evaluation mode and under its autocast.
            inputs: the model's keyword inputs, padded (B, S) or packed (1, S).
            positions: where the answers are.
            recompute, loss_scale: see saliency.leaf_gradient.
        """

    @abstractmethod
    def token_weights(
        self,
        scores_BT: Tensor,
        response_mask_BT: Tensor,
        answer_BT: Tensor,
        content_BT: Tensor,
        advantages_B: Tensor,
    ) -> Tensor:
        """(B, T) float32: 0 where response_mask is 0; 1 in responses that it does not weight, that have no answer,
        or whose scores are not finite. Scores are 0 where none were computed, and behind the answer."""


def scheme(name: str) -> type[Weighting]:
    """The class of a name out of NAMES."""
    return importlib.import_module(f"{__name__}.{name}").Scheme
