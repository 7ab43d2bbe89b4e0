"""Credit carried back by hops, and scores that are multiplied, against loops over single responses (by_hand.py)."""

import by_hand
import pytest
import tiny
import torch

from grail_verl import AnswerLocator, GrailConfig, attribute
from grail_verl.credit.config import HOPS
from grail_verl.credit.rows import Row, response_scores, targets_of
from grail_verl.credit.rule import Rule
from grail_verl.credit.scores.hops import hop_shares

pytestmark = pytest.mark.fast

TEXTS = [
    ("3 + 4 - 9 =", r"3 + 4 = 7, 7 - 9 = 8, \boxed{8}. Done"),
    ("1", r"\boxed{1}"),  # its answer begins with the first response token
    ("a b c 5", r"5 5 5 we get \boxed{ 5 }"),
]


def rows_and_answers(tokenizer, temperatures=(0.7, 1.0, 1.3)) -> tuple[list[Row], list[range], list[int]]:
    locator, rows, answers, lengths = AnswerLocator(tokenizer), [], [], []
    for (prompt, response), temperature in zip(TEXTS, temperatures, strict=True):
        prompt_ids, response_ids = tokenizer.encode(prompt), tokenizer.encode(response)
        span = locator.locate(response_ids)
        ids = torch.tensor([*prompt_ids, *response_ids[: span.end]])
        rows.append(Row(ids, torch.arange(len(ids)), len(prompt_ids), 0, span.start, temperature))
        answers.append(range(span.start, span.end))
        lengths.append(span.end)
    return rows, answers, lengths


@pytest.mark.parametrize("hops", [1, 2, HOPS])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_equals_the_method_by_the_book_packed(hops, checkpointed):
    model, tokenizer = tiny.model().eval(), tiny.tokenizer()
    rows, answers, lengths = rows_and_answers(tokenizer)
    starts = [sum(len(row) for row in rows[:index]) for index in range(len(rows))]
    origins = [(0, start) for start in starts]
    packed = torch.cat([row.input_ids for row in rows])[None]
    segments = torch.repeat_interleave(torch.arange(3), torch.tensor([len(row) for row in rows]))
    allowed = (segments[:, None] == segments).tril()[None, None]
    (score,) = Rule(GrailConfig(hops=hops)).scores
    scores_1S = score.from_model(
        model,
        {
            "input_ids": packed,
            "attention_mask": allowed,
            "position_ids": torch.cat([row.position_ids for row in rows])[None],
        },
        targets_of(rows, origins, packed.shape, "cpu"),
        lambda: checkpointed,
        1.0,
    )
    assert scores_1S.dtype == torch.float32 and not scores_1S.requires_grad
    sums = [scores_1S[0, start : start + len(row)].sum().item() for start, row in zip(starts, rows, strict=True)]
    # Each hop's shares sum to 1; a token's likelihood depends on those before it, so credit leaves a short response.
    assert sums == pytest.approx([min(hops + 1, length) for length in lengths])
    got = response_scores(scores_1S, rows, origins, score.alignment)
    for of_row, row, answer, length in zip(got, rows, answers, lengths, strict=True):
        expected = by_hand.hops(model, row.input_ids, row.prompt_length, answer, length, hops, row.temperature)
        assert of_row.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-7)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_one_forward_pass_and_a_backward_pass_for_each_hop():
    model, tokenizer = tiny.model().eval(), tiny.tokenizer()
    passes = []
    block = model.model.layers[0]
    block.register_forward_hook(lambda *_: passes.append("forward"))
    block.register_full_backward_hook(lambda *_: passes.append("backward"))
    attribute(*TEXTS[0], model, tokenizer, hops=3)
    # Recomputed in each backward pass, as attribute asks for: a forward more for each.
    assert passes[0] == "forward" and passes.count("backward") == 4


class Overwriting(torch.autograd.Function):
    """silu(gate) · up as liger-kernel's, whose backward pass writes gradients over what it has saved, unseen by
    autograd. The real one is Triton's and takes a GPU."""

    @staticmethod
    def forward(ctx, gate, up):
        ctx.save_for_backward(gate, up)
        return torch.nn.functional.silu(gate) * up

    @staticmethod
    def backward(ctx, slope):
        gate, up = (tensor.detach() for tensor in ctx.saved_tensors)
        sigmoid = gate.sigmoid()
        of_gate = slope * up * sigmoid * (1 + gate * (1 - sigmoid))
        of_up = slope * gate * sigmoid
        gate.data.copy_(of_gate)
        up.data.copy_(of_up)
        return gate.clone(), up.clone()


