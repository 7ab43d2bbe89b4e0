"""The sums for SmolLM2."""

import pytest

pytest.importorskip("reasoning_gym")

from grail_verl.reward import compute_score  # noqa: E402
from recipes.smollm2 import data  # noqa: E402


def test_no_sum_stands_in_two_places():
    training, validation = data.split()
    assert len(validation) == 16 and len(training) >= 64
    assert not set(training) & set(validation)
    assert not set(data.EXAMPLES) & (set(training) | set(validation))


def test_right_answers_and_worked_examples_are_right():
    training, validation = data.split()
    assert all(eval(expression) == int(answer) for expression, answer in {**training, **validation}.items())
    for expression, text in data.EXAMPLES.items():
        assert compute_score("", text, str(eval(expression)))["score"] == 1.0
        assert text.startswith(f"{expression} = {eval(expression)},")


def test_rows_end_with_the_question():
    row = data.rows({"3 + 5": "8"}).iloc[0]
    assert [message["role"] for message in row["prompt"]] == ["user", "assistant"] * 3 + ["user"]
    assert row["prompt"][-1]["content"] == "3 + 5"
    assert row["reward_model"]["ground_truth"] == "8"
