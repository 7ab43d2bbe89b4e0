"""Scores and weights, chosen apart: every pair against loops over numbers, names, modules of one's own."""

import dataclasses
import itertools
import textwrap

import by_hand
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_verl import GrailConfig, RolloutBatch, Score, register_score, register_weights, token_weights
from grail_verl.credit.batch import located
from grail_verl.credit.registry import Registry
from grail_verl.credit.rows import Row, rows_of, targets_of
from grail_verl.credit.rule import Rule
from grail_verl.credit.scores import SCORES
from grail_verl.credit.weights import WEIGHTS
from grail_verl.look.attribute import encode
from grail_verl.look.rollouts import Rollout

pytestmark = pytest.mark.fast

ABOUT_ANSWER = ("oar_g", "saliency")
PAIRS = list(itertools.product(["entropy", "oar_g", "saliency", "surprise"],
                               ["proportional", "reshaped", "standardised", "top_share"]))


def test_these_are_all():
    def ours(registry):  # what another test or recipe registers is its own
        return sorted(name for name, rule in registry.rules.items() if rule.__module__.startswith("grail_verl.credit."))

    assert list(itertools.product(ours(SCORES), ours(WEIGHTS))) == PAIRS


@st.composite
def batches(draw):
    """Rows of scores, mask, answer (or None), content and advantage."""
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        length = draw(st.integers(1, 10))
        answer, content = None, range(0)
        if draw(st.booleans()):
            start = draw(st.integers(0, length - 1))
            answer = range(start, draw(st.integers(start + 1, length)))
            content = range(start + 1, max(start + 1, answer.stop - 1))
        scores = draw(st.lists(st.floats(0, 100, width=32), min_size=length, max_size=length))
        mask = draw(st.lists(st.integers(0, 1), min_size=length, max_size=length))
        rows.append((scores, mask, answer, content, draw(st.sampled_from([-1.0, 0.0, 0.5]))))
    return rows


def dense(rows, part):
    width = max(len(scores) for scores, *_ in rows)
    return torch.tensor([[*part(row), *[0] * (width - len(row[0]))] for row in rows])


def of_method(rows, config: GrailConfig) -> list[list[float]]:
    """The weights of all responses, by loops."""
    def weighted(row):
        _, mask, answer, _, advantage = row
        chosen = {"wrong": advantage <= 0, "correct": advantage > 0, "all": True}[config.rollouts]
        can = any(mask) and (answer is not None or config.score not in ABOUT_ANSWER)
        return can and (chosen or config.weights in ("reshaped", "top_share"))

    def alone(row):
        scores, mask, answer, content, _ = row
        if config.weights == "reshaped":
            return by_hand.reshaped(scores, mask)
        if config.weights == "proportional":
            return by_hand.proportional(scores, mask, answer, config.total)
        return by_hand.standardised(scores, mask, answer, content, config)

    found = [[float(valid) for valid in mask] for _, mask, *_ in rows]
    for index, row in enumerate(rows):
        _, mask, answer, content, _ = row
        if weighted(row) and config.weights != "top_share":
            found[index] = alone(row)
        elif config.weights == "standardised" and answer is not None:  # the answer itself, weighted or not
            special = {t: config.w_max if t in content else config.mean for t in range(answer.start, len(mask))}
            found[index] = [special.get(t, 1.0) * valid for t, valid in enumerate(mask)]
    if config.weights == "top_share":
        chosen = [index for index, row in enumerate(rows) if weighted(row)]
        shares = by_hand.top_share([rows[index][:2] for index in chosen], config.share)
        for index, weights in zip(chosen, shares, strict=True):
            found[index] = weights
    return found


