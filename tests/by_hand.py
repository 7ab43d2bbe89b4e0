"""Rules of credit worked out without grail_verl: one response at a time, scores on the plain model, weights by loops
over numbers. Each test that compares with the code under test takes its other side from here.

METHOD leaves OAR-G's noise to chance; which noise a response gets is ours, and repeated here: a generator seeded with
the CRC-32 of its tokens up to the answer's end.
"""

import math
from zlib import crc32

import torch


def predictions(model, ids: torch.Tensor, prompt_length: int, temperature: float) -> list[list[float]]:
    """Probabilities of every token of the vocabulary, for each response token."""
    with torch.no_grad():
        logits = model(input_ids=ids[None]).logits[0, prompt_length - 1 : -1].double()
    return (logits / temperature).softmax(dim=-1).tolist()


def surprise(model, ids: torch.Tensor, prompt_length: int, temperature: float) -> list[float]:
    response = ids[prompt_length:].tolist()
    return [-math.log(p[token]) for p, token in zip(predictions(model, ids, prompt_length, temperature), response)]


def entropy(model, ids: torch.Tensor, prompt_length: int, temperature: float) -> list[float]:
    return [
        -sum(value * math.log(value) for value in p if value > 0)
        for p in predictions(model, ids, prompt_length, temperature)
    ]


def oar_g(
    model, ids: torch.Tensor, prompt_length: int, answer: range, response_length: int, noise_of="cpu"
) -> list[float]:
    """|gradient · embedding| of each response token; answer: its tokens, counted in the response; noise_of: the device
    whose generator draws, since one seed is not the same noise on each."""
    end = prompt_length + answer.stop
    predictors = slice(prompt_length + answer.start - 1, end - 1)
    embedded = model.get_input_embeddings()(ids[None, :end]).detach()
    generator = torch.Generator(torch.device(noise_of)).manual_seed(crc32(ids[:end].numpy().tobytes()))
    noise = 1e-3 * torch.randn((answer.stop, embedded.shape[-1]), generator=generator, device=noise_of)
    noisy = embedded.clone()
    noisy[0, prompt_length - 1 : end - 1] += noise.cpu()
    noisy.requires_grad_()

    def distribution(embeddings):
        return model(inputs_embeds=embeddings).logits[0, predictors].mean(dim=0).softmax(dim=-1)

    clean = distribution(embedded).detach()
    divergence = (clean * (clean.log() - distribution(noisy).log())).sum()
    (gradient,) = torch.autograd.grad(divergence, noisy)
    moved = (gradient * embedded)[0].sum(dim=-1).abs().tolist()
    return moved[prompt_length - 1 : end - 1] + [0.0] * (response_length - answer.stop)


def hops(
    model, ids: torch.Tensor, prompt_length: int, answer: range, response_length: int, count: int, temperature: float
) -> list[float]:
    """METHOD, "Credit carried back by hops", at the embeddings: a full forward of every logit for each hop."""
    end = prompt_length + answer.stop
    weight_of = {prompt_length + t: 1 / len(answer) for t in answer}
    total = [0.0] * end
    for _ in range(count + 1):
        if not weight_of:  # every credit has gone to the prompt
            break
        embedded = model.get_input_embeddings()(ids[None, :end]).detach().requires_grad_()
        logits = model(inputs_embeds=embedded).logits[0] / temperature
        loss = sum(weight * logits[place - 1].log_softmax(-1)[ids[place]] for place, weight in weight_of.items())
        (gradient,) = torch.autograd.grad(loss, embedded)
        norms = [(g * e).norm().item() for g, e in zip(gradient[0], embedded[0].detach(), strict=True)]
        shares = [norm / sum(norms) for norm in norms]
        total = [old + new for old, new in zip(total, shares, strict=True)]
        of_response = sum(shares[prompt_length:])
        weight_of = {place: shares[place] / of_response for place in range(prompt_length, end) if shares[place]}
    return total[prompt_length:] + [0.0] * (response_length - answer.stop)


def reshaped(scores: list[float], mask: list[int]) -> list[float]:
    raised = [math.log1p(score) for score, valid in zip(scores, mask, strict=True) if valid]
    low, high = min(raised), max(raised)
    importance = [(value - low) / (high - low + 1e-12) for value in raised]
    tau = sorted(importance)[4 * len(importance) // 10]
    omega = [
        max(h / (tau + 1e-12), 0.1) if h < tau else 1 + 2 * (h - tau) / (1 - tau + 1e-12) for h in importance
    ]
    of_valid = iter(value * len(omega) / sum(omega) for value in omega)
    return [next(of_valid) if valid else 0.0 for valid in mask]


def standardised(scores, mask, answer: range | None, content: range, config) -> list[float]:
    """METHOD steps 5, 7 and 8 for a response that is weighted. `answer` None: every token is reasoning."""
    valid = [t for t in range(len(scores)) if mask[t]]
    start = len(scores) if answer is None else answer.start
    counted = [t for t in valid if t < start] if config.statistics == "reasoning" else valid
    logs = {t: math.log(scores[t] + 1e-8) for t in valid}
    result = []
    for t in range(len(scores)):
        if not mask[t]:
            result.append(0.0)
        elif t in content:
            result.append(config.w_max)
        elif t >= start:
            result.append(config.mean)
        else:
            mean = sum(logs[u] for u in counted) / len(counted)
            variance = sum((logs[u] - mean) ** 2 for u in counted) / len(counted)
            w = config.mean + config.std * (logs[t] - mean) / math.sqrt(variance + 1e-8)
            result.append(min(max(w, config.w_min), config.w_max))
    return result


def proportional(scores, mask, answer: range | None, total: float) -> list[float]:
    """Of a response that is weighted; one with nothing to share by keeps weight 1."""
    start = len(scores) if answer is None else answer.start
    shares = [score if valid and t < start else 0.0 for t, (score, valid) in enumerate(zip(scores, mask, strict=True))]
    if not sum(shares):
        return [float(valid) for valid in mask]
    return [total * share / sum(shares) for share in shares]


def top_share(rows: list[tuple[list[float], list[int]]], share: float) -> list[list[float]]:
    """Weights of each response of a whole rollout batch, from (scores, mask) of each."""
    ranked = sorted((score for scores, mask in rows for score, valid in zip(scores, mask) if valid), reverse=True)
    # The fewest that are at least the share, counted in thousandths.
    count = next(n for n in range(1, len(ranked) + 1) if 1000 * n >= round(1000 * share) * len(ranked)) if ranked else 0
    least = ranked[count - 1] if ranked else 0.0
    return [
        [float(valid and score >= least) for score, valid in zip(scores, mask, strict=True)] for scores, mask in rows
    ]
