"""Saliency on a plain model, against a full forward whose hidden states autograd differentiates, and
against finite differences."""

import pytest
import tiny
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from grail_verl import answer_saliency
from grail_verl.credit.leaf import leaf_module
from grail_verl.credit.scores import likelihood
from grail_verl.credit.scores.saliency import Saliency, position_scores

pytestmark = pytest.mark.fast

PROMPT, RESPONSE = 5, 12


@pytest.fixture
def batch():
    torch.manual_seed(1)
    input_ids = torch.randint(2, 300, (3, PROMPT + RESPONSE))
    attention_mask = torch.ones_like(input_ids)
    attention_mask[0, :2] = 0  # a shorter prompt
    attention_mask[1, -3:] = 0  # a shorter response
    answer_mask = torch.zeros(3, RESPONSE, dtype=torch.bool)
    answer_mask[0, 5:8] = True
    answer_mask[1, 0:2] = True  # begins with the first response token, which the prompt predicts
    return input_ids, attention_mask, answer_mask


def reference(model, input_ids, attention_mask, answer_mask, leaf, alignment, temperature):
    """METHOD steps 2 to 4 by the book: every logit, hidden_states, a loop over the answer's tokens."""
    position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)
    embeddings = model.get_input_embeddings()(input_ids).detach().requires_grad_()
    output = model(
        inputs_embeds=embeddings, attention_mask=attention_mask, position_ids=position_ids, output_hidden_states=True
    )
    blocks = model.config.num_hidden_layers
    index = {"embeddings": 0, "first": 1, "middle": blocks // 2, "last": blocks - 1}[leaf]
    log_probs = (output.logits / temperature).log_softmax(-1)
    loss = 0.0
    for row, token in answer_mask.nonzero().tolist():
        loss = loss - log_probs[row, PROMPT + token - 1, input_ids[row, PROMPT + token]]
    (gradient,) = torch.autograd.grad(loss, output.hidden_states[index])
    scores = (gradient * output.hidden_states[index]).norm(dim=-1)
    first = PROMPT - 1 if alignment == "predictor" else PROMPT
    return scores[:, first : first + RESPONSE].detach()


@pytest.mark.parametrize("architecture", ["qwen3", "llama"])
@pytest.mark.parametrize("layers", [2, 3, 5])
@pytest.mark.parametrize("leaf", ["embeddings", "first", "middle", "last"])
@pytest.mark.parametrize("alignment", ["predictor", "token"])
def test_equals_the_method_by_the_book(batch, architecture, layers, leaf, alignment):
    input_ids, attention_mask, answer_mask = batch
    model = tiny.model(architecture, layers=layers).eval()
    got = answer_saliency(
        model,
        input_ids,
        attention_mask,
        RESPONSE,
        answer_mask,
        leaf=leaf,
        alignment=alignment,
        temperature=0.7,
    )
    expected = reference(model, *batch, leaf, alignment, 0.7)
    assert got.dtype == torch.float32 and got.shape == (3, RESPONSE)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-9)
    assert got[0, :5].min() > 0 and got[0, 8:].abs().max() == 0  # nothing behind the answer matters to it
    assert got[2].abs().max() == 0  # no answer, no score


def test_is_the_gradient_of_the_answers_likelihood(batch):
    """Finite differences: scaling one unit of a position's embedding by 1 + h changes the loss by h times
    gradient * activation of that unit, and the score is the norm of these over the units."""
    input_ids, attention_mask, answer_mask = (tensor[:1] for tensor in batch)
    model = tiny.model().double().eval()  # norms and rotary embedding stay in float32, hence the wide step
    position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)
    embeddings = model.get_input_embeddings()(input_ids).detach()

    def loss(embeddings):
        logits = model(inputs_embeds=embeddings, attention_mask=attention_mask, position_ids=position_ids).logits
        kept = logits[:, PROMPT - 1 : -1][answer_mask].log_softmax(-1)
        return -kept.gather(-1, input_ids[:, PROMPT:][answer_mask][:, None]).sum()

    scores = answer_saliency(model, input_ids, attention_mask, RESPONSE, answer_mask)
    step = 3e-3
    for token in (0, 3, 6):
        changes = []
        for unit in range(embeddings.shape[-1]):
            up, down = embeddings.clone(), embeddings.clone()
            up[0, PROMPT + token - 1, unit] *= 1 + step
            down[0, PROMPT + token - 1, unit] *= 1 - step
            changes.append((loss(up) - loss(down)) / (2 * step))
        assert torch.stack(changes).norm().item() == pytest.approx(scores[0, token].item(), rel=1e-3)