@pytest.mark.parametrize(("score", "weights"), PAIRS)
@settings(max_examples=60, deadline=None)
@given(batches(), st.sampled_from(["wrong", "correct", "all"]))
def test_every_pair_of_score_and_weights(score, weights, rows, rollouts):
    config = GrailConfig(score=score, weights=weights, rollouts=rollouts, share=0.3, total=2.5, mean=1.25)
    got = token_weights(
        dense(rows, lambda row: row[0]).float(),
        dense(rows, lambda row: row[1]),
        dense(rows, lambda row: [row[2] is not None and t in row[2] for t in range(len(row[0]))]),
        dense(rows, lambda row: [t in row[3] for t in range(len(row[0]))]),
        torch.tensor([row[4] for row in rows]),
        config,
    )
    for row, expected in zip(got.tolist(), of_method(rows, config), strict=True):
        assert row == pytest.approx(expected + [0.0] * (len(row) - len(expected)), rel=1e-4, abs=1e-5)


def one(scores, config, *, mask=None, answer=(), advantage=-1.0) -> list[float]:
    mask = [1] * len(scores) if mask is None else mask
    spans = [[t in answer for t in range(len(scores))]] * 2
    return token_weights(
        torch.tensor([scores]), torch.tensor([mask]), *map(torch.tensor, ([spans[0]], [spans[1]])),
        torch.tensor([advantage]), config,
    )[0].tolist()


def test_proportional_by_hand():
    """1 + 3 share 4; the answer and the end of the sequence weigh 0, a tool's token counts nowhere."""
    config = GrailConfig(weights="proportional")
    assert one([1.0, 9.0, 3.0, 5.0, 5.0], config, mask=[1, 0, 1, 1, 1], answer=(3,)) == [1, 0, 3, 0, 0]
    assert one([1.0, 3.0, 5.0], config, answer=(2,), advantage=1.0) == [1, 1, 1]  # a correct one
    assert one([0.0, 0.0, 5.0], config, answer=(2,)) == [1, 1, 1]  # nothing to share by
    assert one([5.0, 5.0], config, answer=(0,)) == [1, 1]  # nothing before the answer
    free = dataclasses.replace(config, score="surprise", total=8.0)
    assert one([1.0, 3.0], free) == [2, 6]  # without an answer all tokens share


def test_top_share_by_hand():
    """Ten tokens, of which 20 % are two; three where the last of them has an equal."""
    config = GrailConfig(score="entropy", weights="top_share")
    assert one([0.0, 9.0, 1.0, 2.0, 3.0, 8.0, 4.0, 5.0, 6.0, 7.0], config) == [0, 1, 0, 0, 0, 1, 0, 0, 0, 0]
    assert one([0.0, 9.0, 1.0, 2.0, 3.0, 8.0, 4.0, 8.0, 6.0, 7.0], config) == [0, 1, 0, 0, 0, 1, 0, 1, 0, 0]
    assert one([1.0, 2.0], dataclasses.replace(config, share=1.0)) == [1, 1]
    assert one([1.0, float("nan")], config) == [1, 1]


