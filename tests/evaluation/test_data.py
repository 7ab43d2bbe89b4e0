r"""The published problems become verl's parquet: every published shape, every way it can go wrong.

The rows are those of the data sets themselves, questions shortened.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from verl.utils.dataset.rl_dataset import RLHFDataset

from grail_verl.__main__ import main
from grail_verl.evaluation import data
from grail_verl.evaluation.data import SOURCES, SUFFIX

pytestmark = pytest.mark.fast

DEEPMATH = {
    "question": r"Evaluate the limit: \[ \lim_{x \to \infty} \sqrt{x} \left( \sqrt[3]{x+1} - \sqrt[3]{x-1} \right) \]",
    "final_answer": "0", "difficulty": 4.5, "topic": "Mathematics -> Precalculus -> Limits",
    "r1_solution_1": "Okay, so I have this limit to evaluate", "r1_solution_2": "Okay", "r1_solution_3": "Okay",
}  # fmt: skip
MATH500 = {
    "problem": r"Convert the point $(0,3)$ in rectangular coordinates to polar coordinates.",
    "solution": r"Therefore, the polar coordinates are $\boxed{\left( 3, \frac{\pi}{2} \right)}.$",
    "answer": r"\left( 3, \frac{\pi}{2} \right)", "subject": "Precalculus", "level": 2,
    "unique_id": "test/precalculus/807.json",
}  # fmt: skip
AIME_H4 = {
    "id": 67, "problem": r"There exist real numbers $x$ and $y$, both greater than 1. Find $xy$.",
    "solution": r"Thus $xy=\boxed{025}$.", "answer": "025", "url": "https://artofproblemsolving.com/", "year": "2024",
}  # fmt: skip
AIME_MATH_AI = {"id": 60, "problem": "Every morning Aya goes for a walk.", "solution": r"\boxed{204}", "url": "https://"}
AMC = {"id": 0, "answer": 27.0, "url": "https://", "question": "Cities $A$ and $B$ are $45$ miles apart."}
MINERVA_SOLUTION = r"""\[
\begin{aligned}
L=4 \pi R^{2} \sigma T_{e}^{4} &=4 \pi\left(10^{9}\right)^{2}\left(5.7 \times 10^{-5}\right) \\
L & \simeq \boxed{4.5e33} \mathrm{ergs} \mathrm{s}^{-1} \simeq 1 L_{\odot}
\end{aligned}
\]"""
MINERVA = {
    "problem": "Compute the luminosity (power output) of the white dwarf.", "solution": MINERVA_SOLUTION,
    "type": "Introduction to Astronomy (8.282J Spring 2006)", "idx": 1,
}  # fmt: skip
COLLEGE = {
    "data_source": "college_math.Beginning_and_Intermediate_Algebra", "question_number": "exercise.8.3.20",
    "question": r"Simplify: $-3 \sqrt{18}-\sqrt{8}+2 \sqrt{8}+2 \sqrt{8}$", "answer": r"$-3 \sqrt{2}$",
    "license": "Creative Commons Attribution 3.0 Unported License (CC BY 3.0)", "data_topic": "college_math.algebra",
}  # fmt: skip
OLYMPIAD = {
    "id": 1664, "question": "Find all positive integers $n$, for which the numbers can be colored.", "solution": ["We"],
    "final_answer": ["$69$,$84$"], "context": None, "image_1": None, "image_2": None, "image_3": None, "image_4": None,
    "image_5": None, "modality": "Text-only", "difficulty": "Competition", "is_multiple_answer": True, "unit": None,
    "answer_type": "Numerical", "error": None, "question_type": "Open-ended", "subfield": "Algebra",
    "subject": "Math", "language": "English",
}  # fmt: skip
ROWS = {
    "deepmath": DEEPMATH, "math500": MATH500, "aime24": AIME_H4, "amc23": AMC, "minerva_math": MINERVA,
    "college_math": COLLEGE, "olympiadbench": OLYMPIAD,
}  # fmt: skip


def store(file: Path, rows: list[dict]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows, indent=1))
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def prepare(name: str, source: Path, *more: str) -> pd.DataFrame:
    out = source.parent / "out"
    main(["data", name, "--out", str(out), "--source", str(source), *more])
    return pd.read_parquet(out / f"{name}.parquet")


def truths(name: str, tmp_path: Path, *rows: dict, suffix: str = ".jsonl") -> list[str]:
    frame = prepare(name, store(tmp_path / f"source{suffix}", list(rows)), "--rows", str(len(rows)))
    return [entry["ground_truth"] for entry in frame["reward_model"]]


def refused(capsys, *arguments: object) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["data", *map(str, arguments)])
    return ended.value.code if isinstance(ended.value.code, str) else capsys.readouterr().err


def listing(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_suffix_says_boxed_and_has_no_backspace():
    words, box = SUFFIX.split(chr(92))
    assert (words, box) == (" Please reason step by step, and put your final answer within ", "boxed{}.")
    assert chr(8) not in SUFFIX


def test_the_official_prompt_has_a_backspace_where_the_backslash_and_the_b_should_be(tmp_path):
    frame = prepare("math500", store(tmp_path / "source.jsonl", [MATH500]), "--rows", "1")
    (message,) = frame["official_prompt"][0]
    ending = " Please reason step by step, and put your final answer within " + chr(8) + "oxed{}."
    assert message == {"role": "user", "content": MATH500["problem"] + ending}
    assert frame["prompt"][0][0]["content"] == MATH500["problem"] + SUFFIX


@pytest.mark.parametrize(
    ("name", "suffix", "question", "truth", "extra"),
    [
        ("deepmath", ".parquet", DEEPMATH["question"], "0", ("train", "Mathematics -> Precalculus -> Limits", "4.5")),
        ("math500", ".jsonl", MATH500["problem"], r"\left( 3, \frac{\pi}{2} \right)", ("test", "Precalculus", "2")),
        ("aime24", ".parquet", AIME_H4["problem"], "25", ("train", None, None)),
        ("amc23", ".parquet", AMC["question"], "27", ("test", None, None)),
        ("minerva_math", ".jsonl", MINERVA["problem"], r"4.5 \times 10^{33}",
         ("test", "Introduction to Astronomy (8.282J Spring 2006)", None)),
        ("college_math", ".jsonl", COLLEGE["question"], r"-3 \sqrt{2}", ("test", "college_math.algebra", None)),
        ("olympiadbench", ".json", OLYMPIAD["question"], "69,84", ("train", "Algebra", None)),
    ],
)  # fmt: skip
def test_a_published_row_becomes_verls(tmp_path, name, suffix, question, truth, extra):
    frame = prepare(name, store(tmp_path / f"source{suffix}", [ROWS[name]]), "--rows", "1")
    row = frame.iloc[0]
    assert list(frame.columns) == ["data_source", "prompt", "official_prompt", "reward_model", "extra_info"]
    assert row["data_source"] == name
    assert list(row["prompt"]) == [{"role": "user", "content": question + SUFFIX}]
    assert row["reward_model"] == {"style": "rule", "ground_truth": truth}
    assert row["extra_info"] == {"index": 0} | dict(zip(("split", "subject", "level"), extra))
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [f"{name}.parquet"]


def test_further_shapes_of_the_same_data(tmp_path):
    assert truths("aime24", tmp_path, AIME_MATH_AI, suffix=".parquet") == ["204"]
    assert truths("aime24", tmp_path, {"problem_idx": 1, "problem": "?", "answer": 33}) == ["33"]
    qwen = {"question": "?", "answer": ["-1.0"]}
    assert truths("amc23", tmp_path, {**AMC, "answer": "27"}, {**AMC, "answer": "27.0"}, qwen) == ["27", "27", "-1"]
    hub = {"question": "What is the critical angle?", "answer": "np.arcsin(10/13)"}
    assert truths("minerva_math", tmp_path, hub, {**hub, "answer": "0.022"}) == [r"\arcsin(10/13)", "0.022"]
    assert truths("minerva_math", tmp_path, {**hub, "answer": 4.5e33}) == [r"4.5 \times 10^{33}"]  # not its 34 digits
    answers = [["$\\frac{1}{2 n+2}$"], ["$2$", "$3$"], ["2"], ["$(1,8,19), (2,7,13), (4,5,7)$"]]
    assert truths("olympiadbench", tmp_path, *({**OLYMPIAD, "final_answer": answer} for answer in answers)) == [
        r"\frac{1}{2 n+2}", "2, 3", "2", "(1,8,19), (2,7,13), (4,5,7)"
    ]  # fmt: skip
    answers = [r"\$ 2500", "$2500", "1 in", r"$x=2$ or $x=3$"]
    assert truths("college_math", tmp_path, *({**COLLEGE, "answer": answer} for answer in answers)) == [
        r"\$ 2500", "$2500", "1 in", "x=2 or x=3"
    ]  # fmt: skip


def test_minervas_answer_is_the_last_complete_box_of_the_worked_solution(tmp_path):
    solutions = [r"\boxed{1} so \boxed{I(0) e^{-\frac{t}{R C}}" + "\n}", r"\boxed{2}, or \boxed{3"]
    rows = [{**MINERVA, "solution": solution} for solution in solutions]
    assert truths("minerva_math", tmp_path, *rows) == [r"I(0) e^{-\frac{t}{R C}}", "2"]


def test_a_question_stays_as_published_and_a_byte_order_mark_is_none_of_it(tmp_path):
    question = "\nFind (in closed form) the difference between é and ☃. "
    source = tmp_path / "source.jsonl"
    source.write_text(json.dumps({**OLYMPIAD, "question": question}, ensure_ascii=False), encoding="utf-8-sig")
    assert prepare("olympiadbench", source, "--rows", "1")["prompt"][0][0]["content"] == question + SUFFIX


def test_a_context_stands_before_the_question(tmp_path):
    rows = [{**OLYMPIAD, "context": "Let $T=7$."}, {**OLYMPIAD, "context": " "}]
    frame = prepare("olympiadbench", store(tmp_path / "source.jsonl", rows), "--rows", "2")
    told, bare = (prompt[0]["content"] for prompt in frame["prompt"])
    assert told == "Let $T=7$.\n" + OLYMPIAD["question"] + SUFFIX and bare == OLYMPIAD["question"] + SUFFIX


def test_ground_truths_are_gradable(tmp_path):
    math_verify = pytest.importorskip("math_verify")
    rows = [AIME_H4, {**AIME_H4, "answer": "033"}, {**AIME_H4, "answer": "000"}]
    graded = dict(zip(truths("aime24", tmp_path, *rows), ("25", "33", "0")))
    graded |= dict(zip(truths("minerva_math", tmp_path, MINERVA), (r"4.5\times10^{33}",)))
    graded |= dict(zip(truths("college_math", tmp_path, COLLEGE), (r"-3\sqrt2",)))
    graded |= dict(zip(truths("olympiadbench", tmp_path, OLYMPIAD), ("84, 69",)))
    graded |= dict(zip(truths("math500", tmp_path, MATH500), (r"(3,\pi/2)",)))
    assert len(graded) == 7
    for truth, response in graded.items():
        gold, answer = (math_verify.parse(rf"\boxed{{{text}}}") for text in (truth, response))
        assert math_verify.verify(gold, answer), (truth, response)
        assert not math_verify.verify(gold, math_verify.parse(r"\boxed{17}")), truth


@given(st.integers(-(10**15), 10**15), st.integers(0, 5), st.booleans())
def test_a_whole_number_is_the_same_however_it_was_stored(number, zeros, with_point):
    digits = "-" * (number < 0) + "0" * zeros + str(abs(number)) + ".0" * with_point
    stored = (digits, number, float(number), [digits], f"${digits}$", f" {digits}\n")
    assert {data.whole_number(data._plain(value)) for value in stored} == {str(number)}


@given(st.floats(allow_infinity=False, allow_nan=False), st.text())
def test_other_answers_keep_their_value(number, text):
    assert float(data.whole_number(data._plain(number))) == number
    if "$" not in text and not any(character.isdigit() for character in text):
        for quirk in (str, data.whole_number):
            assert quirk(data._plain(text)) == text.strip()


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3), st.integers(-40, 40))
def test_an_exponent_becomes_a_power_of_ten(mantissa, exponent):
    plain = f"{mantissa:f}"
    assert data.from_python(f"{plain}e{exponent}") == rf"{plain} \times 10^{{{exponent}}}"
    for other in (plain, r"e^{3 x}", "2e", f"x{exponent}"):
        assert data.from_python(other) == other


def test_verl_reads_all_of_them_together(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    for name, row in ROWS.items():
        prepare(name, store(tmp_path / f"{name}.jsonl", [row, row]), "--rows", "2")
    config = OmegaConf.create(
        {"max_prompt_length": 1000, "filter_overlong_prompts_workers": 1, "cache_dir": str(tmp_path / "verl"),
         "return_raw_chat": True}
    )  # fmt: skip
    files = [str(tmp_path / "out" / f"{name}.parquet") for name in ROWS]
    problems = RLHFDataset(files, tiny.tokenizer(), config)
    assert len(problems) == 14
    official = RLHFDataset(files, tiny.tokenizer(), OmegaConf.merge(config, {"prompt_key": "official_prompt"}))
    assert official[0]["raw_prompt"][0]["content"].endswith("within " + chr(8) + "oxed{}.")
    for item, name in zip((problems[index] for index in range(1, 14, 2)), ROWS):
        assert item["data_source"] == name and item["index"] == 1
        assert item["raw_prompt"][0]["content"].endswith(SUFFIX)
        assert item["reward_model"]["style"] == "rule" and item["reward_model"]["ground_truth"]


def test_a_folder_of_shards_is_read_in_order(tmp_path):
    clone = tmp_path / "DeepMath-103K"
    for shard in (10, 2, 0):
        row = {**DEEPMATH, "question": f"shard {shard}"}
        store(clone / "data" / f"train-{shard:05d}-of-00011.parquet", [row])
    (clone / "README.md").write_text("# DeepMath")
    store(clone / ".cache" / "huggingface" / "old.jsonl", [{"x": 1}])
    frame = prepare("deepmath", clone, "--rows", "3")
    assert [prompt[0]["content"].removesuffix(SUFFIX) for prompt in frame["prompt"]] == [
        "shard 0", "shard 2", "shard 10"
    ]  # fmt: skip
    hidden = tmp_path / ".cache" / "snapshot"  # a hub's cache is hidden itself
    store(hidden / "test.jsonl", [MATH500])
    assert len(prepare("math500", hidden, "--rows", "1")) == 1


@pytest.mark.parametrize("name", ["math500", "aime24", "amc23", "minerva_math"])
def test_the_published_size_needs_no_option(tmp_path, capsys, name):
    rows = [{**ROWS[name], "problem": f"{n}", "question": f"{n}"} for n in range(SOURCES[name].rows[0])]
    assert len(prepare(name, store(tmp_path / "source.jsonl", rows))) == len(rows)
    assert capsys.readouterr().out == f"{name}: {len(rows)} problems in {tmp_path / 'out' / name}.parquet\n"


@pytest.mark.parametrize(("name", "size"), [("college_math", 2818), ("olympiadbench", 674), ("olympiadbench", 675)])
def test_two_hundred_rows_at_equal_distances_are_evaluated(tmp_path, capsys, name, size):
    rows = [{**ROWS[name], "question": f"{n}"} for n in range(size)]
    rows[0]["question"] = ""  # one is unusable: chosen are 200 of the others
    source = store(tmp_path / "source.jsonl", rows)
    indices = [extra["index"] for extra in prepare(name, source)["extra_info"]]
    assert f"200 of {size - 1} usable rows are taken" in capsys.readouterr().out
    assert len(indices) == len(set(indices)) == 200 and indices == sorted(indices)
    assert indices[:2] == [1, 1 + (size - 1) // 200] and indices[199] == 1 + 199 * (size - 1) // 200
    assert len(prepare(name, source, "--rows", str(size))) == size - 1
    exactly = store(tmp_path / "exactly.jsonl", rows[1:201])
    assert [extra["index"] for extra in prepare(name, exactly)["extra_info"]] == list(range(200))


def test_another_size_is_an_error_that_names_the_option(tmp_path, capsys):
    source = store(tmp_path / "test.jsonl", [MINERVA] * 271)
    says = refused(capsys, "minerva_math", "--out", tmp_path / "out", "--source", source)
    assert says.endswith(
        "test.jsonl has 271 rows, minerva_math is published with 272; is it complete? "
        "For a file of your own of this size: --rows 271"
    )
    says = refused(capsys, "minerva_math", "--out", tmp_path / "out", "--source", source, "--rows", "272")
    assert says.endswith("test.jsonl has 271 rows, --rows says 272")
    says = refused(capsys, "deepmath", "--out", tmp_path / "out", "--source", store(tmp_path / "d.jsonl", [DEEPMATH]))
    assert "deepmath is published with 103,022;" in says
    says = refused(capsys, "olympiadbench", "--out", tmp_path, "--source", store(tmp_path / "o.jsonl", [OLYMPIAD]))
    assert "olympiadbench is published with 674 or 675 (or the 200 evaluated);" in says
    assert not (tmp_path / "out").exists()


def test_unusable_rows_are_reported_and_kept_apart(tmp_path, capsys):
    rows = [
        OLYMPIAD, {**OLYMPIAD, "final_answer": None}, {**OLYMPIAD, "final_answer": []},
        {**OLYMPIAD, "final_answer": [" $ $ "]}, {**OLYMPIAD, "image_1": {"bytes": "iVBORw0", "path": None}},
        {**OLYMPIAD, "image_1": {"bytes": None, "path": None}}, {**OLYMPIAD, "question": "In <image_1>, find $x$."},
        {**OLYMPIAD, "question": None}, {**OLYMPIAD, "final_answer": {"value": 3}},
    ]  # fmt: skip
    source, apart = store(tmp_path / "source.jsonl", rows), tmp_path / "out" / "olympiadbench.unusable.jsonl"
    frame = prepare("olympiadbench", source, "--rows", "9")
    assert [extra["index"] for extra in frame["extra_info"]] == [0, 5]
    out = capsys.readouterr().out
    assert f"7 of 9 rows are unusable, kept in {apart}: row 1: no final_answer; row 2: no final_answer; " in out
    assert "row 4: needs an image; row 6: needs an image; and 2 more\n" in out
    assert "1 of the problems repeat an earlier question (they are kept)" in out
    kept = [json.loads(line) for line in apart.read_text().splitlines()]
    assert [row["index"] for row in kept] == [1, 2, 3, 4, 6, 7, 8]
    assert kept[-2] == {"index": 7, "reason": "no question", "question": None, "answer": ["$69$,$84$"]}
    assert kept[-1]["reason"] == "a dict where text or a number was expected"
    prepare("olympiadbench", store(source, [OLYMPIAD]), "--rows", "1")
    assert not apart.exists()  # that of the earlier run


def test_a_solution_without_a_complete_box_and_a_missing_number_are_unusable(tmp_path, capsys):
    rows = [MINERVA, {**MINERVA, "solution": r"\boxed{3"}, {**MINERVA, "solution": None}, {**MINERVA, "solution": ""}]
    assert len(truths("minerva_math", tmp_path, *rows)) == 1
    assert r"row 1: no complete \boxed{} in solution; row 2: no complete" in capsys.readouterr().out
    assert len(truths("amc23", tmp_path, AMC, {**AMC, "answer": float("nan")})) == 1
    says = refused(
        capsys, "amc23", "--out", tmp_path / "out", "--rows", "1",
        "--source", store(tmp_path / "none.parquet", [{"question": "?", "answer": ""}]),
    )  # fmt: skip
    assert says.endswith("none.parquet has no usable row: row 0: no answer")


def broken_sources(folder: Path) -> dict[str, tuple[Path, str]]:
    whole = store(folder / "whole.parquet", [MATH500] * 500)
    torn_parquet, torn_lines, torn_list = folder / "torn.parquet", folder / "torn.jsonl", folder / "torn.json"
    torn_parquet.write_bytes(whole.read_bytes()[:-100])
    torn_lines.write_text((json.dumps(MATH500) + "\n\n" + json.dumps(MATH500))[:-20])
    torn_list.write_text(json.dumps([MATH500] * 2)[:-20])
    holes = folder / "holes.parquet"
    holes.write_bytes(whole.read_bytes()[:4] + bytes(200) + whole.read_bytes()[204:])
    bare, empty, text = folder / "bare.jsonl", folder / "empty.jsonl", folder / "problems.csv"
    bare.write_text("3\n")
    empty.touch()
    text.write_text("problem,answer\n1,2\n")
    latin = folder / "latin.jsonl"
    latin.write_bytes('{"problem": "é"}\n'.encode("latin-1"))
    mixed = folder / "mixed"
    store(mixed / "a.jsonl", [MATH500])
    store(mixed / "a.parquet", [MATH500])
    (folder / "nothing").mkdir()
    return {
        "absent": (folder / "absent.jsonl", "absent.jsonl does not exist"),
        "torn parquet": (torn_parquet, "torn.parquet is no complete parquet file: "),
        "parquet with holes": (holes, "holes.parquet is no complete parquet file: "),
        "torn jsonl": (torn_lines, "torn.jsonl is not one JSON object per line, nor a list of them: line 3: "),
        "torn json": (torn_list, "torn.json is not one JSON object per line, nor a list of them: "),
        "not objects": (bare, "line 1: a int where an object was expected"),
        "not utf-8": (latin, "latin.jsonl is not one JSON object per line"),
        "empty": (empty, "empty.jsonl has no rows"),
        "empty list": (store(folder / "empty.json", []), "empty.json has no rows"),
        "another kind": (text, "files of one of the kinds .parquet, .jsonl, .json; found: .csv"),
        "two kinds": (mixed, "found: .jsonl, .parquet"),
        "no files": (folder / "nothing", "found: none"),
        "no answer": (store(folder / "gsm.jsonl", [{"problem": "?", "gt": "1"}]),
                      "gsm.jsonl has no column answer; it has problem, gt"),
        "no question": (store(folder / "verl.parquet", [{"prompt": "?", "answer": "1"}]),
                        "verl.parquet has no column question or problem; it has prompt, answer"),
    }  # fmt: skip


def test_a_source_that_cannot_be_used_says_so_and_leaves_everything(tmp_path, capsys):
    prepare("math500", store(tmp_path / "good.jsonl", [MATH500, {**MATH500, "answer": ""}]), "--rows", "2")
    before = listing(tmp_path / "out")
    assert sorted(before) == ["math500.parquet", "math500.unusable.jsonl"]
    for what, (source, message) in broken_sources(tmp_path / "broken").items():
        says = refused(capsys, "math500", "--out", tmp_path / "out", "--source", source)
        assert says.startswith("grail-verl data: ") and message in says, what
        assert listing(tmp_path / "out") == before, what


@pytest.mark.parametrize("raises", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("moment", ["write", "replace"])
def test_an_interrupted_write_leaves_the_earlier_files(tmp_path, monkeypatch, raises, moment):
    prepare("math500", store(tmp_path / "source.jsonl", [MATH500, {**MATH500, "answer": ""}]), "--rows", "2")
    before = listing(tmp_path / "out")

    def half_written(table, file):
        assert tmp_path / "out" in Path(file).parents  # on the same disk: os.replace is atomic nowhere else
        Path(file).write_bytes(b"PAR1 half")
        raise raises

    def interrupted(*files):
        raise raises

    if moment == "write":
        monkeypatch.setattr(data.pq, "write_table", half_written)
    else:
        monkeypatch.setattr(data.os, "replace", interrupted)
    store(tmp_path / "source.jsonl", [{**MATH500, "answer": "3"}, {**MATH500, "answer": None}])
    with pytest.raises(raises):  # and no exception that is not expected is swallowed
        prepare("math500", tmp_path / "source.jsonl", "--rows", "2")
    assert listing(tmp_path / "out") == before
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == ["math500.parquet", "math500.unusable.jsonl"]


def test_an_output_that_cannot_be_written_says_so(tmp_path, capsys):
    (tmp_path / "out").write_text("a file")
    source = store(tmp_path / "source.jsonl", [MATH500])
    says = refused(capsys, "math500", "--out", tmp_path / "out", "--source", source, "--rows", "1")
    assert str(tmp_path / "out") in says and (tmp_path / "out").read_text() == "a file"


@pytest.mark.parametrize("name", SOURCES)
def test_the_hub_is_asked_for_what_the_table_says(tmp_path, monkeypatch, name):
    asked = []

    def load_dataset(*arguments, **options):
        asked.append((arguments, options))
        return datasets.Dataset.from_list([ROWS[name]])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    main(["data", name, "--out", str(tmp_path), "--rows", "1"])
    source = SOURCES[name]
    assert asked == [((source.hub, source.config), {"split": source.split, "revision": source.revision})]
    assert len(pd.read_parquet(tmp_path / f"{name}.parquet")) == 1


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "grail_verl", "data", *map(str, arguments)],
        capture_output=True, text=True, env={**os.environ, **environment},
    )  # fmt: skip


def test_the_command(tmp_path):
    done = run("math500", "--out", tmp_path / "a" / "b", "--source", store(tmp_path / "m.jsonl", [MATH500] * 500))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"math500: 500 problems in {tmp_path}/a/b/math500.parquet",
        "math500: 499 of the problems repeat an earlier question (they are kept)",
    ]
    failed = run("aime24", "--out", tmp_path, "--source", tmp_path / "m.jsonl")
    assert failed.returncode == 1 and failed.stdout == "" and failed.stderr.count("\n") == 1
    assert "m.jsonl has 500 rows, aime24 is published with 30;" in failed.stderr
    told = run("--help").stdout
    for name, source in SOURCES.items():
        assert name in told and source.hub in told and f"{source.rows[0]:,}" in told
    assert "--rows" in told and "--source" in told
    assert run("gsm8k", "--out", tmp_path).returncode == 2


def test_a_hub_out_of_reach_points_to_the_option(tmp_path):
    failed = run("math500", "--out", tmp_path / "out", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "cache"))
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert "HuggingFaceH4/MATH-500 cannot be loaded from the hub" in failed.stderr and "--source" in failed.stderr
    assert not (tmp_path / "out").exists()
