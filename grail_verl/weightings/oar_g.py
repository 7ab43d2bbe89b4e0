"""OAR-G (Outcome-grounded Advantage Reshaping, arXiv 2601.07408): how far a token's embedding moves the answer's
next-token distribution, and weights that keep their sum.

The embeddings of the response positions get a little noise; the score is the gradient of the divergence that this
causes, times the embeddings. Two forward passes and one backward, up to the answer, the head on its positions alone.

Shapes: R responses of a micro-batch or to be reweighted, N answer tokens, V vocabulary, D hidden size; B, T, S as in
weightings.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from grail_verl.saliency import LOSS_PART, answer_logits, leaf_gradient
from grail_verl.weightings import AnswerPositions, Weighting
from grail_verl.weights import finite_responses

NOISE_STD = 1e-3  # of the embeddings
EPS = 1e-12
TAU_RANK = 0.4  # share of a response's tokens below the threshold
FLOOR = 0.1  # least weight below it, before rescaling
BOOST = 2.0  # added weight of the most important token, before rescaling


class Scheme(Weighting):
    needs_logits = True
    fp16_loss_scale = 2.0**16  # the divergence's gradient is about 1e-3 of a log-likelihood's

    def selected(self, advantages_B):
        return torch.ones_like(advantages_B, dtype=torch.bool)

    def position_scores(self, model, inputs, positions, recompute, loss_scale):
        clean_RV = answer_distribution(answer_logits(model, inputs, positions.keep_BS), positions)

        def divergence(output) -> Tensor:
            noisy_RV = answer_distribution(output.logits, positions)
            return torch.nn.functional.kl_div(noisy_RV, clean_RV, reduction="sum", log_target=True)

        embedding_BSD, gradient_BSD = leaf_gradient(
            model,
            inputs,
            positions.keep_BS,
            divergence,
            recompute=recompute,
            loss_scale=loss_scale,
            perturb=lambda embedding_BSD: embedding_BSD + response_noise(embedding_BSD, positions),
        )
        return (gradient_BSD * embedding_BSD).sum(dim=-1).abs()

    def token_weights(self, scores_BT, response_mask_BT, answer_BT, content_BT, advantages_B):
        valid_BT = response_mask_BT.bool()
        reweighted_B = answer_BT.any(dim=-1) & finite_responses(scores_BT, valid_BT)
        weights_BT = torch.ones_like(scores_BT)
        if reweighted_B.any():
            weights_BT[reweighted_B] = reshaped(scores_BT[reweighted_B], valid_BT[reweighted_B]).to(weights_BT.dtype)
        return torch.where(valid_BT, weights_BT, 0.0)


def answer_distribution(logits_NV: Tensor, positions: AnswerPositions) -> Tensor:
    """Log of the softmax of the mean logits over each response's answer tokens: (R, V) float32.

    Under Ulysses a rank holds some of a response's positions. The means are over all; gradients go to the rank's
    own, and the engine's all-to-all carries them on."""
    rows = len(positions.lengths_R)
    total_RV = torch.zeros(rows, logits_NV.shape[-1], dtype=torch.float32, device=logits_NV.device)
    parts = zip(logits_NV.split(LOSS_PART), positions.response_N.split(LOSS_PART), strict=True)
    for logits, response in parts:
        total_RV = total_RV.index_add(0, response, logits.float())
    if positions.group is not None:
        others_RV = total_RV.detach().clone()
        dist.all_reduce(others_RV, group=positions.group)
        total_RV = total_RV + (others_RV - total_RV.detach())
    return (total_RV / positions.lengths_R[:, None]).log_softmax(dim=-1)


def response_noise(embedding_BSD: Tensor, positions: AnswerPositions) -> Tensor:
    """N(0, NOISE_STD²) at the positions that predict response tokens, else 0: like embedding_BSD.

    Drawn by a generator that each response's tokens seed: the same whatever rows and ranks it shares a batch with,
    and the trainer's random state stays as it is."""
    noise_BSD = torch.zeros_like(embedding_BSD)
    generator = torch.Generator(device=embedding_BSD.device)
    for (row, start, stop), seed in zip(positions.spans, positions.seeds, strict=True):
        generator.manual_seed(seed)
        size = (stop - start, embedding_BSD.shape[-1])
        of_response = NOISE_STD * torch.randn(size, generator=generator, device=embedding_BSD.device)
        first, last = max(start, positions.own.start), min(stop, positions.own.stop)  # Ulysses: what is this rank's
        if first < last:
            here = slice(first - positions.own.start, last - positions.own.start)
            noise_BSD[row, here] = of_response[first - start : last - start].to(noise_BSD.dtype)
    return noise_BSD


def reshaped(scores_RT: Tensor, valid_RT: Tensor) -> Tensor:
    """OAR-G's weights of each response from its scores; they sum to its number of valid tokens.

    Args:
        scores_RT: (R, T) float, at least 0.
        valid_RT: (R, T) bool, some True in each row.

    Returns:
        (R, T) float64; where valid_RT is False it means nothing. In float64, since scores of 1e-9 differ
        from one another by less than float32 holds beside 1.
    """
    raised_RT = scores_RT.double().log1p()
    low_R1 = raised_RT.masked_fill(~valid_RT, torch.inf).amin(dim=-1, keepdim=True)
    high_R1 = raised_RT.masked_fill(~valid_RT, -torch.inf).amax(dim=-1, keepdim=True)
    importance_RT = (raised_RT - low_R1) / (high_R1 - low_R1 + EPS)

    count_R1 = valid_RT.sum(dim=-1, keepdim=True)
    ascending_RT = importance_RT.masked_fill(~valid_RT, torch.inf).sort(dim=-1).values
    tau_R1 = ascending_RT.gather(-1, (count_R1.double() * TAU_RANK).long())
    weights_RT = torch.where(
        importance_RT < tau_R1,
        (importance_RT / (tau_R1 + EPS)).clamp(min=FLOOR),
        1 + BOOST * (importance_RT - tau_R1) / (1 - tau_R1 + EPS),
    )
    return weights_RT * count_R1 / weights_RT.masked_fill(~valid_RT, 0.0).sum(dim=-1, keepdim=True)