@pytest.mark.parametrize("score", ["surprise", "entropy"])
def test_scores_of_a_prediction_are_those_of_the_plain_model(score):
    """Padded and packed, at two temperatures, responses whole whether or not they hold a box."""
    rule, model, tokenizer = Rule(GrailConfig(score=score)), tiny.model(), tiny.tokenizer()
    texts = [("a b", r"3 + 4 = 7, so \boxed{7}. Done"), ("c", "no answer"), ("3 4 5 6", "7")]
    encoded = encode([Rollout(*pair) for pair in texts], tokenizer)
    ids = [torch.tensor([*row.prompt_ids, *row.response_ids]) for row in encoded]
    lengths, temperatures = [len(row.response_ids) for row in encoded], torch.tensor([0.7, 1.0, 1.3])
    mask_BT = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    batch = RolloutBatch(
        mask_BT, -mask_BT.float(), ~mask_BT & mask_BT, ~mask_BT & mask_BT, input_ids=ids, lengths=lengths,
        position_ids=[torch.arange(len(row)) for row in ids], temperature_B=temperatures, answers=[None] * 3,
    )
    rows = rows_of(batch, range(3), of_answer=rule.scores[0].needs_answer)
    starts = [0, len(ids[0]), len(ids[0]) + len(ids[1])]
    packed = torch.cat(ids)[None]
    segments = torch.repeat_interleave(torch.arange(3), torch.tensor([len(row) for row in ids]))
    allowed = (segments[:, None] == segments).tril()[None, None]
    scores_1S = rule.scores[0].from_model(
        model,
        {"input_ids": packed, "attention_mask": allowed, "position_ids": torch.cat(batch.position_ids)[None]},
        targets_of(rows, [(0, start) for start in starts], packed.shape, "cpu"),
        lambda: False,
        1.0,
    )
    for row, start, length, temperature in zip(ids, starts, lengths, temperatures.tolist(), strict=True):
        prompt = len(row) - length
        expected = getattr(by_hand, score)(model, row, prompt, temperature)
        first = start + prompt - 1
        assert scores_1S[0, first : first + length].tolist() == pytest.approx(expected, rel=1e-4)
        assert not scores_1S[0, start : start + prompt - 1].any()


def batch_of(texts: list[str], **fields) -> RolloutBatch:
    ids = [torch.tensor(tiny.tokenizer().encode(text)) for text in texts]
    mask_BT = torch.arange(max(map(len, ids))) < torch.tensor(list(map(len, ids)))[:, None]
    nothing_BT = torch.zeros_like(mask_BT)
    prompt = torch.tensor([5, 6])
    return RolloutBatch(
        mask_BT, -mask_BT.float(), nothing_BT, nothing_BT,
        input_ids=[torch.cat([prompt, row]) for row in ids], lengths=list(map(len, ids)), **fields,
    )


def test_what_verl_has_computed_costs_no_pass():
    values_BT = torch.rand(1, len(tiny.tokenizer().encode("3 + 4")))
    batch = batch_of(["3 + 4"], old_log_probs_BT=-values_BT, entropy_BT=2 * values_BT)
    for name, factor in (("surprise", 1), ("entropy", 2)):
        assert torch.equal(Rule(GrailConfig(score=name)).scores[0].from_batch(batch), factor * values_BT)
        assert Rule(GrailConfig(score=name)).scores[0].from_batch(batch_of(["3 + 4"])) is None
    for name in ABOUT_ANSWER:
        assert Rule(GrailConfig(score=name)).scores[0].from_batch(batch) is None


@pytest.mark.parametrize("score", ["surprise", "entropy"])
def test_a_certain_tokens_score_is_not_below_zero(score):
    """verl's log-probs and entropies of a certain token are off by rounding: the response must not be lost to it."""
    length = len(tiny.tokenizer().encode("3 + 4"))
    values_BT = torch.tensor([[1e-7, *[1.0] * (length - 1)]])
    rule = Rule(GrailConfig(score=score))
    batch = batch_of(["3 + 4"], **{"old_log_probs_BT": values_BT * torch.tensor([1.0, *[-1.0] * (length - 1)]),
                                   "entropy_BT": values_BT * torch.tensor([-1.0, *[1.0] * (length - 1)])})
    credit = rule.credit(batch, rule.scores[0].from_batch(batch), rule.can_weigh(batch))
    assert credit.weighted_B.tolist() == [True] and credit.scores_BT[0, 0] == 0
    assert credit.weights_BT[0, 0] == 0.5  # the least


def test_a_batch_knows_its_answers():
    from grail_verl import AnswerLocator

    batch = located(batch_of([r"so \boxed{42}. x", "none"]), AnswerLocator(tiny.tokenizer()))
    span = batch.answers[0]
    assert batch.answers[1] is None and batch.answered_B.tolist() == [True, False]
    assert batch.answer_BT[0].nonzero().flatten().tolist() == list(range(span.start, span.end))
    assert batch.content_BT[0].nonzero().flatten().tolist() == list(range(span.content_start, span.content_end))
    assert batch.reasoning_BT[0].nonzero().flatten().tolist() == list(range(span.start))
    assert torch.equal(batch.reasoning_BT[1], batch.response_mask_BT[1])


