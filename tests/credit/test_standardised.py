"""Token weights against numbers worked out by hand and against a plain-Python rewriting of METHOD."""

import math

import by_hand
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_verl import GrailConfig, RolloutBatch, token_weights

pytestmark = pytest.mark.fast

E = math.e


def weights(scores, response_mask=None, answer=(), content=(), advantage=-1.0, **options):
    """One response's weights, rounded as float32, from plain lists and index ranges."""
    length = len(scores)
    mask = [1] * length if response_mask is None else response_mask
    spans = [[int(t in span) for t in range(length)] for span in (answer, content)]
    tensors = [torch.tensor([row]) for row in (scores, mask, *spans)]
    return token_weights(*tensors, torch.tensor([advantage]), GrailConfig(**options))[0].tolist()


def batch(response_mask, advantages=None, answer_mask=None) -> RolloutBatch:
    nothing = torch.zeros_like(response_mask, dtype=torch.bool)
    answer = nothing if answer_mask is None else answer_mask
    return RolloutBatch(response_mask.bool(), nothing if advantages is None else advantages, answer, nothing)


def test_two_scores_a_factor_e_squared_apart_stand_one_spread_from_the_mean():
    # log scores 0 and 2 over the reasoning: mean 1, std 1, z = -1 and +1, w = 1 -+ 0.5.
    got = weights([1.0, E**2, 9.0, 9.0, 9.0], answer=range(2, 5), content=range(3, 4), statistics="reasoning")
    assert got == pytest.approx([0.5, 1.5, 1.0, 5.0, 1.0], abs=1e-6)


def test_published_statistics_count_the_zeros_behind_the_answer():
    # log(1 + 1e-8), log(e^2), and log 1e-8 behind the answer; the answer's own score 1 counts too.
    logs = [1e-8, 2.0, 1e-8, math.log(1e-8)]
    mean = sum(logs) / 4
    spread = math.sqrt(sum((x - mean) ** 2 for x in logs) / 4)
    expected = [1 + 0.5 * (x - mean) / spread for x in logs[:2]]
    got = weights([1.0, E**2, 1.0, 0.0], answer=range(2, 3), content=range(2, 3))
    assert got == pytest.approx([*expected, 5.0, 1.0], abs=1e-6)


def test_three_tokens_behind_the_answer_shrink_the_spread():
    """300 log-scores of mean 0 and variance 1, three of log 1e-8 = -18.42 behind the answer, by hand over
    303: mean -0.1824, variance (300 + 3 * 18.42**2) / 303 - 0.1824**2 = 4.316, so spread 0.5 / 2.077."""
    torch.manual_seed(0)
    logs = torch.randn(300, dtype=torch.float64)
    logs = (logs - logs.mean()) / logs.std(unbiased=False)
    scores = [*logs.exp().tolist(), 7.0, 0.0, 0.0, 0.0]
    mask = [1] * 300 + [0] + [1] * 3  # the answer is a masked token, so that it counts nowhere
    for statistics, mean, spread in (("response", 3.0439, 0.2407), ("reasoning", 3.0, 0.5)):
        row = torch.tensor(
            weights(scores, mask, range(300, 301), statistics=statistics, mean=3.0, w_min=0.0, w_max=9.0)
        )[:300]
        assert row.mean().item() == pytest.approx(mean, abs=2e-4)
        assert row.std(unbiased=False).item() == pytest.approx(spread, abs=2e-4)


def test_clipping_bounds_hold():
    got = weights([1e-6, *[1.0] * 20, 1e6, 0.5], answer=range(22, 23), std=3.0, statistics="reasoning")
    assert got[0] == 0.5 and got[21] == 5.0


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_scores_that_are_no_numbers_leave_the_answer_its_weights(wrong):
    """METHOD steps 6 and 7: a response that is not reweighted keeps 1, but for its answer and what lies behind."""
    got = weights([1.0, wrong, 9.0, 9.0, 9.0, 1.0], answer=range(2, 5), content=range(3, 4), mean=0.75)
    assert got == weights([1.0, 2.0, 9.0, 9.0, 9.0, 1.0], None, range(2, 5), range(3, 4), 1.0, mean=0.75)
    assert got == [1.0, 1.0, 0.75, 5.0, 0.75, 0.75]


def test_equal_scores_weigh_the_mean_exactly():
    for score in (0.0, 1e-12, 0.1, 7.0):
        got = weights([score] * 997 + [score], answer=range(997, 998), statistics="reasoning", mean=1.25)
        assert got[:997] == [1.25] * 997


