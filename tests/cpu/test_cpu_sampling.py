"""Sampling one token: against numpy computations that share nothing with it, and against frequencies."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_verl.cpu.sampling import keep_top_k, keep_top_p, sample

pytestmark = pytest.mark.fast

ALL = torch.iinfo(torch.int64).max


def reference(logits: np.ndarray, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """The distribution (V,) in float64, token by token: the k likeliest, of those the nucleus of mass p."""
    scaled = logits.astype(np.float64) / temperature
    order = sorted(range(len(scaled)), key=lambda token: -scaled[token])[:top_k]
    weights = {token: np.exp(scaled[token] - scaled[order[0]]) for token in order}
    total, mass, kept = sum(weights.values()), 0.0, []
    for token in order:
        if mass >= top_p and top_p < 1:
            break
        kept.append(token)
        mass += weights[token] / total
    probabilities = np.zeros(len(scaled))
    for token in kept:
        probabilities[token] = weights[token] / sum(weights[other] for other in kept)
    return probabilities


def draw(logits, temperature=1.0, top_k=ALL, top_p=1.0, uniform=0.5, vocab_size=None):
    """`sample` with the same options in each row."""
    rows = len(logits)
    return sample(
        logits,
        torch.full((rows,), float(temperature)),
        torch.full((rows,), top_k),
        torch.full((rows,), float(top_p)),
        torch.as_tensor(uniform, dtype=torch.float64).expand(rows),
        vocab_size or logits.shape[-1],
    )


distributions = st.tuples(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.floats(0.2, 3.0),
    st.one_of(st.just(ALL), st.integers(1, 40)),
    st.one_of(st.just(1.0), st.floats(0.05, 0.95)),
)


@settings(max_examples=200, deadline=None)
@given(distributions, st.floats(0, 1, exclude_max=True))
def test_token_and_log_prob_match_numpy(distribution, uniform):
    seed, size, temperature, top_k, top_p = distribution
    logits = np.random.default_rng(seed).normal(size=size, scale=3).astype(np.float32)
    probabilities = reference(logits, temperature, min(top_k, size), top_p)
    token, logprob = draw(torch.from_numpy(logits)[None], temperature, top_k, top_p, uniform)
    assert probabilities[token.item()] > 0
    assert abs(logprob.exp().item() - probabilities[token.item()]) < 1e-4
    # The number falls into the token's share of the cumulative distribution.
    before = probabilities[: token.item()].sum()
    assert before - 1e-5 <= uniform <= before + probabilities[token.item()] + 1e-5


def test_even_numbers_reproduce_the_distribution():
    logits = torch.tensor([[0.0, 1.0, -2.0, 3.0, 0.5]])
    count = 10_000
    tokens, _ = draw(logits.expand(count, -1), 0.8, uniform=(torch.arange(count) + 0.5) / count)
    expected = reference(logits[0].numpy(), 0.8, 5, 1.0)
    assert np.abs(np.bincount(tokens, minlength=5) / count - expected).max() < 2 / count


def test_greedy_takes_the_likeliest_and_reports_temperature_one():
    logits = torch.randn(7, 30)
    tokens, logprobs = draw(logits, temperature=0, uniform=0.999)
    assert torch.equal(tokens, logits.argmax(-1))
    torch.testing.assert_close(logprobs, logits.log_softmax(-1).max(-1).values)


def test_rows_have_options_of_their_own():
    logits = torch.randn(6, 50) * 2
    options = [(0.0, ALL, 1.0), (1.0, 3, 1.0), (0.5, ALL, 0.4), (2.0, 5, 0.7), (1.0, ALL, 1.0), (1.0, 1, 1.0)]
    uniform = torch.rand(6, dtype=torch.float64)
    temperature, top_k, top_p = (torch.tensor(column) for column in zip(*options, strict=True))
    together = sample(logits, temperature, top_k, top_p, uniform, 50)
    for row, option in enumerate(options):
        alone = draw(logits[row : row + 1], *option, uniform[row])
        assert together[0][row] == alone[0][0]
        torch.testing.assert_close(together[1][row], alone[1][0])


@given(st.integers(0, 2**32 - 1), st.integers(2, 30), st.floats(0, 1, exclude_max=True))
def test_padding_of_the_vocabulary_is_never_drawn(seed, vocab_size, uniform):
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, 32, generator=random)
    logits[:, vocab_size:] = 50.0
    token, logprob = draw(logits, uniform=uniform, vocab_size=vocab_size)
    assert token < vocab_size
    torch.testing.assert_close(logprob, logits[:, :vocab_size].log_softmax(-1)[0, token])


def test_the_largest_uniform_number_meets_no_impossible_token():
    logits = torch.tensor([[0.0, 1.0, float("-inf"), float("-inf")]])
    assert draw(logits, uniform=np.nextafter(1.0, 0.0))[0] == 1
    assert draw(logits.flip(-1), uniform=0.0)[0] == 2


def test_filters_keep_everything_when_off_and_ties_together():
    logits = torch.tensor([[1.0, 2.0, 2.0, 0.0]])
    assert keep_top_k(logits, torch.tensor([4])) is logits
    assert keep_top_p(logits, torch.tensor([1.0])) is logits
    assert keep_top_k(logits, torch.tensor([1])).isfinite().tolist() == [[False, True, True, False]]
