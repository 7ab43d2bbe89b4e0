"""`grail-verl attribute`: weights of responses that are already there, against the plain functions and by_hand.py."""

import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import by_hand
import harness
import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage
from verl.trainer.ppo.v1.trainer_base import PPOTrainer

from grail_verl import GrailConfig, answer_saliency, token_weights
from grail_verl.__main__ import main
from grail_verl.credit.answer import AnswerLocator
from grail_verl.credit.rows import Budget
from grail_verl.look import records
from grail_verl.look.attribute import attribute, attributions, checked, encode
from grail_verl.look.rollouts import Rollout, read_rollouts, with_advantages, with_chat_marks

pytestmark = pytest.mark.fast

PROMPT, RESPONSE = "3 + 4 = ", r"3 + 4 = 7, so we get \boxed{7}. Done"
TEXTS = [text for pair in harness.TEXTS for text in pair]


def plain(model, prompt_ids, response_ids, config=None, advantage=-1.0):
    """Scores and weights from the plain functions, one response at a time."""
    config = config or GrailConfig()
    ids = torch.tensor([[*prompt_ids, *response_ids]])
    answer, content = (torch.zeros(1, len(response_ids), dtype=torch.bool) for _ in range(2))
    if (span := AnswerLocator(tiny.tokenizer(), config.occurrence).locate(response_ids)) is not None:
        answer[0, span.start : span.end] = True
        content[0, span.content_start : span.content_end] = True
    scores = answer_saliency(
        model, ids, torch.ones_like(ids), len(response_ids), answer, leaf=config.leaf, alignment=config.alignment
    )
    mask, advantages = torch.ones(1, len(response_ids)), torch.tensor([advantage])
    return scores[0].tolist(), token_weights(scores, mask, answer, content, advantages, config)[0].tolist()


@pytest.mark.parametrize("options", [{}, {"leaf": "last", "alignment": "token", "std": 1.0}, {"rollouts": "correct"}])
def test_one_response_is_weighted_as_the_plain_functions_do(model, tokenizer, options):
    found = attribute(PROMPT, RESPONSE, model, tokenizer, **options)
    prompt_ids, response_ids = tokenizer.encode(PROMPT), tokenizer.encode(RESPONSE)
    advantage = 1.0 if "rollouts" in options else -1.0
    scores, weights = plain(model, prompt_ids, response_ids, GrailConfig(**options), advantage)
    assert found.score == pytest.approx(scores, rel=1e-4, abs=1e-7)
    assert found.weight == pytest.approx(weights, rel=1e-4)
    assert found.prompt == PROMPT and "".join(found.tokens) == RESPONSE and found.weighted
    assert len({round(weight, 3) for weight in found.weight[: found.answer.start]}) > 5
    record = found.record()
    assert record["advantage"] is None and record["reward"] is None and record["mask"] == [1] * len(response_ids)


def test_saliency_is_the_norm_of_gradient_times_embedding(model, tokenizer):
    """By autograd alone: no part of the package but the answer's place."""
    found = attribute(PROMPT, RESPONSE, model, tokenizer, temperature=0.5)
    prompt_ids, response_ids = tokenizer.encode(PROMPT), tokenizer.encode(RESPONSE)
    ids = torch.tensor([[*prompt_ids, *response_ids]])
    leaf = model.get_input_embeddings()(ids).detach().requires_grad_()
    log_probs = (model(inputs_embeds=leaf).logits / 0.5).log_softmax(dim=-1)
    answer = range(len(prompt_ids) + found.answer.start, len(prompt_ids) + found.answer.end)
    loss = -sum(log_probs[0, place - 1, ids[0, place]] for place in answer)
    (gradient,) = torch.autograd.grad(loss, leaf)
    scores = (gradient * leaf).norm(dim=-1)[0, len(prompt_ids) - 1 : -1]
    assert found.score == pytest.approx(scores.tolist(), rel=1e-4, abs=1e-7)