def test_float32_logits_are_held_a_part_at_a_time(batch, monkeypatch):
    input_ids, attention_mask, answer_mask = batch
    model = tiny.model().to(torch.bfloat16)
    whole = answer_saliency(model, input_ids, attention_mask, RESPONSE, answer_mask)
    parts, cross_entropy = [], torch.nn.functional.cross_entropy

    def watched(logits, *args, **kwargs):
        parts.append((len(logits), logits.dtype))
        return cross_entropy(logits, *args, **kwargs)

    kept = []
    monkeypatch.setattr(likelihood, "LOSS_PART", 2)
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", watched)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        split = answer_saliency(model, input_ids, attention_mask, RESPONSE, answer_mask)
    # Three and two answer tokens: parts of 2, 2 and 1, forward and again in the backward pass.
    assert sorted(parts) == sorted(2 * [(2, torch.float32), (2, torch.float32), (1, torch.float32)])
    assert not any(tensor.dtype == torch.float32 and tensor.shape[-1] == 320 for tensor in kept)
    torch.testing.assert_close(split, whole)


def test_temperature_may_differ_by_row(batch):
    model = tiny.model()
    input_ids, attention_mask, answer_mask = batch
    both = answer_saliency(
        model, input_ids, attention_mask, RESPONSE, answer_mask, temperature=torch.tensor([0.5, 2.0, 1.0])
    )
    for row, temperature in ((0, 0.5), (1, 2.0)):
        alone = answer_saliency(
            model, input_ids, attention_mask, RESPONSE, answer_mask, temperature=temperature
        )
        torch.testing.assert_close(both[row], alone[row])


@pytest.mark.parametrize("leaf", ["embeddings", "first", "middle", "last"])
def test_gradient_checkpointing_and_dropout_change_nothing(batch, leaf):
    """Dropout is off in a model in train mode, checkpointing stays on, and every mode is as before."""
    input_ids, attention_mask, answer_mask = batch
    model = tiny.model(layers=4)
    plain = answer_saliency(model.eval(), input_ids, attention_mask, RESPONSE, answer_mask, leaf=leaf)
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.train().gradient_checkpointing_enable({"use_reentrant": False})
    model.model.layers[1].eval()  # a mode of its own, to be found again
    runs = [0] * 4
    handles = []
    for index, layer in enumerate(model.model.layers):

        def count(*_, index=index):
            runs[index] += 1

        handles.append(layer.self_attn.register_forward_hook(count))
    before = tiny.traces(model)
    torch.testing.assert_close(
        answer_saliency(model, input_ids, attention_mask, RESPONSE, answer_mask, leaf=leaf), plain
    )
    assert tiny.traces(model) == before
    for handle in handles:
        handle.remove()
    # Up to the leaf nothing is kept for a backward pass; the last block's activations are needed at once.
    assert runs == {"embeddings": [2, 2, 2, 1], "first": [1, 2, 2, 1], "middle": [1, 1, 2, 1], "last": [1] * 4}[leaf]


def test_a_pass_that_fails_leaves_nothing_behind(batch):
    input_ids, attention_mask, answer_mask = batch
    model = tiny.model().train()

    def fail(module, args):
        raise RuntimeError("out of memory, say")

    handle = model.model.norm.register_forward_pre_hook(fail)
    before = tiny.traces(model)
    with pytest.raises(RuntimeError, match="out of memory"):
        answer_saliency(model, input_ids, attention_mask, RESPONSE, answer_mask)
    assert tiny.traces(model) == before
    handle.remove()
    assert answer_saliency(model, input_ids, attention_mask, RESPONSE, answer_mask).max() > 0


def test_a_blocks_own_forward_is_put_back(batch):
    """verl's activation offloading gives blocks one."""
    input_ids, attention_mask, answer_mask = batch
    model = tiny.model()
    plain = answer_saliency(model, input_ids, attention_mask, RESPONSE, answer_mask)
    calls, own = [], []
    for block in model.model.layers:
        inner = block.forward
        block.forward = lambda *args, inner=inner, **kwargs: calls.append(1) or inner(*args, **kwargs)
        own.append(block.forward)
    model.gradient_checkpointing_enable()
    assert torch.equal(answer_saliency(model, input_ids, attention_mask, RESPONSE, answer_mask), plain)
    assert [vars(block)["forward"] for block in model.model.layers] == own and len(calls) >= len(own)