def test_kernels_that_overwrite_what_they_saved_get_a_forward_pass_for_each_hop():
    model, row = tiny.model().eval(), rows_and_answers(tiny.tokenizer())[0][0]
    inputs, targets = {"input_ids": row.input_ids[None]}, targets_of([row], [(0, 0)], (1, len(row)), "cpu")
    expected = sum(hop_shares(model, inputs, targets, hops=3))

    def forward(self, hidden):
        return self.down_proj(Overwriting.apply(self.gate_proj(hidden), self.up_proj(hidden)))

    forward.__module__ = "liger_kernel.transformers.swiglu"
    for block in model.model.layers:
        block.mlp.forward = forward.__get__(block.mlp)  # as liger-kernel binds it
    torch.testing.assert_close(sum(hop_shares(model, inputs, targets, hops=3)), expected)


def test_a_backward_pass_that_fails_half_way_leaves_nothing_behind(monkeypatch):
    model, tokenizer = tiny.model(), tiny.tokenizer()
    before, calls, grad = tiny.traces(model), [], torch.autograd.grad

    def fails_the_second_time(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise RuntimeError("out of memory, say")
        return grad(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", fails_the_second_time)
    with pytest.raises(RuntimeError, match="out of memory, say"):
        attribute(*TEXTS[0], model, tokenizer, hops=3)
    assert len(calls) == 2 and tiny.traces(model) == before and torch.is_grad_enabled()


def test_whoever_looks_at_the_first_hop_alone_leaves_nothing_behind():
    """Each hop is another backward pass over a graph whose hooks are the model's: they go with the call."""
    model, row = tiny.model().eval(), rows_and_answers(tiny.tokenizer())[0][0]
    before, ids_1S = tiny.traces(model), row.input_ids[None]
    shares = iter(hop_shares(model, {"input_ids": ids_1S}, targets_of([row], [(0, 0)], ids_1S.shape, "cpu"), hops=2))
    assert next(shares).sum().item() == pytest.approx(1.0) and tiny.traces(model) == before


def test_the_first_backward_pass_is_scaled_for_float16():
    """And by that the others, which begin with what it left. Shares do not show it."""
    model, (rows, *_) = tiny.model().eval(), rows_and_answers(tiny.tokenizer())
    (score,), row, slopes = Rule(GrailConfig(hops=1)).scores, rows[0], []
    model.lm_head.register_forward_hook(lambda *args: args[-1].register_hook(slopes.append) and None)
    for loss_scale in (1.0, 256.0):
        targets = targets_of([row], [(0, 0)], (1, len(row)), "cpu")
        score.from_model(model, {"input_ids": row.input_ids[None]}, targets, lambda: False, loss_scale)
    one, scaled = slopes
    torch.testing.assert_close(scaled, 256 * one)


@pytest.mark.parametrize("hops", [0, 2])
def test_scores_are_multiplied_at_the_tokens_own_position(hops):
    model, tokenizer = tiny.model().eval(), tiny.tokenizer()
    together = attribute(*TEXTS[0], model, tokenizer, score=["saliency", "surprise"], hops=hops, temperature=0.8)
    alone = attribute(
        *TEXTS[0], model, tokenizer, temperature=0.8, **({"hops": hops} if hops else {"alignment": "token"})
    )
    ids = torch.tensor([*tokenizer.encode(TEXTS[0][0]), *tokenizer.encode(TEXTS[0][1])])
    surprise = by_hand.surprise(model, ids, len(tokenizer.encode(TEXTS[0][0])), 0.8)
    expected = [one * other for one, other in zip(alone.score, surprise, strict=True)]
    assert together.score == pytest.approx(expected, rel=1e-4, abs=1e-9)
    assert together.score[-1] == 0 and max(together.score) > 0  # nothing behind the answer


def test_saliency_without_hops_is_the_published_one():
    model, tokenizer = tiny.model().eval(), tiny.tokenizer()
    assert attribute(*TEXTS[0], model, tokenizer).score == attribute(*TEXTS[0], model, tokenizer, hops=0).score


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"hops": 9}, r"hops=9 is not allowed; allowed: a whole number from 0 to 8"),
        ({"hops": True}, "hops=True is not allowed"),
        ({"hops": 1.0}, "hops=1.0 is not allowed"),
        ({"hops": -1}, "hops=-1 is not allowed"),
        ({"score": []}, r"score=\[\] is not allowed; allowed: a name, or a list of different names to multiply"),
        ({"score": ["surprise", "surprise"]}, "a list of different names"),
        ({"score": ["surprise", 3]}, "a list of different names"),
        ({"score": ["saliency", "nobody"]}, "score='nobody' is not allowed"),
        ({"hops": 2, "alignment": "token"}, "alignment='token' has no effect"),
        ({"score": ["saliency", "surprise"], "alignment": "token"}, "alignment='token' has no effect"),
        ({"score": "surprise", "hops": 2}, "hops=2 has no effect"),
    ],
)
def test_what_makes_no_sense_is_refused(options, says):
    with pytest.raises(ValueError, match=says):
        rule = Rule(GrailConfig.from_options(options))
        rule.refuse_unread(options)