def test_another_score_and_other_weights(model, tokenizer):
    found = attribute(PROMPT, RESPONSE, model, tokenizer, score="oar_g", weights="reshaped")
    prompt_ids, response_ids = tokenizer.encode(PROMPT), tokenizer.encode(RESPONSE)
    answer = range(found.answer.start, found.answer.end)
    scores = by_hand.oar_g(model, torch.tensor(prompt_ids + response_ids), len(prompt_ids), answer, len(response_ids))
    assert found.weight == pytest.approx(by_hand.reshaped(scores, [1] * len(response_ids)), abs=0.01)


def of_predictions(score: str, model, prompt_ids, response_ids, temperature) -> list[float]:
    """Surprise or entropy of the response tokens by the plain model."""
    return getattr(by_hand, score)(model, torch.tensor([*prompt_ids, *response_ids]), len(prompt_ids), temperature)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("response", [RESPONSE, "3 + 4 = 7 and no box", r"\boxed{7}"])
@pytest.mark.parametrize("score", ["surprise", "entropy"])
def test_scores_of_predictions_need_no_answer(model, tokenizer, score, response, temperature):
    """Every token is scored, those behind the answer too."""
    prompt_ids, response_ids = tokenizer.encode(PROMPT), tokenizer.encode(response)
    scores = of_predictions(score, model, prompt_ids, response_ids, temperature)
    mask = [1] * len(response_ids)

    def found(**options):
        one = attribute(PROMPT, response, model, tokenizer, temperature=temperature, score=score, **options)
        assert one.score == pytest.approx(scores, rel=1e-4, abs=1e-6) and min(one.score) >= 0
        assert (one.answer is None) == ("boxed" not in response)
        assert one.weighted == ("weights" not in options or options["weights"] != "proportional" or "3" in response)
        return one

    one = found(weights="proportional", total=3.0)
    answer = None if one.answer is None else range(one.answer.start, one.answer.end)
    content = range(0) if one.answer is None else range(one.answer.content_start, one.answer.content_end)
    assert one.weight == pytest.approx(by_hand.proportional(scores, mask, answer, 3.0), rel=1e-3, abs=1e-6)
    assert sum(one.weight) == pytest.approx(3.0 if one.weighted else len(mask))  # a box alone has nothing to share by
    for statistics in ("response", "reasoning"):
        config = GrailConfig(statistics=statistics)
        expected = by_hand.standardised(scores, mask, answer, content, config)
        assert found(statistics=statistics).weight == pytest.approx(expected, rel=1e-3)
    assert found(weights="reshaped").weight == pytest.approx(by_hand.reshaped(scores, mask), rel=1e-3)
    assert found(weights="top_share", share=0.3).weight == by_hand.top_share([(scores, mask)], 0.3)[0]


def attributed(given, model, tokenizer, *arguments, **options) -> list:
    return list(attributions(encode(given, tokenizer), model, tokenizer, checked(options), *arguments))


@pytest.mark.parametrize("score", ["surprise", "entropy", "saliency"])
def test_the_top_share_is_of_all_tokens_of_a_step_that_have_scores(model, tokenizer, score, monkeypatch):
    """However many responses are held at a time otherwise, and whatever their advantages."""
    monkeypatch.setattr("grail_verl.look.scoring.AT_ONCE", 2)
    texts = [text for text in dict.fromkeys(TEXTS) if text]
    given = [
        Rollout(f"{row} + {row} =", text, step=row % 2, row=row, advantage=[-1.0, 0.0, 1.0, None][row % 4])
        for row, text in enumerate(texts)
    ]
    found = attributed(given, model, tokenizer, 0.8, score=score, weights="top_share", share=0.3)
    assert [one.rollout.step for one in found] == sorted(one.step for one in given)
    every = []
    for step in (0, 1):
        of_step = [one for one in found if one.rollout.step == step]
        rows = []
        for one in of_step:
            prompt_ids, response_ids = tokenizer.encode(one.rollout.prompt), tokenizer.encode(one.rollout.response)
            if score == "saliency":
                assert one.weighted == (one.answer is not None)
                scores = one.score  # held against the plain functions elsewhere
            else:
                scores = of_predictions(score, model, prompt_ids, response_ids, 0.8)
                assert one.weighted and one.score == pytest.approx(scores, rel=1e-4, abs=1e-6)
            if one.weighted:
                rows.append((scores, [1] * len(response_ids)))
        expected = iter(by_hand.top_share(rows, 0.3))
        assert [one.weight for one in of_step] == [
            next(expected) if one.weighted else [1.0] * len(one.tokens) for one in of_step
        ]
        kept = [sum(one.weight) / len(one.weight) for one in of_step if one.weighted]
        assert min(kept) < 0.25 and max(kept) > 0.35  # a share of the step, not of each response
        every += rows
    assert by_hand.top_share(every, 0.3) != [one.weight for one in found if one.weighted]  # not a share of all steps


