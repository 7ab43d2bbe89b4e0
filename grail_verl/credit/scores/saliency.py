"""GRAIL's score (arXiv 2606.04889; METHOD steps 2 to 4): gradient × activation, at a leaf of the model, of the answer's
log-likelihood.

One forward and one backward pass, up to the end of the answer, the head on its positions alone.

Shapes: B rows, S input positions (a packed micro-batch is one row), P prompt and T response tokens, N answer tokens of
the whole input, V vocabulary.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grail_verl.credit.batch import divisor
from grail_verl.credit.leaf import evaluating, leaf_gradient
from grail_verl.credit.scores.base import Score, register_score
from grail_verl.credit.scores.hops import hop_shares
from grail_verl.credit.scores.likelihood import log_likelihoods


@register_score("saliency")
class Saliency(Score):
    needs_answer = True
    model_pass = "gradient"
    # float16 has no room below 6e-8 for the small gradients of tokens far from the answer, and none above 65,504.
    # verl's scaler follows the update's loss, a mean over tokens; this one is a sum, so it gets a scale of its own.
    fp16_loss_scale = 256.0

    @property
    def at_the_token(self) -> bool:
        """Carried on from token to token, or multiplied by another score: both are at the token's own position."""
        return self.config.hops > 0 or len(self.config.scores) > 1

    @property
    def options(self):
        return frozenset({"leaf", "occurrence", "hops"} | ({"alignment"} if not self.at_the_token else set()))

    @property
    def alignment(self):
        return "token" if self.at_the_token else self.config.alignment

    @property
    def with_reasoning(self):
        return self.config.hops > 0

    def from_model(self, model, inputs, targets, recompute, loss_scale):
        if self.config.hops > 0:
            return sum(hop_shares(model, inputs, targets, self.config.hops, self.config.leaf, recompute, loss_scale))
        return position_scores(
            model,
            inputs,
            targets.keep_BS,
            targets.labels_N,
            targets.temperature_N,
            self.config.leaf,
            recompute,
            loss_scale,
        )


def position_scores(
    model: nn.Module,
    inputs: Mapping[str, object],
    keep_BS: Tensor,
    labels_N: Tensor,
    temperature_N: Tensor,
    leaf: str = "embeddings",
    recompute: Callable[[], bool] = lambda: False,
    loss_scale: float = 1.0,
) -> Tensor:
    """‖∂L/∂leaf ⊙ leaf‖₂ at every input position, L = −Σ log p(answer token) (METHOD steps 2 to 4).

    Args:
        model, inputs, leaf, recompute, loss_scale: see `leaf_gradient`.
        keep_BS: bool, the positions whose output predicts an answer token; the head runs on these alone.
        labels_N: the answer tokens, in the row-major order of keep_BS.
        temperature_N: float32, what the logits of each are divided by.

    Returns:
        (B, S) float32, detached.
    """

    def loss(output) -> Tensor:
        return -log_likelihoods(output, keep_BS, labels_N, temperature_N).sum()

    activation, gradient = leaf_gradient(model, inputs, keep_BS, loss, leaf, recompute, loss_scale)
    return (gradient * activation).norm(dim=-1)


def answer_saliency(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    response_length: int,
    answer_mask: Tensor,
    *,
    leaf: str = "embeddings",
    alignment: str = "predictor",
    temperature: float | Tensor = 1.0,
) -> Tensor:
    """Saliency of every response token for the response's own answer, on a plain causal LM.

    Args:
        model: causal LM; its mode is eval during the call and as found afterwards. With gradient checkpointing
            enabled, blocks are recomputed in the backward pass.
        input_ids: (B, P + T), prompts padded on the left, responses on the right.
        attention_mask: (B, P + T).
        response_length: T; at least one prompt position must remain.
        answer_mask: (B, T) bool. A row without answer tokens gets scores of 0.
        leaf: embeddings | first | middle | last.
        alignment: predictor (position P + t - 1, the one that predicts y_t) or token (P + t).
        temperature: the rollout's, a number or (B,).

    Returns:
        (B, T) float32.

    Raises:
        ValueError: shapes, an alignment or a temperature that are not allowed.
    """
    batch, length = input_ids.shape
    prompt_length = length - response_length
    if prompt_length < 1 or answer_mask.shape != (batch, response_length):
        raise ValueError(
            f"input_ids {tuple(input_ids.shape)} with response_length={response_length} and answer_mask "
            f"{tuple(answer_mask.shape)}; needed: (B, P+T) with P >= 1, and (B, T)"
        )
    if alignment not in ("predictor", "token"):
        raise ValueError(f"alignment={alignment!r} is not allowed; allowed: predictor | token")
    temperature_B = divisor(temperature).to(input_ids.device).expand(batch)
    answer_BT = answer_mask.bool()
    if not answer_BT.any():
        return torch.zeros(batch, response_length, dtype=torch.float32, device=input_ids.device)

    keep_BS = F.pad(answer_BT, (prompt_length - 1, 1))
    inputs = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "position_ids": (attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0),
    }
    with evaluating(model):
        scores_BS = position_scores(
            model,
            inputs,
            keep_BS,
            labels_N=input_ids[:, prompt_length:][answer_BT],
            temperature_N=temperature_B[:, None].expand_as(answer_BT)[answer_BT],
            leaf=leaf,
            recompute=lambda: model.is_gradient_checkpointing,
        )
    first = prompt_length - 1 if alignment == "predictor" else prompt_length
    return scores_BS[:, first : first + response_length]