def test_masked_tokens_weigh_nothing_and_count_nowhere():
    masked = weights(
        [1.0, 1e9, E**2, 5.0, 5.0], [1, 0, 1, 0, 1], answer=range(3, 5), content=range(3, 4), statistics="reasoning"
    )
    assert masked == pytest.approx([0.5, 0.0, 1.5, 0.0, 1.0], abs=1e-6)
    assert weights([1.0, math.nan, E**2, 5.0], [1, 0, 1, 1], answer=range(3, 4), statistics="reasoning")[:3] == (
        pytest.approx([0.5, 0.0, 1.5], abs=1e-6)
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_response_with_a_score_that_is_no_number_keeps_one(bad):
    got = weights([1.0, bad, 3.0, 4.0, 5.0], answer=range(2, 4), content=range(3, 4))
    assert got == [1.0, 1.0, 1.0, 5.0, 1.0]


def test_without_an_answer_every_weight_is_one():
    assert weights([1.0, 2.0, 3.0], [1, 1, 0]) == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("rollouts", "reweighted"), [("wrong", [True, True, False]), ("correct", [False, False, True]), ("all", [True] * 3)]
)
def test_rollouts_choose_by_the_sign_of_the_advantage(rollouts, reweighted):
    scores = torch.tensor([[1.0, 2.0, 3.0]]).expand(3, 3)
    answer = torch.tensor([[0, 0, 1]]).expand(3, 3)
    mask, advantages = torch.ones(3, 3), torch.tensor([-1.0, 0.0, 1.0])
    config = GrailConfig(rollouts=rollouts)
    per_row = token_weights(scores, mask, answer, answer, advantages, config)
    assert [row[0] != 1.0 for row in per_row.tolist()] == reweighted
    assert per_row[:, 2].tolist() == [5.0] * 3  # the answer's content, reweighted or not
    assert torch.equal(per_row, token_weights(scores, mask, answer, answer, advantages[:, None] * mask, config))


def test_degenerate_lengths():
    assert weights([3.0], answer=range(0, 1), content=range(0, 1)) == [5.0]
    assert weights([3.0]) == [1.0]
    config, empty = GrailConfig(), torch.zeros(2, 0)
    assert token_weights(empty, empty, empty, empty, torch.zeros(2), config).shape == (2, 0)
    assert batch(empty, empty).advantages_B.tolist() == [0.0, 0.0]


@given(st.lists(st.integers(0, 1), min_size=1, max_size=8), st.floats(-2, 2, width=32))
def test_the_advantage_of_a_response_is_that_of_its_valid_tokens(mask, advantage):
    row = torch.tensor([[advantage if valid else 9.0 for valid in mask]])  # 9: what stands there must not matter
    assert batch(torch.tensor([mask]), row).advantages_B.tolist() == [advantage if any(mask) else 0.0]


def test_shapes_that_do_not_fit_are_refused():
    square = torch.ones(2, 3)
    with pytest.raises(ValueError, match="answer_mask"):
        token_weights(square, square, torch.ones(2, 4), square, torch.ones(2), GrailConfig())
    with pytest.raises(ValueError, match="advantages"):
        token_weights(square, square, square, square, torch.ones(3), GrailConfig())


def reference(scores, mask, start, end, content, advantage, config):
    """METHOD steps 5 to 8 for one response, in plain Python."""
    if {"wrong": advantage <= 0, "correct": advantage > 0, "all": True}[config.rollouts]:
        return by_hand.standardised(scores, mask, range(start, end), content, config)
    of_answer = [config.w_max if t in content else config.mean if t >= start else 1.0 for t in range(len(scores))]
    return [weight * valid for weight, valid in zip(of_answer, mask, strict=True)]


@st.composite
def responses(draw):
    length = draw(st.integers(1, 24))
    start = draw(st.integers(0, length - 1))
    end = draw(st.integers(start + 1, length))
    content_start = draw(st.integers(start, end))
    content = range(content_start, draw(st.integers(content_start, end)))
    scores = draw(st.lists(st.floats(0, 1e6, width=32), min_size=length, max_size=length))
    mask = draw(st.lists(st.integers(0, 1), min_size=length, max_size=length))
    return scores, mask, start, end, content


@settings(max_examples=300, deadline=None)
@given(
    responses(),
    st.floats(-2, 2, width=32),
    st.sampled_from(["wrong", "correct", "all"]),
    st.sampled_from(["response", "reasoning"]),
    st.floats(0, 3),
)
def test_agrees_with_METHOD_written_out(response, advantage, rollouts, statistics, std):
    scores, mask, start, end, content = response
    config = GrailConfig(std=std, rollouts=rollouts, statistics=statistics)
    got = weights(
        scores, mask, range(start, end), content, advantage, std=std, rollouts=rollouts, statistics=statistics
    )
    assert got == pytest.approx(reference(scores, mask, start, end, content, advantage, config), abs=2e-5)


@given(st.integers(1, 12), st.data())
def test_behind_answer(length, data):
    start = data.draw(st.integers(0, length - 1))
    end = data.draw(st.integers(start + 1, length))
    mask = torch.tensor([[start <= t < end for t in range(length)], [False] * length])
    behind_BT = batch(torch.ones_like(mask), answer_mask=mask).behind_BT
    assert behind_BT.tolist() == [[t >= end for t in range(length)], [False] * length]