RULES = """
    import torch
    from grail_verl import Score, Weights, register_score, register_weights

    @register_score("{name}")
    class Mine(Score):
        def from_batch(self, batch):
            return torch.ones(batch.response_mask_BT.shape)

    @register_weights("{name}")
    class Halves(Weights):
        def token_weights(self, scores_BT, weighted_B, batch):
            return scores_BT / 2
"""


def written(folder, text: str, name: str = "rules.py") -> str:
    (folder / name).write_text(textwrap.dedent(text))
    return str(folder / name)


def test_a_rule_of_ones_own(tmp_path):
    config = GrailConfig(modules=[written(tmp_path, RULES.format(name="mine"))], score="mine", weights="mine")
    Rule(config)  # once more in the same process
    assert one([3.0, 3.0], config) == [1.5, 1.5]


def test_a_rule_in_a_package(tmp_path, monkeypatch):
    (tmp_path / "my_package").mkdir()
    written(tmp_path / "my_package", RULES.format(name="packed"), "rules.py")
    monkeypatch.syspath_prepend(tmp_path)
    assert one([3.0], GrailConfig(modules=["pkg://my_package.rules"], weights="packed", score="packed")) == [1.5]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "FileNotFoundError"),
        ("x = 1\n1 / 0", "ZeroDivisionError: division by zero ({here}/rules.py, line 2)"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        (RULES.format(name="saliency"), "ValueError: algorithm.grail.score=saliency is registered twice: by grail"),
        (2 * RULES.format(name="mine"), "ValueError: algorithm.grail.score=mine is registered twice: by "),
        (
            "from grail_verl import register_score\n@register_score('mine')\ndef mine(batch): ...",
            "TypeError: algorithm.grail.score=mine: <function mine",
        ),
    ],
)
def test_a_module_that_cannot_be_used_is_named(tmp_path, text, says):
    path = str(tmp_path / "rules.py") if text is None else written(tmp_path, text)
    before = dict(SCORES.rules), dict(WEIGHTS.rules)
    for _ in range(2):  # it is no better the second time, and nothing of it stays
        with pytest.raises(ValueError) as error:
            Rule(GrailConfig(modules=[path]))
        assert f"algorithm.grail.modules: {path} cannot be used on " in str(error.value)
        assert says.format(here=tmp_path) in str(error.value)
    assert (SCORES.rules, WEIGHTS.rules) == before
    if text is not None:
        written(tmp_path, RULES.format(name="mended"))
        Rule(GrailConfig(modules=[path], score="mended"))


def test_a_package_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="modules: pkg://no.such cannot be used on .*No module named 'no'"):
        Rule(GrailConfig(modules=["pkg://no.such"]))


def test_a_name_that_no_module_registers_is_refused(tmp_path):
    path = written(tmp_path, RULES.format(name="mine"))
    with pytest.raises(ValueError, match="grail.score='other' is not allowed; allowed: entropy . mine . oar_g"):
        Rule(GrailConfig(modules=[path], score="other"))


def test_a_notebooks_cell_can_be_run_again():
    registry = Registry("score", Score)
    for _ in range(2):
        cell = type("Mine", (Score,), {"__module__": "__main__"})
        registry.register("mine")(cell)
    assert registry.find("mine") is cell


