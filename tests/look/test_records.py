"""Records: what is written is read again, whatever the text; a crash loses a line, a resumed run drops what it repeats,
and another run's folder is refused."""

import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grail_verl import GrailConfig
from grail_verl.credit.answer import AnswerSpan
from grail_verl.look import records
from grail_verl.look.records import Writer, drop_from, read, read_last, refuse_others, response_record

pytestmark = pytest.mark.fast

numbers = st.floats(width=32)
pieces = st.text(max_size=5)  # every character but surrogates, line separators and quotes among them


def record(step=1, row=0, tokens=("So ", "\\boxed{", "7", "}"), **changed) -> dict:
    count = len(tokens)
    given = {
        "prompt": "3 + 4",
        "mask": [1] * count,
        "score": [0.5] * count,
        "weight": [1.0] * count,
        "advantage": -1.0,
        "answer": AnswerSpan(1, 4, 2, 3),
        "reward": 0.0,
        "weighted": True,
    }
    return response_record(step=step, row=row, tokens=tokens, **{**given, **changed})


def filled(folder, *records: dict, rank: int = 0) -> Writer:
    writer = Writer(folder, rank)
    writer.write_settings(GrailConfig(dump_dir="here"), (0.5, 5.0))
    writer.add_responses(records)
    return writer


@given(
    st.lists(st.tuples(pieces, st.booleans(), numbers, numbers), max_size=6), pieces, numbers,
    st.none() | numbers, st.none() | numbers, st.booleans(),
)
def test_what_is_written_is_read(tokens, prompt, metric, advantage, reward, scored):
    texts, mask, score, weight = ([row[place] for row in tokens] for place in range(4))
    with tempfile.TemporaryDirectory() as folder:
        written = record(
            tokens=texts, prompt=prompt, mask=mask, score=score if scored else None, weight=weight,
            advantage=advantage, reward=reward, answer=None, weighted=scored,
        )
        filled(folder, written, rank=3).add_metrics(1, {"grail/weight_mean": metric})
        found = read(folder)

    def close(value, original):
        if original is None or not math.isfinite(original):
            return value is None
        return value == pytest.approx(original, rel=1e-5)

    (response,) = found.responses
    assert response["tokens"] == texts and response["prompt"] == prompt and response["rank"] == 3
    assert response["mask"] == [int(own) for own in mask] and response["weighted"] is scored
    assert all(map(close, response["weight"], weight))
    assert all(map(close, response["score"], score if scored else [None] * len(texts)))
    assert close(response["advantage"], advantage) and close(response["reward"], reward)
    assert close(found.metrics[1]["weight_mean"], metric)


def test_a_record_holds_what_the_format_says(tmp_path):
    filled(tmp_path, record(step=3, row=2))
    found = read(tmp_path)
    assert found.responses == [
        {
            "step": 3, "row": 2, "rank": 0, "prompt": "3 + 4", "tokens": ["So ", "\\boxed{", "7", "}"],
            "mask": [1, 1, 1, 1], "score": [0.5] * 4, "weight": [1.0] * 4, "advantage": -1.0,
            "answer": {"start": 1, "end": 4, "content_start": 2, "content_end": 3}, "reward": 0.0, "weighted": True,
        }
    ]
    options = found.settings["options"]
    assert options["std"] == 0.5 and (options["score"], options["weights"]) == ("saliency", "standardised")
    assert found.settings["bounds"] == [0.5, 5.0]
    assert options.keys().isdisjoint({"dump_dir", "log_pictures"})
    Writer(tmp_path).write_settings(GrailConfig(score="oar_g", weights="reshaped"), (-math.inf, math.inf))
    settings = read(tmp_path).settings
    assert settings["bounds"] is None
    assert (settings["options"]["score"], settings["options"]["weights"]) == ("oar_g", "reshaped")


@given(st.integers(0, 400))
def test_a_crash_in_the_middle_of_a_line_loses_that_line_alone(cut):
    with tempfile.TemporaryDirectory() as folder:
        filled(folder, record(1), record(2, prompt="é" * 40))
        file = Path(folder) / "responses-0.jsonl"
        whole = file.read_bytes()
        first = whole.index(b"\n") + 1
        file.write_bytes(whole[: min(first + cut, len(whole))])
        lost = first + cut < len(whole) - 1
        assert [response["step"] for response in read(folder).responses] == ([1] if lost else [1, 2])
        Writer(folder).add_responses([record(3)])  # the run goes on
        assert [response["step"] for response in read(folder).responses] == ([1, 3] if lost else [1, 2, 3])