@pytest.mark.parametrize("tokens", [1, 60, 10_000])
@pytest.mark.parametrize("at_once", [3, 512])
def test_many_in_micro_batches_are_as_one_by_one(model, tokenizer, tokens, at_once, monkeypatch):
    monkeypatch.setattr("grail_verl.look.scoring.AT_ONCE", at_once)
    given = [
        Rollout(f"{row} + {row} =", text, step=5 - row // 10, row=row, advantage=[-1.0, 0.0, 1.0, None][row % 4])
        for row, text in enumerate(TEXTS)
    ]
    done = []
    found = attributed(given, model, tokenizer, 1.0, Budget(False, tokens), done.append)
    assert [one.rollout for one in found] == given
    scored, parts = sum(one.weighted for one in found), 2 if at_once == 512 else 6
    assert sum(done) == len(given)
    passes = len(done) - parts  # the first number of a part is that of responses without a pass
    assert {1: passes == scored, 60: 0 < passes < scored, 10_000: 0 < passes <= parts}[tokens]
    for row, rollout in enumerate(given):
        prompt_ids, response_ids = tokenizer.encode(rollout.prompt), tokenizer.encode(rollout.response)
        chosen = rollout.advantage is None or rollout.advantage <= 0
        scores, weights = plain(model, prompt_ids, response_ids, advantage=-1.0 if chosen else 1.0)
        assert found[row].weight == pytest.approx(weights, rel=1e-4), row
        assert found[row].weighted == (chosen and found[row].answer is not None)
        assert found[row].score == (pytest.approx(scores, rel=1e-4, abs=1e-6) if found[row].weighted else None)


def test_prompts_may_be_text_messages_or_token_ids(model, tokenizer):
    messages = [{"role": "user", "content": "3 + 4"}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    found = [
        attribute(prompt, response, model, tokenizer)
        for prompt, response in ((messages, RESPONSE), (text, RESPONSE), (tokenizer.encode(text), RESPONSE),
                                 (text, tokenizer.encode(RESPONSE)))
    ]
    assert found[0].prompt == text
    assert all(one.weight == found[0].weight and one.prompt == text for one in found)


def test_it_shows_the_response(model, tokenizer):
    found = attribute("<b>3 + 4</b>", RESPONSE + " é</pre><script>", model, tokenizer)
    console = Console(width=80, record=True, force_terminal=True, color_system="truecolor", file=io.StringIO())
    console.print(found)
    said = console.export_text()
    assert RESPONSE in said and f"{len(found.tokens)} tokens; weights before the answer" in said
    html = found._repr_html_()
    assert "<script>" not in html and "<b>" not in html and "&lt;script&gt;" in html
    colours = re.findall(r"background-color: (#\w{6})", html)
    assert len(set(colours)) > 3 and "text-decoration: underline" in html
    assert "without a complete" in attribute(PROMPT, "no answer", model, tokenizer)._caption()


CLIPBOARD = "\x1b]52;c;cm0gLXJmIH4=\x07"  # writes it, where a terminal allows that


def test_what_a_model_wrote_does_not_control_the_terminal(model, tokenizer, policy, tmp_path, capsys):
    found = attribute(f"3{CLIPBOARD} + 4", f"7\r8 \x9b2J{CLIPBOARD}\n\tso \\boxed{{7}}", model, tokenizer)
    for colours in (None, "truecolor"):
        console = Console(width=200, force_terminal=colours is not None, color_system=colours, file=io.StringIO())
        console.print(found)
        said = re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue())  # colours, which are ours
        assert not set(said) & set("\x1b\x07\x9b\r")
        assert r"3\x1b]52;c;" in said and r"7\r8 \x9b2J\x1b]52;c;" in said and "so \\boxed{7}" in said
    assert "\x1b" not in found._repr_html_()
    assert CLIPBOARD in "".join(found.record()["tokens"])  # records hold what was written
    (tmp_path / "lines.jsonl").write_text(json.dumps({CLIPBOARD: 1}))
    with pytest.raises(SystemExit) as end:
        main(["attribute", policy, "--rollouts", str(tmp_path / "lines.jsonl"), "--out", str(tmp_path / "out")])
    assert r"line 1: it has \x1b]52;c;" in str(end.value) and "\x1b" not in str(end.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"leaf": "second"}, "algorithm.grail.leaf='second' is not allowed"),
        (
            {"score": "surprise", "leaf": "last"},
            "leaf='last' has no effect with algorithm.grail.score=surprise and algorithm.grail.weights=standardised",
        ),
        ({"weights": "reshaped", "std": 0.3}, "std=0.3 has no effect with algorithm.grail.score=saliency and "),
        ({"score": "salience"}, "algorithm.grail.score='salience' is not allowed; allowed: entropy | oar_g | "),
        ({"weighting": "oar_g"}, "unknown option algorithm.grail.weighting='oar_g'"),
        ({"dump_dir": "somewhere"}, "dump_dir='somewhere' has no effect outside of training"),
    ],
)
def test_wrong_options_are_refused(model, tokenizer, options, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        attribute(PROMPT, RESPONSE, model, tokenizer, **options)


@pytest.mark.parametrize("temperature", [0.0, -1.0, 1e-50, 1e39, float("nan"), float("inf")])
def test_a_temperature_that_divides_nothing_is_refused(temperature, model, tokenizer, policy):
    """In Python and on the command line alike, before a model is loaded."""
    says = re.escape(f"temperature={temperature} is not allowed; allowed: a number > 0, within float32")
    for loaded in ((model, tokenizer), ("/no/such/model",)):
        with pytest.raises(ValueError, match=f"^{says}$"):
            attribute(PROMPT, RESPONSE, *loaded, temperature=temperature)
    arguments = [policy, "--prompt", PROMPT, "--response", RESPONSE, f"--temperature={temperature}"]
    with pytest.raises(SystemExit, match=f"^grail-verl attribute: {says}$"):
        main(["attribute", *arguments])


def test_what_is_missing_is_said(model, tokenizer):
    with pytest.raises(TypeError, match="a loaded model needs its tokenizer"):
        attribute(PROMPT, RESPONSE, model)
    with pytest.raises(ValueError, match="prompt 0 has no token"):
        attribute("", RESPONSE, model, tokenizer)


def test_the_command_shows_one_response(policy, capsys):
    """Options may stand anywhere."""
    said = []
    for arguments in (
        [policy, "--prompt", PROMPT, "--response", RESPONSE, "leaf=last", "std=1.0"],
        [policy, "leaf=last", "--prompt", PROMPT, "std=1.0", "--response", RESPONSE],
        ["--prompt", PROMPT, policy, "leaf=last", "std=1.0", "--response", RESPONSE],
    ):
        main(["attribute", *arguments])
        said.append(capsys.readouterr().out)
    assert RESPONSE in said[0] and "weights before the answer" in said[0]
    assert said[0] == said[1] == said[2]
    main(["attribute", policy, "--prompt", PROMPT, "--response", RESPONSE])
    assert capsys.readouterr().out != said[0]


def verl_dump(folder, step: int, inputs, outputs, scores, keys) -> None:
    """By verl's own function (trainer/ppo/v1/trainer_base.py), as `_log_rollout_data` calls it."""
    trainer = SimpleNamespace(
        global_steps=step, _dump_executor=ThreadPoolExecutor(1), _dump_futures=[],
        _write_generations=PPOTrainer._write_generations,
    )
    PPOTrainer._dump_generations(trainer, inputs, outputs, ["7"] * len(inputs), scores, {"uid": keys}, str(folder))
    PPOTrainer._shutdown_dump_executor(trainer)


def test_the_command_writes_records_of_verls_rollout_dump(policy, tokenizer, model, tmp_path, capsys):
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "3 + 4"}], add_generation_prompt=True,
                                           tokenize=False)
    outputs = [r"7 so \boxed{7}", r"8 so we get \boxed{8}", "9", r"so \boxed{9}", r"\boxed{7}"]
    keys = ["a_0_0", "a_1_0", "a_2_0", "b_0_0", "b_1_0"]
    for step in (1, 12, 2):
        verl_dump(tmp_path / "dump", step, [prompt] * 5, outputs, [1.0, 0.0, 0.0, 0.0, 0.0], keys)
    main(["attribute", policy, "--rollouts", str(tmp_path / "dump"), "--out", str(tmp_path / "records"), "std=1.0"])
    assert "15 responses, 9 weighted" in capsys.readouterr().out.replace("\n", " ")

    found = records.read(tmp_path / "records")
    assert [response["step"] for response in found.responses] == [1] * 5 + [2] * 5 + [12] * 5
    assert [response["row"] for response in found.responses] == list(range(15))
    assert found.settings["options"]["std"] == 1.0 and found.metrics == {}
    for record, output, reward, advantage in zip(
        found.responses, outputs, [1, 0, 0, 0, 0], [2 / 3, -1 / 3, -1 / 3, 0, 0], strict=False
    ):
        assert record["prompt"] == prompt and "".join(record["tokens"]) == output + "<|im_end|>"
        assert record["reward"] == reward and record["advantage"] == pytest.approx(advantage)
        response_ids = [*tokenizer.encode(output), tokenizer.eos_token_id]
        scores, weights = plain(model, tokenizer.encode(prompt), response_ids, GrailConfig(std=1.0), advantage)
        assert record["weight"] == pytest.approx(weights, rel=1e-4)
        assert record["weighted"] == ("boxed" in output and advantage <= 0)
        nothing = [None] * len(response_ids)
        assert record["score"] == (pytest.approx(scores, rel=1e-4, abs=1e-6) if record["weighted"] else nothing)

    with pytest.raises(SystemExit, match="holds records already"):
        main(["attribute", policy, "--rollouts", str(tmp_path / "dump"), "--out", str(tmp_path / "records")])