def test_what_a_rule_needs_and_nobody_hands_over_is_named():
    @register_weights("needy")
    class Needy(WEIGHTS.find("reshaped")):
        needs = frozenset({"rewards_B", "groups"})

    @register_score("needy_too")
    class NeedyToo(Score):
        needs = frozenset({"rewards_B"})

        def from_batch(self, batch):
            return batch.rewards_B[:, None]

    # Whoever has the scores does not need what they are made of.
    assert one([1.0, 3.0], GrailConfig(score="needy_too", weights="proportional")) == [1, 3]
    with pytest.raises(ValueError, match="weights=needy need RolloutBatch.groups, which token_weights does not hand"):
        one([1.0], GrailConfig(weights="needy"))
    rule = Rule(GrailConfig(weights="needy"))
    rule.require(batch_of(["a"], groups=["g"], rewards_B=torch.ones(1)), "this trainer")
    with pytest.raises(ValueError, match="RolloutBatch.rewards_B, which this trainer does not hand over"):
        rule.require(batch_of(["a"], groups=["g"]), "this trainer")


def test_a_rule_of_the_wrong_shape_is_told_so():
    @register_weights("flat")
    class Flat(WEIGHTS.find("reshaped")):
        def token_weights(self, scores_BT, weighted_B, batch):
            return scores_BT[0]

    with pytest.raises(ValueError, match=r"weights=flat: the weights are of shape \(2,\); needed: .*\(1, 2\)"):
        one([1.0, 2.0], GrailConfig(weights="flat"))


def test_weights_that_are_no_numbers_keep_one_and_are_told():
    @register_weights("broken")
    class Broken(WEIGHTS.find("reshaped")):
        def token_weights(self, scores_BT, weighted_B, batch):
            return torch.where(scores_BT > 2, torch.nan, scores_BT)

    rule = Rule(GrailConfig(score="surprise", weights="broken"))
    batch = batch_of(["3 4", "3 4"])
    scores_BT = torch.ones(batch.response_mask_BT.shape)
    scores_BT[1, 0] = 3.0
    credit = rule.credit(batch, scores_BT, rule.can_weigh(batch))
    assert credit.weights_BT[1].tolist() == batch.response_mask_BT[1].float().tolist()
    assert credit.scored_B.tolist() == [True, True] and credit.weighted_B.tolist() == [True, False]
    assert credit.nonfinite_B.tolist() == [False, True]
    none_B = torch.tensor([False, False])  # whoever a rule breaks is counted, chosen or not
    assert rule.credit(batch, scores_BT + torch.inf, none_B).nonfinite_B.tolist() == [False, False]
    rule.weights.token_weights = lambda *_: torch.full(scores_BT.shape, torch.inf)
    assert rule.credit(batch, scores_BT, none_B).nonfinite_B.tolist() == [True, True]


def test_a_row_of_scores_that_are_no_numbers_is_no_other_rows_business():
    """A rule that compares responses sees scores of 0 there, as of all that have none."""
    rule = Rule(GrailConfig(score="surprise"))
    rule.weights.token_weights = lambda scores_BT, weighted_B, batch: scores_BT / scores_BT.sum()
    batch = batch_of(["3 4", "3 4"])
    scores_BT = torch.ones(batch.response_mask_BT.shape)
    scores_BT[1, 0] = torch.nan
    credit = rule.credit(batch, scores_BT, rule.can_weigh(batch))
    assert credit.weighted_B.tolist() == [True, False] and credit.nonfinite_B.tolist() == [False, True]
    assert credit.weights_BT[0].sum().item() == pytest.approx(1) and credit.scores_BT[1, 0].isnan()


def test_a_score_that_scores_nothing_is_refused():
    @register_score("idle")
    class Idle(Score):
        """Neither from the batch nor from the model."""

    with pytest.raises(ValueError, match="Idle scores nothing; needed: a from_batch, or a from_model"):
        Rule(GrailConfig(score="idle"))


READ = {  # as the tables of docs/options.md have it
    "saliency": {"leaf", "alignment", "occurrence"},
    "oar_g": {"occurrence"},
    "surprise": set(),
    "entropy": set(),
    "standardised": {"std", "mean", "w_min", "w_max", "rollouts", "statistics", "occurrence"},
    "reshaped": set(),
    "proportional": {"total", "rollouts", "occurrence"},
    "top_share": {"share"},
}
VALUES = {
    "std": 0.5, "mean": 1.0, "w_min": 0.5, "w_max": 5.0, "leaf": "embeddings", "rollouts": "wrong", "share": 0.2,
    "alignment": "predictor", "occurrence": "last", "statistics": "response", "total": 4.0,
}


