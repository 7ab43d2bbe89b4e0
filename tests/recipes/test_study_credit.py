"""The benchmark of credit: the reading of responses, scores, changes, and figures worked out from them."""

import random
import re
from types import SimpleNamespace

import by_hand
import numpy as np
import pytest
import tiny
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from grail_verl import answer_saliency
from grail_verl.credit.answer import AnswerLocator
from grail_verl.credit.scores.hops import hop_shares
from recipes.study import chains, credit, figures_credit, figures_hops, hop_variants, intervention, word_problems
from recipes.study.annotate import annotate, annotation_of
from recipes.study.carried import carried_saliency
from recipes.study.hops import Variant, hop_scores, log_odds
from recipes.study.policy import build_tokenizer
from recipes.study.response import Response, groups, in_batch, mistake_sets, relevance_sets, row_of
from recipes.study.separation import separation
from recipes.study.tasks import FIRST, SMALL, TASKS

TOKENIZERS = {name: build_tokenizer(task) for name, task in SMALL.items()}


def pieces_of(tokenizer, text: str) -> list[str]:
    return [tokenizer.decode([token]) for token in tokenizer(text).input_ids]


def response_of(task_name: str, rng: random.Random) -> Response:
    """A worked solution in a response's place."""
    task, tokenizer = SMALL[task_name], TOKENIZERS[task_name]
    problem = task.draw_problem(rng)
    segments = task.work_out(problem, rng)
    text = "".join(segment.text for segment in segments)
    tokens = tokenizer(text + "<|im_end|>").input_ids
    annotation = annotate(task_name, problem, pieces_of(tokenizer, text))
    written = segments[-1].text.split("{")[1].rstrip("}")
    prompt = tokenizer(f"<|user|>{problem}<|assistant|>").input_ids
    return Response(
        prompt, tokens, annotation, AnswerLocator(tokenizer).locate(tokens), task.score(written, problem) == 1
    )


@pytest.mark.parametrize("name", SMALL)
def test_solution_is_read_back_as_it_was_written(name):
    task, rng = SMALL[name], random.Random(2)
    for _ in range(200):
        problem = task.draw_problem(rng)
        segments = task.work_out(problem, rng)
        pieces = pieces_of(TOKENIZERS[name], "".join(segment.text for segment in segments))
        annotation = annotate(name, problem, pieces)
        assert annotation.segments == segments
        for index, segment in enumerate(segments):
            own = [token for token, of in enumerate(annotation.segment) if of == index]
            assert "".join(pieces[token] for token in own) == segment.text
            assert sum(annotation.wrong[token] for token in own) == segment.mistake


def marked(annotation, pieces: list[str]) -> str:
    """The response with its results underlined and its wrong tokens marked."""
    marks = zip(annotation.result, annotation.wrong, pieces, strict=True)
    return "".join(f"{'_' * result}{'!' * wrong}{piece}" for result, wrong, piece in marks)


@pytest.mark.parametrize(
    "name, problem, text, expected",
    [
        ("chains", "3+9[7*6]*4", r"3+9=3[7*6=2] hm*4=2 \boxed{2}", r"3+9=_!3[7*6=_2] hm*4=_2 \boxed{_2}"),
        ("chains", "3+9[7*6]*4", r"3+9=2[7*6=3]*4=8 \boxed{9}", r"3+9=_2[7*6=_!3]*4=_8 \boxed{_!9}"),
        (
            "legs",
            "if you have 2 crabs, 5 cows?",
            r"2 crab 2*8=16 16; 5 cow 5*4=20 46; \boxed{46}",
            r"2 crab 2*_!8=_1_6 _1_6; 5 cow 5*_4=_2_0 _!4_6; \boxed{_4_6}",
        ),
        (
            "legs",
            "if you have 1 crab, 5 cows?",
            r"1 crab 1*10=1 1; 5 cow 5*4=22 23; \boxed{23}",
            r"1 crab 1*_1_0=_!1 _1; 5 cow 5*_4=_2_!2 _2_3; \boxed{_2_3}",
        ),
    ],
)
def test_mistakes_are_where_results_depart(name, problem, text, expected):
    pieces = pieces_of(TOKENIZERS[name], text)
    assert marked(annotate(name, problem, pieces), pieces) == expected


@pytest.mark.parametrize(
    "text",
    [
        r"3+8=1[7*6=2]*4=8 \boxed{8}",  # copies the problem wrongly
        r"3+9=2*4=8 \boxed{8}",  # leaves a side computation out
        r"3+9=2[7*6=2]*4=8",
        r"3+9=2[7*6=2]*4=8 \boxed{8} hm",
        "",
    ],
)
def test_what_leaves_the_form_is_not_read(text):
    assert annotate("chains", "3+9[7*6]*4", list(text)) is None


