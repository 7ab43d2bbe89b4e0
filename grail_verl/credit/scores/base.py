"""What a score is: one number for each token, by which weights are dealt out. The interface; one score, one file.

On the data's way: options → responses → answers → *scores* → weights → advantages. Micro-batches, sharding, packing,
Ulysses, failures and metrics are not a score's business.
"""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from grail_verl.credit.batch import RolloutBatch
from grail_verl.credit.config import GrailConfig
from grail_verl.credit.registry import Registry
from grail_verl.credit.rows import Targets

MODEL_PASSES = ("none", "forward", "gradient")


class Score:
    """A rule that scores tokens: from what the batch holds (`from_batch`), by a pass of the model (`from_model`), or
    from the batch where it holds enough and else by a pass.

    Shapes: B responses, T response tokens, S input positions of a micro-batch.

    Attributes:
        options: names of the options that it reads.
        needs: fields of RolloutBatch that may be None, without which there is no score.
        needs_answer: it is about the response's own answer. A response without one keeps weight 1, and what lies behind
            an answer is not computed and scores 0.
        with_reasoning: of a pass about an answer: the tokens before it are in question, too.
        model_pass: none | forward | gradient: what `from_model` does with the model; a forward pass keeps no graph.
        needs_logits: of a pass, in which verl's fused kernels give log-probs in place of logits: they are refused.
        alignment: of a pass, predictor | token: the input position whose score is a token's, the one before it, which
            predicts it, or its own.
        fp16_loss_scale: of a pass, brings its loss's gradients into float16's range.
    """

    options: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    needs_answer = False
    with_reasoning = False
    model_pass = "none"
    needs_logits = False
    alignment = "predictor"
    fp16_loss_scale = 1.0

    def __init__(self, config: GrailConfig):
        said = f"{type(self).__name__}.model_pass={self.model_pass!r}"
        passes = type(self).from_model is not Score.from_model
        if self.model_pass not in MODEL_PASSES:
            raise ValueError(f"{said} is not allowed; allowed: {' | '.join(MODEL_PASSES)}")
        if passes != (self.model_pass != "none"):
            raise ValueError(f"{said} does not fit: it has {'a' if passes else 'no'} from_model")
        if not passes and type(self).from_batch is Score.from_batch:
            raise ValueError(f"{type(self).__name__} scores nothing; needed: a from_batch, or a from_model")
        self.config = config

    def from_batch(self, batch: RolloutBatch) -> Tensor | None:
        """(B, T) float32 out of what is there already, or None where a pass is needed. Which of the two, every rank
        must answer alike: by the fields that are there, not by their values."""
        return None

    def from_model(
        self,
        model: nn.Module,
        inputs: Mapping[str, object],
        targets: Targets,
        recompute: Callable[[], bool],
        loss_scale: float,
    ) -> Tensor:
        """Scores of a micro-batch: (B, S) float32. Every rank makes the same calls of the model, whatever its rows:
        they gather sharded parameters.

        Args:
            model: in evaluation mode and under the update's autocast.
            inputs: the model's keyword inputs, padded (B, S) or packed (1, S).
            targets: the tokens in question: of answers, up to which the inputs then go, or of whole responses.
            recompute, loss_scale: see leaf.leaf_gradient.
        """
        raise NotImplementedError(f"{type(self).__name__} has no pass of the model")

    def of_positions(self, model, inputs, targets, recompute, loss_scale) -> Tensor:
        """What `from_model` makes, (B, S), as float32: what ranks send each other. Arguments as there.

        Raises:
            ValueError: scores of another shape.
        """
        scores_BS = self.from_model(model, inputs, targets, recompute, loss_scale)
        if scores_BS.shape != targets.keep_BS.shape:
            raise ValueError(
                f"{type(self).__name__}.from_model made scores of shape {tuple(scores_BS.shape)}; needed: one for each "
                f"input position, {tuple(targets.keep_BS.shape)}"
            )
        return scores_BS.float()


SCORES = Registry("score", Score)
register_score = SCORES.register