@pytest.mark.parametrize(("step", "left"), [(1, []), (2, [1]), (3, [1, 2]), (4, [1, 2, 3])])
def test_a_run_that_resumes_drops_what_it_writes_again(tmp_path, step, left):
    """Of every rank, also of those that it no longer has, in whatever lines."""
    for rank in (0, 3):
        writer = filled(tmp_path, *(record(number, row=row) for number in (1, 2, 3) for row in (0, 1)), rank=rank)
    for number in (1, 2, 3):
        writer.add_metrics(number, {"grail/weight_mean": 1.0})
    with (tmp_path / "responses-3.jsonl").open("a") as file:
        file.write('{"step": 3, "ro')  # cut off
    assert drop_from(tmp_path, step) is (len(left) < 3)
    found = read(tmp_path)
    assert [(one["step"], one["rank"], one["row"]) for one in found.responses] == [
        (number, rank, row) for number in left for rank in (0, 3) for row in (0, 1)
    ]
    assert list(found.metrics) == left
    assert not drop_from(tmp_path, step)


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2), pieces), max_size=9), st.integers(1, 600), st.booleans()
)
def test_the_last_step_is_read_from_the_end_whatever_lies_before(written, block, crashed):
    """A rank may have written nothing of it, and a line may be cut off."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "BLOCK", block)
        filled(folder)
        for row, (step, rank, prompt) in enumerate(sorted(written)):
            Writer(folder, rank).add_responses([record(step=step, row=row, prompt=prompt)])
        if crashed:
            with (Path(folder) / "responses-1.jsonl").open("a") as file:
                file.write('{"step": 4, "row')
        found, everything = read_last(folder), read(folder)
    last = max((step for step, _, _ in written), default=None)
    assert found.responses == [one for one in everything.responses if one["step"] == last]
    assert found.settings == everything.settings and found.metrics == {}


def test_the_last_step_is_refused_where_there_is_none(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path} holds no records"):
        read_last(tmp_path)
    filled(tmp_path, record())
    with (tmp_path / "responses-0.jsonl").open("a") as file:
        file.write("[]\n")
    with pytest.raises(ValueError, match=f"{tmp_path}/responses-0.jsonl: a line that is JSON, but no record"):
        read_last(tmp_path)


def test_a_folder_of_another_run_is_refused(tmp_path):
    config = GrailConfig(dump_dir=str(tmp_path / "records"), modules=["/a/rule.py"])
    folder = Path(config.dump_dir)
    refuse_others(config, "checkpoints/a")  # not there yet
    folder.mkdir()
    refuse_others(config, "checkpoints/a")
    Writer(folder).write_settings(config, (0.5, 5.0), "checkpoints/a")
    refuse_others(config, "checkpoints/a")
    refuse_others(replace(config, dump_responses=1, log_pictures=9), "checkpoints/a")  # fewer of the same
    option, fewer = f"algorithm.grail.dump_dir='{folder}'", replace(config, modules=[])
    of, made, our = "trainer.default_local_dir=", "records made with algorithm.grail.", "checkpoints/a"
    for says, other, run in (
        (f"records of a run with {of}{our}, and this one has {of}c/b", config, "c/b"),
        (f"{made}std=0.5, and this run has 0.3", replace(config, std=0.3), our),
        (f"{made}modules=['/a/rule.py'], and this run has []", fewer, our),
    ):
        with pytest.raises(ValueError) as error:
            refuse_others(other, run)
        allowed = "a new folder, or one with records of this run, made under the same options"
        assert str(error.value) == f"{option} holds {says}; allowed: {allowed}"
    for settings, says in ((None, "holds responses without settings.json"), ("{", "cannot be told from another run's")):
        (folder / "settings.json").write_text(settings) if settings else (folder / "settings.json").unlink()
        Writer(folder).add_responses([record()])
        with pytest.raises(ValueError, match=f"{option} {says}"):
            refuse_others(config, "checkpoints/a")
    Writer(folder).write_settings(config, (0.5, 5.0))
    with pytest.raises(ValueError, match="holds records made outside of training, and this one has trainer"):
        refuse_others(config, "checkpoints/a")


@pytest.mark.parametrize("run", ["checkpoints/a/", "./checkpoints/a", "checkpoints/b/../a", "{here}/checkpoints/a"])
def test_a_run_is_the_same_however_its_folder_is_spelled(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    config = GrailConfig(dump_dir="records")
    Writer("records").write_settings(config, (0.5, 5.0), "checkpoints/a")
    refuse_others(config, run.format(here=tmp_path))
    with pytest.raises(ValueError, match="and this one has trainer.default_local_dir=None"):
        refuse_others(config, None)  # one that saves nothing


def test_a_run_that_began_before_an_option_was_there_goes_on(tmp_path):
    config = GrailConfig(dump_dir=str(tmp_path))
    Writer(tmp_path).write_settings(config, (0.5, 5.0), "checkpoints/a")
    settings = json.loads((tmp_path / "settings.json").read_text())
    del settings["options"]["hops"]
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    refuse_others(config, "checkpoints/a")
    with pytest.raises(ValueError, match=r"made with algorithm.grail.hops=0, and this run has 2"):
        refuse_others(replace(config, hops=2), "checkpoints/a")


def test_responses_come_in_order_of_step_rank_and_row(tmp_path):
    for rank in (10, 2):
        filled(tmp_path, record(2, row=1), record(2, row=0), record(1), rank=rank)
    order = [(response["step"], response["rank"], response["row"]) for response in read(tmp_path).responses]
    assert order == sorted(order) and len(order) == 6


@pytest.mark.parametrize("settings", [None, "", "{"])
def test_a_folder_without_records_is_named(tmp_path, settings):
    if settings is not None:
        (tmp_path / "settings.json").write_text(settings)
    with pytest.raises(ValueError, match=f"{tmp_path} holds no records"):
        read(tmp_path)


def test_lines_are_plain_json(tmp_path):
    filled(tmp_path, record(tokens=["\ud800"] * 4, score=[math.nan, math.inf, 0.0, 1.23456789]))
    (line,) = (tmp_path / "responses-0.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["score"] == [None, None, 0.0, 1.23457] and json.loads(line)["tokens"] == ["?"] * 4