@pytest.mark.parametrize(("score", "weights"), PAIRS)
def test_an_option_belongs_to_the_score_or_the_weights_that_read_it(score, weights):
    """Whatever its value; the answer's place is also read by records."""
    for option, value in VALUES.items():
        section = {"score": score, "weights": weights, option: value}
        rule = Rule(GrailConfig(**section))
        if option in READ[score] | READ[weights]:
            rule.refuse_unread(section)
        else:
            with pytest.raises(ValueError, match=f"algorithm.grail.{option}=.* has no effect with"):
                rule.refuse_unread(section)
    dumped = {"score": score, "weights": weights, "occurrence": "last", "dump_dir": "records", "dump_responses": 3}
    Rule(GrailConfig(**dumped)).refuse_unread(dumped)
    for option in ("dump_responses", "log_pictures"):
        with pytest.raises(ValueError, match=f"{option}=3 has no effect without"):
            Rule(GrailConfig(score=score, weights=weights)).refuse_unread({option: 3})


def test_who_is_scored():
    """Padding rows never; an advantage of 0 only where responses are compared; no box only by scores about one."""
    batch = batch_of(["3 4"] * 3)
    mask_BT, advantages_BT = batch.response_mask_BT.clone(), -torch.ones(batch.response_mask_BT.shape)
    mask_BT[0] = False
    advantages_BT[1] = 0.0
    batch = dataclasses.replace(batch, response_mask_BT=mask_BT, advantages_BT=advantages_BT)
    for weights, matter in (("standardised", [False, False, True]), ("top_share", [False, True, True])):
        rule = Rule(GrailConfig(score="surprise", weights=weights))
        assert rule.can_weigh(batch).tolist() == [False, True, True]
        assert rule.matters(batch).tolist() == matter
        assert not Rule(GrailConfig(weights=weights)).can_weigh(batch).any()


def test_weights_carry_no_graph():
    rule, batch = Rule(GrailConfig(score="surprise", weights="proportional")), batch_of(["3 4"])
    scores_BT = torch.rand(batch.response_mask_BT.shape, requires_grad=True)
    credit = rule.credit(batch, scores_BT, rule.can_weigh(batch))
    assert not credit.weights_BT.requires_grad and not credit.scores_BT.requires_grad


def test_scores_of_the_wrong_shape_are_told_so():
    rule, batch = Rule(GrailConfig(score="surprise")), batch_of(["3 4"])
    with pytest.raises(ValueError, match=r"the scores are of shape \(1, 1\); needed: .*"):
        rule.credit(batch, torch.ones(1, 1), rule.can_weigh(batch))