def test_gradients_too_small_for_float16_are_scaled(batch):
    """A large embedding and a small head: what reaches the leaf is about 1e-7, where float16 has a bit left."""
    input_ids, attention_mask, answer_mask = batch
    model = tiny.model(tied=False)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(20000)
        model.get_output_embeddings().weight.mul_(0.01)
    keep_BS = torch.nn.functional.pad(answer_mask, (PROMPT - 1, 1))
    labels_N = input_ids[:, PROMPT:][answer_mask]

    def scores(**options):
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        return position_scores(model, inputs, keep_BS, labels_N, torch.ones(len(labels_N)), **options)

    exact = scores()
    torch.testing.assert_close(scores(loss_scale=256.0), exact)  # it cancels
    model.half()
    plain, scaled = scores(), scores(loss_scale=Saliency.fp16_loss_scale)
    plain_error, error = (((got - exact).norm() / exact.norm()).item() for got in (plain, scaled))
    assert error < 1e-3 and plain_error > 10 * error


def test_the_head_runs_on_the_answers_positions_alone(batch):
    input_ids, attention_mask, answer_mask = batch
    model = tiny.model()
    seen = []
    model.lm_head.register_forward_hook(lambda module, args, output: seen.append(tuple(output.shape)))
    answer_saliency(model, input_ids, attention_mask, RESPONSE, answer_mask)
    assert seen == [(5, 320)]  # 3 + 2 answer tokens


def test_packed_rows_do_not_see_each_other(batch):
    """One packed row with position_ids that restart gives each response the scores it has alone."""
    input_ids, _, answer_mask = batch
    model = tiny.model().eval()
    rows = input_ids[:2]
    keep = torch.zeros(2, PROMPT + RESPONSE, dtype=torch.bool)
    keep[:, PROMPT - 1 : -1] = answer_mask[:2]
    inputs = {
        "input_ids": rows.reshape(1, -1),
        "attention_mask": None,
        "position_ids": torch.arange(PROMPT + RESPONSE).repeat(2)[None],
    }
    labels = rows[:, PROMPT:][answer_mask[:2]]
    packed = position_scores(model, inputs, keep.reshape(1, -1), labels, torch.ones(len(labels)))
    alone = answer_saliency(model, rows, torch.ones_like(rows), RESPONSE, answer_mask[:2])
    torch.testing.assert_close(packed.view(2, -1)[:, PROMPT - 1 : -1], alone, rtol=1e-5, atol=1e-9)


def test_no_answer_anywhere_runs_nothing(batch):
    input_ids, attention_mask, answer_mask = batch
    scores = answer_saliency(None, input_ids, attention_mask, RESPONSE, answer_mask & False)
    assert scores.abs().max() == 0 and scores.dtype == torch.float32


def test_a_model_of_one_block_takes_every_leaf_at_its_embedding_or_first_output():
    model = tiny.model(layers=1)
    assert leaf_module(model, "middle") is leaf_module(model, "last") is model.get_input_embeddings()
    assert leaf_module(model, "first") is model.model.layers[0]


def test_blocks_are_found_by_the_configured_depth():
    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=16))
    assert leaf_module(model, "first") is model.transformer.h[0]
    model.config.n_layer = 7
    with pytest.raises(ValueError, match="no ModuleList of 7"):
        leaf_module(model, "last")


def test_wrong_arguments_are_refused(batch):
    input_ids, attention_mask, answer_mask = batch
    with pytest.raises(ValueError, match="P >= 1"):
        answer_saliency(tiny.model(), input_ids[:, PROMPT:], attention_mask, RESPONSE, answer_mask)
    with pytest.raises(ValueError, match=r"predictor \| token"):
        answer_saliency(tiny.model(), input_ids, attention_mask, RESPONSE, answer_mask, alignment="next")
    for temperature in (0.0, -1.0, float("nan"), torch.tensor([1.0, 0.0, 1.0])):
        with pytest.raises(ValueError, match=r"temperature=.* is not allowed; allowed: a number > 0, within float32"):
            answer_saliency(tiny.model(), *batch[:2], RESPONSE, answer_mask, temperature=temperature)
