"""OAR-G worked out without grail_verl: one response at a time on the plain model, weights by loops over numbers.

METHOD leaves the noise to chance; which noise a response gets is ours, and repeated here: a generator seeded with the
CRC-32 of its tokens up to the answer's end.
"""

import math
from zlib import crc32

import torch


def scores(model, ids: torch.Tensor, prompt_length: int, answer: range, response_length: int) -> list[float]:
    """|gradient · embedding| of each response token; answer: its tokens, counted in the response."""
    end = prompt_length + answer.stop
    predictors = slice(prompt_length + answer.start - 1, end - 1)
    embedded = model.get_input_embeddings()(ids[None, :end]).detach()
    generator = torch.Generator().manual_seed(crc32(ids[:end].numpy().tobytes()))
    noise = 1e-3 * torch.randn((answer.stop, embedded.shape[-1]), generator=generator)
    noisy = embedded.clone()
    noisy[0, prompt_length - 1 : end - 1] += noise
    noisy.requires_grad_()

    def distribution(embeddings):
        return model(inputs_embeds=embeddings).logits[0, predictors].mean(dim=0).softmax(dim=-1)

    clean = distribution(embedded).detach()
    divergence = (clean * (clean.log() - distribution(noisy).log())).sum()
    (gradient,) = torch.autograd.grad(divergence, noisy)
    moved = (gradient * embedded)[0].sum(dim=-1).abs().tolist()
    return moved[prompt_length - 1 : end - 1] + [0.0] * (response_length - answer.stop)


def weights(scores: list[float], mask: list[int]) -> list[float]:
    raised = [math.log1p(score) for score, valid in zip(scores, mask, strict=True) if valid]
    low, high = min(raised), max(raised)
    importance = [(value - low) / (high - low + 1e-12) for value in raised]
    tau = sorted(importance)[4 * len(importance) // 10]
    omega = [
        max(h / (tau + 1e-12), 0.1) if h < tau else 1 + 2 * (h - tau) / (1 - tau + 1e-12) for h in importance
    ]
    of_valid = iter(value * len(omega) / sum(omega) for value in omega)
    return [next(of_valid) if valid else 0.0 for valid in mask]
