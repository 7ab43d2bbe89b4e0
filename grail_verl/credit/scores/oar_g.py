"""OAR-G's score (Outcome-grounded Advantage Reshaping, arXiv 2601.07408): how far a token's embedding moves the
answer's next-token distribution.

The embeddings of the response positions get a little noise; the score is the gradient of the divergence that this
causes, times the embeddings. Two forward passes and one backward, up to the answer, the head on its positions alone.
With the weights `reshaped` it is the whole method.

Shapes: R responses of a micro-batch, N answer tokens, V vocabulary, D hidden size; B, S as in base.py.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from grail_verl.credit.leaf import LOSS_PART, leaf_gradient, logits_at
from grail_verl.credit.rows import Targets
from grail_verl.credit.scores.base import Score, register_score

NOISE_STD = 1e-3  # of the embeddings


@register_score("oar_g")
class OarG(Score):
    options = frozenset({"occurrence"})
    needs_answer = True
    model_pass = "gradient"
    needs_logits = True
    fp16_loss_scale = 2.0**16  # the divergence's gradient is about 1e-3 of a log-likelihood's

    def from_model(self, model, inputs, targets, recompute, loss_scale):
        clean_RV = answer_distribution(logits_at(model, inputs, targets.keep_BS), targets)

        def divergence(output) -> Tensor:
            noisy_RV = answer_distribution(output.logits, targets)
            return torch.nn.functional.kl_div(noisy_RV, clean_RV, reduction="sum", log_target=True)

        embedding_BSD, gradient_BSD = leaf_gradient(
            model,
            inputs,
            targets.keep_BS,
            divergence,
            recompute=recompute,
            loss_scale=loss_scale,
            perturb=lambda embedding_BSD: embedding_BSD + response_noise(embedding_BSD, targets),
        )
        return (gradient_BSD * embedding_BSD).sum(dim=-1).abs()


def answer_distribution(logits_NV: Tensor, targets: Targets) -> Tensor:
    """Log of the softmax of the mean logits over each response's answer tokens: (R, V) float32.

    Under Ulysses a rank holds some of a response's positions. The means are over all; gradients go to the rank's
    own, and the engine's all-to-all carries them on."""
    rows = len(targets.lengths_R)
    total_RV = torch.zeros(rows, logits_NV.shape[-1], dtype=torch.float32, device=logits_NV.device)
    parts = zip(logits_NV.split(LOSS_PART), targets.response_N.split(LOSS_PART), strict=True)
    for logits, response in parts:
        total_RV = total_RV.index_add(0, response, logits.float())
    if targets.group is not None:
        others_RV = total_RV.detach().clone()
        dist.all_reduce(others_RV, group=targets.group)
        total_RV = total_RV + (others_RV - total_RV.detach())
    return (total_RV / targets.lengths_R[:, None]).log_softmax(dim=-1)


def response_noise(embedding_BSD: Tensor, targets: Targets) -> Tensor:
    """N(0, NOISE_STD²) at the positions that predict response tokens, else 0: like embedding_BSD.

    Drawn by a generator that each response's tokens seed: the same whatever rows and ranks it shares a batch with,
    and the trainer's random state stays as it is."""
    noise_BSD = torch.zeros_like(embedding_BSD)
    generator = torch.Generator(device=embedding_BSD.device)
    for (row, start, stop), seed in zip(targets.spans, targets.seeds, strict=True):
        generator.manual_seed(seed)
        size = (stop - start, embedding_BSD.shape[-1])
        of_response = NOISE_STD * torch.randn(size, generator=generator, device=embedding_BSD.device)
        first, last = max(start, targets.own.start), min(stop, targets.own.stop)  # Ulysses: what is this rank's
        if first < last:
            here = slice(first - targets.own.start, last - targets.own.start)
            noise_BSD[row, here] = of_response[first - start : last - start].to(noise_BSD.dtype)
    return noise_BSD