def test_lines_of_ones_own(policy, tokenizer, tmp_path):
    lines = [
        {"prompt": "3 + 4 =", "response": RESPONSE, "reward": 1, "step": 3},
        {"prompt": "3 + 4 =", "response": tokenizer.encode(RESPONSE), "reward": 0, "step": 3},
        {"prompt": [{"role": "user", "content": "1"}], "response": RESPONSE},
        {"prompt": "2 =", "response": RESPONSE, "reward": 1},
        {"prompt": "2 =", "response": RESPONSE, "advantage": 2.0, "step": 1},
    ]
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    main(["attribute", policy, "--rollouts", str(tmp_path / "lines.jsonl"), "--out", str(tmp_path / "out")])
    by_row = {response["row"]: response for response in records.read(tmp_path / "out").responses}
    assert [by_row[row]["step"] for row in range(5)] == [3, 3, 0, 0, 1]
    assert [by_row[row]["advantage"] for row in range(5)] == [0.5, -0.5, None, None, 2.0]
    assert [by_row[row]["weighted"] for row in range(5)] == [False, True, True, True, False]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no line"),
        ("{}", "line 1: it has nothing; needed: prompt and response"),
        ('{"prompt": "a", "response": "b"}\n{"prompt": 3, "response": "b"}', "line 2: prompt is 3"),
        ('{"prompt": "a", "response": [true]}', r"line 1: response is \[True\]; allowed: text, token ids$"),
        ('{"prompt": "a", "response": "b", "reward": "much"}', "line 1: could not convert"),
        ('{"prompt": "a", "response": "b", "reward": NaN}', "line 1: reward is nan; allowed: a finite number"),
        ('{"input": "a", "output": "b", "score": -1e39}', r"line 1: score is -1e\+39; allowed: a finite number of"),
        ('{"prompt": "a", "response": "b", "advantage": Infinity}', "line 1: advantage is inf; allowed: a finite"),
        ('{"prompt": "a", "response": "b", "step": 1e400}', "line 1: cannot convert float infinity"),
        ('{"prompt": "a"', "line 1: "),
        ("[1]", "line 1: no JSON object"),
    ],
)
def test_lines_that_are_none_are_named(tmp_path, text, says):
    (tmp_path / "lines.jsonl").write_text(text)
    with pytest.raises(ValueError, match=says):
        read_rollouts(tmp_path / "lines.jsonl")


