"""The next token of every row of a batch: logits and one uniform number per row in, token and log-prob out.

Plain torch, no verl. The order is vLLM's: vocabulary mask, temperature, top-k, top-p; and so is the reported
log-prob (its `processed_logprobs`): that of the distribution the token was really drawn from. Without top-k
and top-p this is the trainer's own log-prob, log_softmax(logits / temperature).
"""

import torch


def keep_top_k(logits: torch.Tensor, top_k: torch.Tensor) -> torch.Tensor:
    """logits (B, V) with -inf below each row's top_k-th largest (B,); ties stay, V or more keeps all."""
    size = logits.shape[-1]
    if not (top_k < size).any():
        return logits
    largest = logits.topk(int(top_k.clamp(max=size).max()), dim=-1).values
    least = largest.gather(1, top_k.clamp(max=size)[:, None] - 1)
    return logits.masked_fill(logits < least, float("-inf"))


def keep_top_p(logits: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """logits (B, V) with -inf outside the smallest set of likeliest tokens whose mass reaches top_p (B,)."""
    if not (top_p < 1).any():
        return logits
    ordered, order = logits.sort(dim=-1, descending=True)
    probs = ordered.softmax(-1)
    likelier = probs.cumsum(-1) - probs  # mass of the tokens before this one; 0 for the likeliest
    drop = (likelier >= top_p[:, None]) & (top_p < 1)[:, None]
    return logits.masked_fill(torch.zeros_like(drop).scatter(1, order, drop), float("-inf"))


def sample(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    uniform: torch.Tensor,
    vocab_size: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (B,) int64 and their log-probs (B,) float32, drawn by inverting the cumulative distribution.

    One number per row decides, so a row's token depends on nothing but its own logits and that number: who
    else is in the batch does not matter.

    Args:
        logits: (B, V), V the model's output width.
        temperature: (B,). 0 takes the likeliest token, and reports log-probs at temperature 1, as vLLM does.
        top_k: (B,) int64, V or more keeps all.
        top_p: (B,) in (0, 1].
        uniform: (B,) float64 in [0, 1).
        vocab_size: tokens from here on are padding of the output layer and never drawn.
    """
    greedy = temperature == 0
    logits = logits[:, :vocab_size].float() / torch.where(greedy, 1.0, temperature)[:, None]
    logprobs = keep_top_p(keep_top_k(logits, top_k), top_p).log_softmax(-1)
    tokens = logprobs.argmax(-1)
    if not greedy.all():
        # float64: the sum over a large vocabulary must not lose its unlikely tokens.
        mass = logprobs.double().exp().cumsum(-1)
        total = mass[:, -1:]
        point = torch.minimum(uniform[:, None] * total, total.nextafter(torch.zeros_like(total)))
        drawn = torch.searchsorted(mass, point, right=True).squeeze(-1)
        tokens = torch.where(greedy, tokens, drawn)
    return tokens, logprobs.gather(1, tokens[:, None]).squeeze(-1)