def test_word_problems_solutions_are_of_their_stories():
    rng, correct = random.Random(3), 0
    for _ in range(100):
        problem, reading = word_problems.draw(rng)
        name, total, thing = re.match(r"(\w+) has (\d+) (\w+)\.", problem).groups()
        total = int(total)
        for bought, each, given in re.findall(rf"{name} (?:buys (\d+) \w+ of (\d+)|gives (\d+)) {thing}", problem):
            total += int(bought) * int(each) if bought else -int(given)
        text = "".join(segment.text for segment, _ in reading)
        annotation = annotation_of(reading, list(text))
        operators = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
        for segment, right in reading:
            for left, operator, other, result in re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)", segment.text):
                assert operators[operator](int(left), int(other)) == int(right)
                assert segment.mistake == (result != right)
                assert (segment.kind == "step") == (segment.text.lstrip().startswith((name, f"Now {name}")))
        wrong = annotation.tokens("step", wrong=True)
        assert TASKS["word_problems"].ground_truth(problem) == str(total)
        assert (text.rpartition("{")[2] == f"{total}}}") == (not wrong)
        correct += not wrong
    assert 20 < correct < 80


def test_separation_by_hand():
    scores = np.array([[5.0, 1.0, 3.0, 3.0, 2.0], [1.0, 1.0, 1.0, 1.0, 1.0], [9.0, 4.0, 3.0, 2.0, 8.0]])
    # Row 0: positives 5 and 3, negatives 1, 3, 2: five and a half of six pairs; ranks 1 and 2.5.
    auc, rank, top = separation(scores, [0, 3], [1, 2, 4])
    assert auc == pytest.approx([5.5 / 6, 0.5, 0.5])
    assert rank == pytest.approx([1.75, 3.0, 3.0])
    assert top.tolist() == [1, 0, 1]
    assert np.isnan(separation(scores, [], [1])).all()


def test_sets_and_groups_of_a_known_response():
    text = r"3+9=3[7*6=3] hm*4=2 \boxed{2}"
    tokenizer = TOKENIZERS["chains"]
    pieces = pieces_of(tokenizer, text)
    tokens = tokenizer(text + "<|im_end|>").input_ids
    annotation = annotate("chains", "3+9[7*6]*4", pieces)
    response = Response([0], tokens, annotation, AnswerLocator(tokenizer).locate(tokens), False)

    def texts(chosen):
        return "".join(pieces[token] for token in chosen)

    def of_sets(sets):
        return {name: (texts(positives), texts(negatives)) for name, (positives, negatives) in sets.items()}

    assert of_sets(relevance_sets(response)) == {
        "all": ("3+9=3*4=2", "[7*6=3] hm"),
        "results": ("32", "3"),
        "earlier results": ("3", "3"),
    }
    assert of_sets(mistake_sets(response)) == {
        "all": ("3", "3+9=[7*6=3] hm*4=2 "),
        "results": ("3", "2"),
        "right results": ("2", "3+9=[7*6=] hm*4= "),
        "wrong side results": ("3", "3"),
    }
    by_group = {name: texts(chosen) for name, chosen in groups(response).items()}
    assert by_group["result, 0 behind it"] == "2" and by_group["result, 1 behind it"] == "3"


def small_model(tokenizer, seed: int = 0):
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=8,
        initializer_range=0.2,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return Qwen3ForCausalLM(config).eval()