def test_the_command_takes_any_score_and_weights(policy, model, tokenizer, tmp_path, capsys):
    lines = [{"prompt": "3 + 4 =", "response": text, "reward": row % 3 == 0} for row, text in enumerate(TEXTS) if text]
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)))
    main([
        "attribute", policy, "score=surprise", "--rollouts", str(tmp_path / "lines.jsonl"), "weights=proportional",
        "--out", str(tmp_path / "out"), "total=2.5", "rollouts=all", "--temperature", "0.8",
    ])  # fmt: skip
    found = records.read(tmp_path / "out")
    options = found.settings["options"]
    assert (options["score"], options["weights"], options["total"]) == ("surprise", "proportional", 2.5)
    assert found.settings["bounds"] is None
    shared = sum(not line["response"].startswith("\\boxed{8}") for line in lines)  # which has nothing to share by
    assert f"{len(lines)} responses, {shared} weighted" in capsys.readouterr().out.replace("\n", " ")
    for record, line in zip(found.responses, lines, strict=True):
        prompt_ids, response_ids = tokenizer.encode("3 + 4 ="), tokenizer.encode(line["response"])
        scores = of_predictions("surprise", model, prompt_ids, response_ids, 0.8)
        assert record["score"] == pytest.approx(scores, rel=1e-4, abs=1e-6)
        answer = record["answer"] and range(record["answer"]["start"], record["answer"]["end"])
        expected = by_hand.proportional(scores, [1] * len(scores), answer, 2.5)
        assert record["weight"] == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_a_rule_that_needs_more_than_files_hold_is_refused(policy, tmp_path):
    (tmp_path / "rule.py").write_text(
        "from grail_verl import Score, register_score\n"
        "@register_score('of_old_log_probs')\n"
        "class Mine(Score):\n"
        "    needs = frozenset({'old_log_probs_BT'})\n"
        "    def from_batch(self, batch):\n"
        "        return -batch.old_log_probs_BT\n"
    )
    says = "^grail-verl attribute: .*score=of_old_log_probs .* need RolloutBatch.old_log_probs_BT, which a response out"
    with pytest.raises(SystemExit, match=says):
        main([
            "attribute", policy, "--prompt", "a", "--response", "b", "score=of_old_log_probs",
            f"modules=[{tmp_path}/rule.py]",
        ])  # fmt: skip