@pytest.mark.parametrize("shape", [(1, 3), (1, 4), (1, 4, 2), (4,)])
def test_a_pass_makes_one_float32_score_for_each_position_or_is_told_so(shape):
    """Scores travel between ranks, each of which knows what size and type to expect."""

    @register_score("mine")
    class Mine(Score):
        model_pass = "forward"

        def from_model(self, model, inputs, targets, recompute, loss_scale):
            return torch.ones(shape, dtype=torch.float64)

    (score,) = Rule(GrailConfig(score="mine")).scores
    row = Row(torch.arange(4), torch.arange(4), 2, 0, 2, 1.0)
    given = (None, {}, targets_of([row], [(0, 0)], (1, 4), "cpu"), lambda: False, 1.0)
    if shape == (1, 4):
        assert score.of_positions(*given).dtype == torch.float32
        return
    with pytest.raises(ValueError, match=r"Mine.from_model made scores of shape \(.*; needed: .* \(1, 4\)"):
        score.of_positions(*given)


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"needs": frozenset({"reward_B"}), "from_batch": None}, "a rule's needs name 'reward_B'; allowed: respon"),
        ({"options": frozenset({"stdd"}), "from_batch": None}, "a rule's options name 'stdd'; allowed: score, "),
        ({"model_pass": "backward"}, "model_pass='backward' is not allowed; allowed: none . forward . gradient"),
        ({"model_pass": "forward"}, "model_pass='forward' does not fit: it has no from_model"),
        ({"from_model": lambda *_: None}, "model_pass='none' does not fit: it has a from_model"),
        ({"needs": frozenset({"rewards_B"}), "from_batch": lambda *_: None}, None),
    ],
)
def test_a_rule_that_names_what_is_not_there_is_refused(attributes, says):
    register_score("mine")(type("Mine", (Score,), attributes))
    if says is not None:
        with pytest.raises(ValueError, match=says):
            Rule(GrailConfig(score="mine"))
        return
    with pytest.raises(ValueError, match="score=mine .* need RolloutBatch.rewards_B, which a file does not hand over"):
        Rule(GrailConfig(score="mine")).refuse_lacking(["rewards_B"], "a file")


def test_a_path_of_ones_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    written(tmp_path, RULES.format(name="at_home"))
    Rule(GrailConfig(modules=["~/rules.py"], score="at_home"))


@pytest.mark.parametrize("score", ["surprise", "entropy"])
def test_a_fused_head_gives_what_it_has_computed(score):
    """verl's fused kernels put both into the model's output, in place of logits."""
    from types import SimpleNamespace

    from grail_verl.credit.scores import prediction

    keep_BS = torch.tensor([[False, True, True, False]])
    log_probs_BS, entropy_BS = -torch.tensor([[9.0, 1.0, 2.0, 9.0]]), torch.tensor([[9.0, 3.0, 4.0, 9.0]])
    output = SimpleNamespace(log_probs=log_probs_BS, entropy=entropy_BS)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(prediction, "forward_at", lambda *_: output)
        scores_BS = Rule(GrailConfig(score=score)).scores[0].from_model(
            None, {}, SimpleNamespace(keep_BS=keep_BS), lambda: False, 1.0
        )
    assert scores_BS.tolist() == [[0, 1, 2, 0] if score == "surprise" else [0, 3, 4, 0]]


def test_a_module_that_changes_nothing_is_refused(tmp_path):
    section = {"modules": [written(tmp_path, RULES.format(name="mine"))]}
    with pytest.raises(ValueError, match="grail.modules=.* has no effect with algorithm.grail.score=saliency"):
        Rule(GrailConfig(**section)).refuse_unread(section)
    Rule(GrailConfig(**section, score="mine")).refuse_unread({**section, "score": "mine"})


def test_a_share_is_counted_as_it_is_written():
    """0.07 · 100 is a little above 7 in floats."""
    scores = [float(value) for value in range(100)]
    assert sum(one(scores, GrailConfig(score="entropy", weights="top_share", share=0.07))) == 7


def test_a_tools_tokens_have_no_score():
    config = GrailConfig(score="surprise", weights="from_highest")

    @register_weights("from_highest")
    class FromHighest(WEIGHTS.find("reshaped")):
        def token_weights(self, scores_BT, weighted_B, batch):
            return scores_BT / scores_BT.max(dim=-1, keepdim=True).values

    assert one([1.0, 2.0, 9.0], config, mask=[1, 1, 0]) == [0.5, 1, 0]


def test_low_precision_scores_give_float32_weights():
    config = GrailConfig(score="surprise", weights="reshaped")
    scores = torch.rand(1, 9).bfloat16()
    mask, nothing = torch.ones(1, 9), torch.zeros(1, 9)
    low, full = (token_weights(s, mask, nothing, nothing, torch.ones(1), config) for s in (scores, scores.float()))
    assert torch.equal(low, full)