def test_scores_are_those_of_training_and_their_definitions():
    rng = random.Random(3)
    responses = [response_of("legs", rng) for _ in range(3)]
    model = small_model(TOKENIZERS["legs"])
    names, scores = credit.token_scores(model, responses, np.random.default_rng(0))
    for response, scores_KT in zip(responses, scores, strict=True):
        by_name = dict(zip(names, scores_KT, strict=True))
        ids = torch.tensor([response.prompt + response.tokens])
        first, end = len(response.prompt), response.answer.end
        answer = torch.zeros(1, len(response.tokens), dtype=torch.bool)
        answer[0, response.answer.start : end] = True
        for leaf in credit.LEAVES:
            for alignment in credit.ALIGNMENTS:
                saliency = answer_saliency(
                    model, ids, torch.ones_like(ids), len(response.tokens), answer, leaf=leaf, alignment=alignment
                )
                close = pytest.approx(saliency[0, :end].numpy(), rel=1e-3, abs=1e-6)
                assert by_name[f"grail/{leaf}/{alignment}"] == close
            # A token's score by `predictor` is the one before's by `token`.
            assert by_name[f"grail/{leaf}/predictor"][1:].tolist() == by_name[f"grail/{leaf}/token"][:-1].tolist()

        # The embedding's gradient once more, on the plain model.
        embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
        logprobs = model(inputs_embeds=embedded).logits[0, first - 1 : -1].log_softmax(-1)
        of_tokens = logprobs.gather(1, ids[0, first:, None])[:, 0]
        (gradient,) = torch.autograd.grad(-of_tokens[response.answer.start : end].sum(), embedded, retain_graph=True)
        own = slice(first, first + end)
        support = -(gradient[0, own] * embedded[0, own]).sum(-1).detach().numpy()
        assert by_name["support/embeddings/token"] == pytest.approx(support, rel=1e-3, abs=1e-5)
        assert by_name["product/embeddings/token"] == pytest.approx(abs(support), rel=1e-3, abs=1e-5)
        norm = gradient[0, own].norm(dim=-1).numpy()
        assert by_name["gradient/embeddings/token"] == pytest.approx(norm, rel=1e-3, abs=1e-6)
        assert by_name["activation/embeddings/token"] == pytest.approx(
            -embedded[0, own].norm(dim=-1).detach().numpy(), rel=1e-5
        )
        assert by_name["surprise"] == pytest.approx(-of_tokens[:end].detach().numpy(), rel=1e-4, abs=1e-5)
        entropy = torch.distributions.Categorical(logits=logprobs[:end]).entropy().detach().numpy()
        assert by_name["entropy"] == pytest.approx(entropy, rel=1e-4)
        span = range(response.answer.start, end)
        expected = by_hand.oar_g(model, ids[0], first, span, len(response.tokens))[:end]
        assert by_name["oar_g"] == pytest.approx(np.array(expected), rel=0.02, abs=0.01 * max(expected))
        carried = by_hand.hops(model, ids[0], first, span, len(response.tokens), 2, 1.0)[:end]
        assert by_name["hops/2"] == pytest.approx(np.array(carried), rel=1e-3, abs=1e-6)
        assert by_name["surprise × hops±/1"] == pytest.approx(by_name["surprise"] * by_name["hops±/1"])

        weights = credit.token_weights(response, names, scores_KT)
        log = np.log(by_name["grail/embeddings/predictor"][: response.answer.start] + 1e-8)
        z = (log - log.mean()) / np.sqrt(log.var() + 1e-8)
        reasoning = weights["weight/embeddings/predictor/reasoning"]
        assert reasoning[: len(z)] == pytest.approx(np.clip(1 + 0.5 * z, 0.5, 5.0), abs=1e-5)
        assert (reasoning[response.answer.content_start : response.answer.content_end] == 5.0).all()


@pytest.fixture(scope="module")
def hop_case():
    """A policy, responses of several lengths in a batch, and the first by itself: leaf, log-probabilities, places."""
    rng, model = random.Random(5), small_model(TOKENIZERS["chains"])
    responses = [response_of("chains", rng) for _ in range(3)]
    return model, responses, *in_batch([row_of(response, whole=True) for response in responses])


def test_every_number_of_hops_is_the_plugins(hop_case):
    model, _, inputs, targets = hop_case
    found_KBS = hop_scores(model, inputs, targets, 3)
    for hops, scores_BS in enumerate(found_KBS):
        expected_BS = sum(hop_shares(model, inputs, targets, hops))
        assert scores_BS.numpy() == pytest.approx(expected_BS.numpy(), rel=1e-4, abs=1e-7)