def test_arguments_that_do_not_go_together(policy, capsys):
    for says, arguments in (
        ("needed: --prompt and --response, or --rollouts and --out", []),
        ("needed: --prompt and --response, or --rollouts and --out", ["--prompt", "a"]),
        ("needed: --prompt and --response, or --rollouts and --out", ["--rollouts", "a"]),
        (
            "needed: --prompt and --response, or --rollouts and --out",
            ["--prompt", "a", "--response", "b", "--out", "c"],
        ),
        ("'leaf' is no option=value", ["--prompt", "a", "--response", "b", "leaf"]),
        ("--tokens 0 is not allowed; allowed: a number > 0", ["--prompt", "a", "--response", "b", "--tokens", "0"]),
    ):
        with pytest.raises(SystemExit) as end:
            main(["attribute", policy, *arguments])
        assert end.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith("usage: grail-verl attribute ") and f"grail-verl attribute: error: {says}" in said


def test_what_a_user_can_mend_ends_in_a_line(policy, tmp_path):
    one = ["--prompt", "a", "--response", "b"]
    (tmp_path / "lines.jsonl").write_text("{}\n")
    for arguments, says in (
        ([policy, *one, "lef=last"], r"unknown option algorithm.grail.lef='last'; did you mean leaf\?"),
        ([policy, *one, "leaf=["], "expected the node content"),
        ([policy, "--prompt", "", "--response", "b"], "prompt 0 has no token"),
        ([str(tmp_path), *one], "holds neither a Hugging Face model nor an FSDP checkpoint"),
        ([policy, "--rollouts", str(tmp_path / "none.jsonl"), "--out", str(tmp_path / "out")], "No such file"),
        ([policy, "--rollouts", str(tmp_path / "lines.jsonl"), "--out", str(tmp_path / "out")], "line 1: it has no"),
    ):
        with pytest.raises(SystemExit, match=f"(?s)^grail-verl attribute: .*{says}"):
            main(["attribute", *arguments])


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 1), st.none() | st.floats(-1, 1)), max_size=8))
def test_advantages_are_grpos_without_its_division(lines):
    """verl's function, on the groups of two and more."""
    given = with_advantages([Rollout("p", "r", step=step, group=group, reward=reward) for group, step, reward in lines])
    rewarded = [rollout for rollout in given if rollout.reward is not None]
    groups = [f"{rollout.group}{rollout.step}" for rollout in rewarded]
    if rewarded:
        rewards = torch.tensor([[rollout.reward] for rollout in rewarded])
        expected, _ = compute_grpo_outcome_advantage(
            rewards, torch.ones_like(rewards), np.array(groups, dtype=object), norm_adv_by_std_in_grpo=False
        )
        for rollout, group, value in zip(rewarded, groups, expected[:, 0].tolist(), strict=True):
            if groups.count(group) < 2:
                assert rollout.advantage is None
            else:
                assert rollout.advantage == pytest.approx(value, abs=1e-6)
    assert all(rollout.advantage is None for rollout in given if rollout.reward is None)


CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe brief.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
)


@pytest.mark.parametrize(
    ("messages", "options"),
    [
        ([("user", "3 + 4?")], {}),
        ([("user", "system\nand user\nassistant\n")], {}),
        ([("user", "3 + 4?")], {"enable_thinking": False}),
        ([("system", "You add."), ("user", "3\n\n+ 4?")], {}),
    ],
)
def test_chat_marks_that_verls_dump_leaves_out_are_put_back(messages, options):
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = CHATML
    chat = [{"role": role, "content": content} for role, content in messages]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False, **options)
    dumped = tokenizer.decode(tokenizer.encode(prompt), skip_special_tokens=True)
    assert "<|" not in dumped
    assert with_chat_marks(tokenizer, dumped) == prompt
    assert with_chat_marks(tokenizer, dumped + "and more") is None
    ((one,),) = [encode([Rollout(dumped + "!", "a", stripped=True)], tokenizer)]
    assert not one.marked


def test_texts_of_tokens_join_to_the_response(tokenizer):
    """Bytes of characters that are cut in the middle, and special tokens, as the tokenizer itself decodes them."""
    locator = AnswerLocator(tokenizer)
    ids = tokenizer.encode("é☃ ok🙂")
    for cut in ([*ids, tokenizer.eos_token_id], ids[:-1], ids[1:], [ids[0], tokenizer.eos_token_id, *ids[2:]], []):
        texts = locator.texts(cut)
        assert len(texts) == len(cut) and "".join(texts) == tokenizer.decode(cut, clean_up_tokenization_spaces=False)


def test_a_rule_may_select_by_the_answer(policy, tmp_path):
    """Answers are there, and what a rule needs was asked for, before it says which responses it weights."""
    (tmp_path / "rule.py").write_text(
        "import torch\n"
        "from grail_verl import Weights, register_weights\n"
        "@register_weights('answered_alone')\n"
        "class Answered(Weights):\n"
        "    def selected(self, batch):\n"
        "        return (batch.advantages_B < 0) & batch.answered_B\n"
        "    def token_weights(self, scores_BT, weighted_B, batch):\n"
        "        return torch.where(weighted_B[:, None], 2.0, 1.0).expand_as(scores_BT)\n"
    )
    options = {"modules": [str(tmp_path / "rule.py")], "weights": "answered_alone", "score": "surprise"}
    for response, weight in ((r"3 + 4 = 7, so \boxed{7}", 2.0), ("no answer", 1.0)):
        assert set(attribute("3 + 4", response, str(policy), **options).weight) == {weight}
