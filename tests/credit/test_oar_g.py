"""OAR-G, score and weights: numbers worked out by hand and by loops, and what its options allow.

test_matrix.py has its scores, through verl's engine, against the plain model.
"""

import by_hand
import pytest
import tiny
import torch
from composed import composed
from hypothesis import given
from hypothesis import strategies as st

from grail_verl import GrailConfig
from grail_verl.credit.rows import Targets
from grail_verl.credit.rule import Rule, token_weights
from grail_verl.hook.launch import prepare

pytestmark = pytest.mark.fast

CONFIG = GrailConfig(score="oar_g", weights="reshaped")
SCORE = Rule(CONFIG).scores[0]


def weights(scores, mask, answer=True, advantage=-1.0) -> list[float]:
    scores_BT, mask_BT = torch.tensor([scores]), torch.tensor([mask])
    answer_BT = torch.zeros_like(mask_BT, dtype=torch.bool)
    answer_BT[0, -1] = answer
    return token_weights(scores_BT, mask_BT, answer_BT, answer_BT, torch.tensor([advantage]), CONFIG)[0].tolist()


def test_by_hand():
    """log(1 + score) = 0, 1, 2, 3, 4, so h = 0, 1/4, 1/2, 3/4, 1; the value at rank 2 is 1/2; omega = 0.1, 0.5, 1,
    1 + 2 · 0.25 / 0.5 = 2, 3; their sum 6.6 becomes 5. A masked token in between counts nowhere."""
    scores = [torch.tensor(k).float().expm1().item() for k in (3, 0, 4, 9, 1, 2)]
    found = weights(scores, [1, 1, 1, 0, 1, 1])
    assert found == pytest.approx([2 / 1.32, 0.1 / 1.32, 3 / 1.32, 0, 0.5 / 1.32, 1 / 1.32], rel=1e-6)


@given(st.lists(st.tuples(st.floats(0, 1e3, width=32) | st.floats(0, 2**-20, width=32), st.integers(0, 1)), min_size=1))
def test_against_loops(tokens):
    scores, mask = [score for score, _ in tokens], [valid for _, valid in tokens]
    found = weights(scores, mask, advantage=1.0)
    if any(mask):
        assert found == pytest.approx(by_hand.reshaped(scores, mask), rel=1e-5, abs=1e-6)
        assert sum(found) == pytest.approx(sum(mask), rel=1e-5)
    else:
        assert found == [0.0] * len(mask)


def test_what_cannot_be_weighted_keeps_weight_one():
    assert weights([1.0, 2.0, 3.0], [1, 1, 0], answer=False) == [1, 1, 0]
    assert weights([1.0, float("nan"), 3.0], [1, 1, 1]) == [1, 1, 1]
    assert weights([1.0, float("nan"), 3.0], [1, 0, 1]) != [1, 0, 1]  # where nothing is valid nothing counts
    assert weights([0.0, 0.0], [1, 1]) == [1, 1]  # no scores, as where the advantage is 0


def positions(rows: int, prompt: int, length: int, answer: int) -> Targets:
    """Padded rows of one length, whose answer is the last tokens."""
    keep_BS = torch.zeros(rows, length, dtype=torch.bool)
    keep_BS[:, length - answer - 1 : length - 1] = True
    count = rows * answer
    return Targets(
        keep_BS,
        labels_N=torch.zeros(count, dtype=torch.long),
        temperature_N=torch.ones(count),
        response_N=torch.arange(rows).repeat_interleave(answer),
        answer_N=torch.ones(count, dtype=torch.bool),
        response_BS=torch.arange(rows)[:, None].expand(rows, length),
        lengths_R=torch.full((rows,), float(answer)),
        spans=[(row, prompt - 1, length - 1) for row in range(rows)],
        seeds=[100 + row for row in range(rows)],
        own=slice(0, length),
        group=None,
    )


def test_a_responses_scores_are_those_it_has_alone():
    model, where = tiny.model(), positions(rows=2, prompt=3, length=12, answer=4)
    ids = torch.randint(2, 300, (2, 12), generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    scores_BS = SCORE.from_model(model, {"input_ids": ids}, where, lambda: False, 1.0)
    assert torch.equal(torch.get_rng_state(), state)
    assert (scores_BS[:, 2:11] > 0).all() and not scores_BS[:, 11].any()
    for row in range(2):
        alone = positions(rows=1, prompt=3, length=12, answer=4)
        alone.seeds[0] += row
        scores = SCORE.from_model(model, {"input_ids": ids[row : row + 1]}, alone, lambda: True, 1.0)
        torch.testing.assert_close(scores[0], scores_BS[row], rtol=1e-3, atol=1e-9)


def test_float16_gradients_are_scaled():
    """The divergence moves with the square of the noise: its gradient is small where a log-likelihood's is not."""
    model, where = tiny.model(tied=False), positions(rows=1, prompt=3, length=12, answer=4)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(0.01)
    ids = torch.randint(2, 300, (1, 12), generator=torch.Generator().manual_seed(0))

    def scores(loss_scale):
        return SCORE.from_model(model, {"input_ids": ids}, where, lambda: False, loss_scale)[0, 2:11]

    exact = scores(1.0)
    torch.testing.assert_close(scores(SCORE.fp16_loss_scale), exact, rtol=1e-3, atol=1e-9)  # it cancels
    model.half()
    plain, scaled = scores(1.0), scores(SCORE.fp16_loss_scale)
    assert scaled.isfinite().all() and (scaled > 0).all()
    assert not plain.any()  # all of it below what float16 holds
    assert (scaled - exact).norm() < 0.4 * exact.norm()


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            ["+algorithm.grail.std=0.3"],
            "algorithm.grail.std=0.3 has no effect with algorithm.grail.score=oar_g and algorithm.grail.weights="
            "reshaped; allowed: dump_dir, dump_responses, log_pictures, modules, occurrence, score, weights",
        ),
        (
            ["actor_rollout_ref.model.use_fused_kernels=True"],
            "algorithm.grail.score=oar_g needs logits: actor_rollout_ref.model.use_fused_kernels=True is not",
        ),
    ],
)
def test_what_it_cannot_use_is_refused(overrides, says):
    with pytest.raises(ValueError) as error:
        prepare(composed("+grail=oar_g", *overrides))
    assert says in str(error.value)


def test_the_preset_sets_score_and_weights_alone():
    config, plain = composed("+grail=oar_g"), composed("algorithm.adv_estimator=grail")
    assert config.algorithm.grail == {"score": "oar_g", "weights": "reshaped"}
    del config.algorithm.grail
    assert config == plain
    config = composed("+grail=oar_g", "+algorithm.grail.occurrence=first")
    prepare(config)
    prepare(config)  # as main_ppo and validate_config both do
    assert config.algorithm.grail.score == "oar_g"