def test_variants_of_hops_by_their_definitions(hop_case):
    """Of the first response by itself, with a gradient of each token: what is drawn, shared and summed is done here."""
    model, (response, *_), inputs, targets = hop_case
    first, end = len(response.prompt), response.answer.end
    ids_1S = inputs["input_ids"][:1, : first + end]
    embedded = model.get_input_embeddings()(ids_1S).detach().requires_grad_()
    logits = model(inputs_embeds=embedded).logits[0]
    products = []  # gradient × activation of each token's log-probability
    for place in range(first, first + end):
        log_prob = logits[place - 1].log_softmax(-1)[ids_1S[0, place]]
        (gradient,) = torch.autograd.grad(log_prob, embedded, retain_graph=True)
        products.append((gradient * embedded)[0].detach())
    products_TSD = torch.stack(products)

    def shares(values):
        return values / values.sum()

    answer_T = torch.zeros(end)
    answer_T[response.answer.start :] = 1
    own_TS = products_TSD.norm(dim=-1)
    own_TS = own_TS / own_TS.sum(dim=1, keepdim=True)
    expected_0 = shares(shares(answer_T) @ own_TS)
    expected_1 = expected_0 + shares(shares(expected_0[first:]) @ own_TS)
    by_token_KBS = hop_scores(model, inputs, targets, 1, Variant(token_by_token=True))
    assert by_token_KBS[1, 0, : first + end].numpy() == pytest.approx(expected_1.numpy(), rel=1e-3, abs=1e-6)

    signs_T = 2.0 * torch.randint(2, (end,), generator=torch.Generator().manual_seed(targets.seeds[0])) - 1
    plain_0 = shares((shares(answer_T)[:, None, None] * products_TSD).sum(0).norm(dim=-1))
    root_T = shares(plain_0[first:]).sqrt() * signs_T
    expected_1 = plain_0 + shares((root_T[:, None, None] * products_TSD).sum(0).norm(dim=-1))
    signs_KBS = hop_scores(model, inputs, targets, 1, Variant(signs=True))
    assert signs_KBS[1, 0, : first + end].numpy() == pytest.approx(expected_1.numpy(), rel=1e-3, abs=1e-6)


