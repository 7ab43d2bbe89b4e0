"""`grail_verl.attribute`: weights of responses that are already there, against the plain functions; its command."""

import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import harness
import numpy as np
import oar_g
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage
from verl.trainer.ppo.v1.trainer_base import PPOTrainer

from grail_verl import GrailConfig, answer_saliency, token_weights
from grail_verl.credit.answer import AnswerLocator
from grail_verl.credit.rows import Budget
from grail_verl.look import records
from grail_verl.look.attribute import attribute, attributions, encode, main
from grail_verl.look.rollouts import Rollout, read_rollouts, with_advantages, with_chat_marks

PROMPT, RESPONSE = "3 + 4 = ", r"3 + 4 = 7, so we get \boxed{7}. Done"
TEXTS = [text for pair in harness.TEXTS for text in pair]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.tokenizer()


@pytest.fixture(scope="module")
def model():
    return tiny.model()


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("policy")
    tiny.save_policy(folder)
    return str(folder)


def by_hand(model, prompt_ids, response_ids, config=None, advantage=-1.0):
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
    scores, weights = by_hand(model, prompt_ids, response_ids, GrailConfig(**options), advantage)
    assert found.saliency == pytest.approx(scores, rel=1e-4, abs=1e-7)
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
    assert found.saliency == pytest.approx(scores.tolist(), rel=1e-4, abs=1e-7)


def test_another_weighting(model, tokenizer):
    found = attribute(PROMPT, RESPONSE, model, tokenizer, weighting="oar_g")
    prompt_ids, response_ids = tokenizer.encode(PROMPT), tokenizer.encode(RESPONSE)
    answer = range(found.answer.start, found.answer.end)
    scores = oar_g.scores(model, torch.tensor(prompt_ids + response_ids), len(prompt_ids), answer, len(response_ids))
    assert found.weight == pytest.approx(oar_g.weights(scores, [1] * len(response_ids)), abs=0.01)


@pytest.mark.parametrize("tokens", [1, 60, 10_000])
def test_many_in_micro_batches_are_as_one_by_one(model, tokenizer, tokens):
    given = [
        Rollout(f"{row} + {row} =", text, row=row, advantage=[-1.0, 0.0, 1.0, None][row % 4])
        for row, text in enumerate(TEXTS)
    ]
    batches = list(attributions(encode(given, tokenizer), model, tokenizer, GrailConfig(), 1.0, Budget(False, tokens)))
    found = {one.rollout.row: one for batch in batches for one in batch}
    assert sorted(found) == list(range(len(given))) and (len(batches) > 2) == (tokens < 100)
    for row, rollout in enumerate(given):
        prompt_ids, response_ids = tokenizer.encode(rollout.prompt), tokenizer.encode(rollout.response)
        chosen = rollout.advantage is None or rollout.advantage <= 0
        scores, weights = by_hand(model, prompt_ids, response_ids, advantage=-1.0 if chosen else 1.0)
        assert found[row].weight == pytest.approx(weights, rel=1e-4), row
        assert found[row].weighted == (chosen and found[row].answer is not None)
        assert found[row].saliency == (pytest.approx(scores, rel=1e-4, abs=1e-6) if found[row].weighted else None)


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


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"leaf": "second"}, "algorithm.grail.leaf='second' is not allowed"),
        ({"weighting": "oar_g", "std": 0.3}, "std=0.3 has no effect with algorithm.grail.weighting=oar_g"),
        ({"dump_dir": "somewhere"}, "dump_dir='somewhere' has no effect outside of training"),
    ],
)
def test_wrong_options_are_refused(model, tokenizer, options, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        attribute(PROMPT, RESPONSE, model, tokenizer, **options)


def test_what_is_missing_is_said(model, tokenizer):
    with pytest.raises(TypeError, match="a loaded model needs its tokenizer"):
        attribute(PROMPT, RESPONSE, model)
    with pytest.raises(ValueError, match="prompt 0 has no token"):
        attribute("", RESPONSE, model, tokenizer)


def test_the_command_shows_one_response(policy, capsys):
    main([policy, "--prompt", PROMPT, "--response", RESPONSE, "leaf=last"])
    said = capsys.readouterr().out
    assert RESPONSE in said and "weights before the answer" in said


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
    main([policy, "--rollouts", str(tmp_path / "dump"), "--out", str(tmp_path / "records"), "std=1.0"])
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
        _, weights = by_hand(model, tokenizer.encode(prompt), response_ids, GrailConfig(std=1.0), advantage)
        assert record["weight"] == pytest.approx(weights, rel=1e-4)
        assert record["weighted"] == ("boxed" in output and advantage <= 0)

    with pytest.raises(SystemExit, match="holds records already"):
        main([policy, "--rollouts", str(tmp_path / "dump"), "--out", str(tmp_path / "records")])


def test_lines_of_ones_own(policy, tokenizer, tmp_path):
    lines = [
        {"prompt": "3 + 4 =", "response": RESPONSE, "reward": 1, "step": 3},
        {"prompt": "3 + 4 =", "response": tokenizer.encode(RESPONSE), "reward": 0, "step": 3},
        {"prompt": [{"role": "user", "content": "1"}], "response": RESPONSE},
        {"prompt": "2 =", "response": RESPONSE, "reward": 1},
        {"prompt": "2 =", "response": RESPONSE, "advantage": 2.0, "step": 1},
    ]
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    main([policy, "--rollouts", str(tmp_path / "lines.jsonl"), "--out", str(tmp_path / "out")])
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
        ('{"prompt": "a"', "line 1: "),
        ("[1]", "line 1: no JSON object"),
    ],
)
def test_lines_that_are_none_are_named(tmp_path, text, says):
    (tmp_path / "lines.jsonl").write_text(text)
    with pytest.raises(ValueError, match=says):
        read_rollouts(tmp_path / "lines.jsonl")


def test_arguments_that_do_not_go_together(policy, tmp_path, capsys):
    for arguments in (
        [], ["--prompt", "a"], ["--rollouts", "a"], ["--prompt", "a", "--response", "b", "--out", "c"],
        ["--prompt", "a", "--response", "b", "leaf"], ["--prompt", "a", "--response", "b", "--tokens", "0"],
    ):
        with pytest.raises(SystemExit):
            main([policy, *arguments])
    with pytest.raises(SystemExit, match=r"unknown option algorithm.grail.lef='last'; did you mean leaf\?"):
        main([policy, "--prompt", "a", "--response", "b", "lef=last"])
    with pytest.raises(SystemExit, match="holds neither a Hugging Face model nor an FSDP checkpoint"):
        main([str(tmp_path), "--prompt", "a", "--response", "b"])
    with pytest.raises(SystemExit, match="No such file"):
        main([policy, "--rollouts", str(tmp_path / "none.jsonl"), "--out", str(tmp_path / "out")])


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