def test_log_odds_of_a_sure_token():
    logits = torch.tensor([[30.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert log_odds(logits, torch.tensor([0, 1])).tolist() == pytest.approx([30 - np.log(2), -np.log(2)])


def test_changes_move_what_a_policy_copies(tmp_path):
    """A policy that knows by heart to box the digit that it read, whatever the filler."""
    tokenizer = TOKENIZERS["chains"]
    texts = [
        f"<|assistant|>{digit}{filler} \\boxed{{{digit}}}<|im_end|>" for digit in "0123" for filler in chains.FILLER
    ]
    tiny.teach(tmp_path / "policy", tokenizer, texts)
    model = Qwen3ForCausalLM.from_pretrained(tmp_path / "policy").eval()
    prompt = tokenizer("<|assistant|>").input_ids
    response = tokenizer("1 hm \\boxed{1}<|im_end|>").input_ids
    changed = intervention.changes(tokenizer, prompt, response, end=2, rng=random.Random(0))
    assert [change.at for change in changed] == [0, 1]
    digit = SimpleNamespace(**vars(changed[0]))
    digit.replacement = tokenizer("2").input_ids[0]
    made = [digit, changed[1]]
    assert intervention.moved_when_finished(model, tokenizer, made, limit=12) == [True, False]
    assert intervention.moved_when_finished(model, tokenizer, made, limit=3) == [None, None]
    assert intervention.moved_when_kept(model, tokenizer, made) == [True, False]


def test_parts_that_greedy_decoding_writes_itself_come_to_the_same_answer():
    tokenizer = TOKENIZERS["legs"]
    model = small_model(tokenizer)
    prompt = tokenizer("<|user|>3 cows?<|assistant|>").input_ids
    (greedy,) = intervention.generate(model, tokenizer, [prompt], 24, sample=False)
    other = (greedy[12] + 1) % len(tokenizer)
    response = [*greedy[:12], other, *greedy[13:]]
    made = [intervention.Change(prompt, response, at, 5) for at in (3, 11, 12)]
    parts = intervention.greedy_parts(model, tokenizer, made)
    assert parts[0] == parts[1] == response[:12]
    assert parts[2][:13] == response[:13]
    (onward,) = intervention.generate(model, tokenizer, [prompt + response[:13]], len(parts[2]) - 12, sample=False)
    assert [*parts[2][13:], onward[-1]] == onward
    assert response[len(parts[2]) :][:1] != onward[-1:]


def test_credit_is_carried_back_by_shares():
    """Against gradients of one token at a time, and shares handed on from the last token to the first."""
    model = small_model(TOKENIZERS["chains"])
    prompt, tokens = [5, 6], [7, 8, 9, 10]
    found = carried_saliency(model, prompt, tokens, content=range(3, 4))
    ids = torch.tensor([[*prompt, *tokens]])

    def shares(place):
        embedded = model.get_input_embeddings()(ids[:, :place]).detach().requires_grad_()
        logprob = model(inputs_embeds=embedded).logits[0, -1].log_softmax(-1)[ids[0, place]]
        (gradient,) = torch.autograd.grad(logprob, embedded)
        norms = (gradient * embedded)[0].norm(dim=-1)
        return (norms / norms.sum()).tolist()

    of_5, of_4, of_3 = shares(5), shares(4), shares(3)
    fourth = of_5[4]
    third = of_5[3] + fourth * of_4[3]
    second = of_5[2] + fourth * of_4[2] + third * of_3[2]
    assert found == pytest.approx([second, third, fourth, 1.0], rel=1e-3)


def test_a_token_becomes_another_of_its_class():
    tokenizer = TOKENIZERS["chains"]
    becomes = {
        tokenizer.decode([token]): {tokenizer.decode([other]) for other in others}
        for token, others in intervention.alternatives(tokenizer).items()
    }
    assert becomes["7"] == set("012345689") and becomes["+"] == {"-", "*"}
    assert becomes[" hm"] == {*chains.FILLER} - {" hm"}
    assert "=" not in becomes and "[" not in becomes


def test_a_cell_of_worked_solutions():
    rng = random.Random(4)
    responses = [response_of("chains", rng) for _ in range(12)]
    model, tokenizer = small_model(TOKENIZERS["chains"]), TOKENIZERS["chains"]
    cell = credit.measure(model, tokenizer, "chains", responses, intervened=4, seed=0)
    wrong = [response for response in responses if not response.correct]
    results = cell["mistake"]["results"]
    assert results["responses"] == results["positives"] == len(wrong)
    assert results["negatives"] == sum(FIRST["chains"].steps - len(response.mistakes) for response in wrong)
    position = [separation(np.arange(99.0)[None], *relevance_sets(response)["all"])[0, 0] for response in wrong]
    mean, low, high = cell["relevance"]["wrong"]["all"]["scores"]["position"]["auc"]
    assert mean == pytest.approx(np.mean(position), abs=1e-4) and low < mean < high
    assert set(cell["weights"]["wrong"]["weight/oar_g"]) >= {"used", "side", "at the lower bound"}
    assert cell["intervention"]["changes"] > 50


def test_variants_are_compared_on_the_same_responses():
    rng = random.Random(6)
    responses = [response_of("chains", rng) for _ in range(6)]
    found = hop_variants.measure(small_model(TOKENIZERS["chains"]), responses, ["hops", "content"], seed=0)
    assert found["relevance"]["results"]["responses"] == len(responses)
    assert found["mistake"]["all"]["responses"] == sum(not response.correct for response in responses)
    assert {"hops/0", "content/8", "surprise × hops/3", "random"} <= set(found["relevance"]["all"]["scores"])


def test_the_pages_show_the_results():
    page = (figures_credit.DOCUMENTS / "credit.md").read_text(encoding="utf-8")
    for name, text in figures_credit.tables(figures_credit.read_cells()).items():
        assert f"<!-- table: {name} -->\n{text}\n<!-- end -->" in page, name
    page = figures_hops.PAGE.read_text(encoding="utf-8")
    for name, text in figures_hops.tables(figures_credit.read_cells(), figures_hops.read_variants()).items():
        assert f"<!-- table: {name} -->\n{text}\n<!-- end -->" in page, name


def test_readme_says_where_the_rules_land():
    """AUC of the first mistake among all tokens, over the cells that have it; of used results, in wrong responses and
    in right ones."""
    readme = (figures_credit.DOCUMENTS.parents[1] / "README.md").read_text(encoding="utf-8")
    rows = {line.split(" | ")[0]: line for line in readme.splitlines() if line.startswith("| ")}
    cells = figures_credit.read_cells().values()

    def of_cells(score, comparisons) -> str:
        shown = (one for one in comparisons if one and one["responses"] >= figures_credit.FEWEST)
        found = [one["scores"][score]["auc"][0] for one in shown if score in one["scores"]]
        return f"{min(found):.2f} to {max(found):.2f}"

    mistakes = [cell["mistake"]["all"] for cell in cells]
    results = [cell["relevance"][which].get("results") for cell in cells for which in ("wrong", "correct")]
    kept = [cell["intervention"]["auc"]["kept"]["all"] for cell in cells]
    default, carried = "grail/embeddings/predictor", "surprise × hops/3"
    mistake = {score: f"the first mistake {of_cells(score, mistakes)}" for score in ("oar_g", "surprise", "entropy")}
    for rule, says in {
        "| GRAIL": f"tokens whose change alone moves the answer {of_cells(default, kept)}; "
        f"the first mistake {of_cells(default, mistakes)}",
        "| OAR-G": mistake["oar_g"],
        "| `+grail=surprise`": mistake["surprise"],
        "| 80/20": mistake["entropy"],
        "| `+grail=carried`": f"the first mistake {of_cells(carried, mistakes)}; "
        f"used against unused results {of_cells(carried, results)}",
    }.items():
        (row,) = (row for name, row in rows.items() if name.startswith(rule))
        assert says in row, (rule, says)
