"""Runs side by side: values and differences by hand, the bootstrap against every possible draw."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_verl.__main__ import main
from grail_verl.evaluation import compare, results
from grail_verl.evaluation.bootstrap import intervals

pytestmark = pytest.mark.fast


def save(folder, accs: dict, *, truth="7", **sampling) -> str:
    """An evaluation with these samples' acc for each (benchmark, index)."""
    folder.mkdir()
    samples = [
        {
            "benchmark": benchmark, "index": index, "sample": number, "ground_truth": truth, "output": "…", "acc": acc,
            "answer_found": True, "grading_failed": False, "response_tokens": 3, "truncated": False,
        }
        for (benchmark, index), values in accs.items()
        for number, acc in enumerate(values)
    ]  # fmt: skip
    frame = pd.DataFrame(samples)
    results.write_responses(folder, frame)
    count = len(next(iter(accs.values())))
    results.write_results(folder, results.summarise(frame), {"sampling": {"samples": count, "top_k": 20, **sampling}})
    return str(folder)


BASE = {("math500", 0): [1, 0, 0], ("math500", 1): [0, 0, 0], ("aime24", 0): [0, 1, 1]}
BETTER = {("aime24", 0): [1, 1, 1], ("math500", 1): [0, 1, 0], ("math500", 0): [1, 0, 0]}


def test_values_and_differences_by_hand(tmp_path):
    base, better = save(tmp_path / "base", BASE), save(tmp_path / "better", BETTER)
    runs, notes = compare.read([tmp_path / "base", tmp_path / "better"])
    assert notes == []
    comparison = compare.compare(runs).set_index(["measure", "benchmark", "run"]).sort_index()
    for (measure, benchmark), (first, second) in {
        ("accuracy", "math500"): (1 / 6, 1 / 3),
        ("accuracy", "aime24"): (2 / 3, 1),
        ("accuracy", "average"): (5 / 12, 2 / 3),
        ("accuracy", "weighted"): (1 / 3, 5 / 9),
        ("pass@3", "math500"): (1 / 2, 1),
        ("pass@3", "aime24"): (1, 1),
        ("pass@3", "average"): (3 / 4, 1),
        ("pass@3", "weighted"): (2 / 3, 1),
    }.items():
        ours, theirs = (comparison.loc[measure, benchmark, run] for run in (base, better))
        assert (ours.value, theirs.value) == pytest.approx((first, second))
        assert theirs.difference == pytest.approx(second - first)
        assert (ours.difference, ours.low, ours.high) == (0, 0, 0)
    # Of two problems with differences 0 and 1/3 each is drawn twice a quarter of the time.
    assert tuple(comparison.loc["accuracy", "math500", better][["low", "high"]]) == pytest.approx((0, 1 / 3))
    assert tuple(comparison.loc["accuracy", "aime24", better][["low", "high"]]) == pytest.approx((1 / 3, 1 / 3))
    assert set(comparison.loc["accuracy", "average"]["problems"]) == {3}


def every_draw(values: list[float]) -> np.ndarray:
    """The mean of every draw of as many with replacement, all equally likely."""
    return np.array([np.mean(drawn) for drawn in itertools.product(values, repeat=len(values))])


@pytest.mark.parametrize("values", [[[-2.0, 0.5, 1.0, 5.0], [0.1, 0.7, -1.3]], [[0.0, 1.0, 1.0, 1.0], [1 / 3, 0, -1]]])
def test_the_ends_are_those_of_all_draws(values):
    first, second = map(every_draw, values)
    both = np.add.outer(first, second).ravel() / 2
    weighted = np.add.outer(4 * first, 3 * second).ravel() / 7
    found = intervals([np.array(column)[:, None] for column in values], resamples=40_000)
    assert found.shape == (4, 2, 1)
    for (low, high), exact in zip(found[..., 0], (first, second, both, weighted), strict=True):
        for end, share in ((low, 0.025), (high, 0.975)):
            # Between the exact quantiles just below and just above: 40,000 draws meet a share to 0.001.
            at_least, at_most = np.quantile(exact, [share - 0.003, share + 0.003], method="inverted_cdf")
            assert at_least - 1e-9 <= end <= at_most + 1e-9


def test_many_problems_give_the_standard_errors_interval():
    values = np.random.default_rng(3).normal(0.2, 1.0, size=(400, 1))
    low, high = intervals([values])[0, :, 0]
    error = values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.08 * error)


def test_runs_share_their_draws():
    values = np.random.default_rng(0).normal(size=(50, 1))
    found = intervals([np.concatenate([values, 2 * values, values + 1], axis=1)])[0]
    np.testing.assert_allclose(found[:, 1], 2 * found[:, 0])
    np.testing.assert_allclose(found[:, 2], found[:, 0] + 1)


runs_of_two = st.lists(st.tuples(*[st.lists(st.sampled_from([0.0, 1.0]), min_size=3, max_size=3)] * 2), min_size=2,
                       max_size=8)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(runs_of_two, st.integers(1, 7))
def test_swapped_runs_flip_signs_and_a_run_equals_itself(accs, first_benchmark):
    index = pd.MultiIndex.from_tuples(
        [("math500" if number < first_benchmark else "aime24", number, "7") for number in range(len(accs))],
        names=compare.PROBLEM,
    )
    a, b = (
        pd.DataFrame({"accuracy": [np.mean(p[run]) for p in accs], "pass@3": [max(p[run]) for p in accs]}, index=index)
        for run in (0, 1)
    )
    forward = compare.compare({"a": a, "b": b}).query("run == 'b'").reset_index(drop=True)
    backward = compare.compare({"b": b, "a": a}).query("run == 'a'").reset_index(drop=True)
    np.testing.assert_allclose(forward["difference"], -backward["difference"], atol=1e-12)
    np.testing.assert_allclose(forward["low"], -backward["high"], atol=1e-12)
    same = compare.compare({"a": a, "again": a.copy()})
    assert (same[["difference", "low", "high"]] == 0).all(axis=None)
    assert (forward["low"] <= forward["difference"] + 1e-12).all()


@pytest.mark.parametrize(
    ("other", "truth", "says"),
    [
        ({("math500", 0): [1, 0, 0], ("math500", 1): [0, 0, 0]}, "7", "base has all 1 of aime24 that other has not"),
        ({**BASE, ("amc23", 5): [1, 1, 1]}, "7", "other has all 1 of amc23 that base has not, first amc23 index 5"),
        ({key: acc for key, acc in BASE.items() if key != ("math500", 1)}, "7", "base has 1 of math500 that other"),
        (BASE, "8", "base has 2 of math500, 1 of aime24 that other has not, first math500 index 0 with the answer 7"),
        ({key: acc[:2] for key, acc in BASE.items()}, "7", "base has pass@3, other pass@2"),
    ],
)
def test_runs_of_other_problems_are_refused(other, truth, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "base", BASE)
    save(tmp_path / "other", other, truth=truth)
    with pytest.raises(SystemExit) as end:
        main(["compare", "base", "other"])
    assert says in str(end.value)


def test_folders_that_are_no_runs_are_refused(tmp_path):
    base = save(tmp_path / "base", BASE)
    with pytest.raises(SystemExit, match="named twice"):
        main(["compare", base, base])
    (tmp_path / "base" / "results.json").unlink()
    with pytest.raises(SystemExit, match="holds no finished evaluation"):
        main(["compare", base, str(tmp_path / "nowhere")])


def without_last(lines: list[str]) -> list[str]:
    return lines[:-1]


def edited(**values):
    """The last sample with other values."""
    return lambda lines: [*lines[:-1], json.dumps({**json.loads(lines[-1]), **values})]


@pytest.mark.parametrize(
    ("file", "damage", "says"),
    [
        ("responses.jsonl", without_last, "responses.jsonl has samples [0, 1] of aime24 index 0, not 3, each once"),
        ("responses.jsonl", lambda lines: lines[:-3], "results.json has 1 problems for aime24, responses.jsonl 0"),
        ("responses.jsonl", lambda lines: lines + lines, "samples [0, 0, 1, 1, 2, 2] of math500 index 0, not 3, each"),
        ("responses.jsonl", lambda lines: [*lines, lines[0]], "samples [0, 0, 1, 2] of math500 index 0, not 3"),
        ("responses.jsonl", edited(acc=float("nan")), "responses.jsonl, line 9 is no sample of math500, aime24"),
        ("responses.jsonl", edited(acc=None), "responses.jsonl, line 9 is no sample of math500, aime24"),
        ("responses.jsonl", edited(acc=10**400), "responses.jsonl, line 9 is no sample of math500, aime24"),
        ("responses.jsonl", edited(acc=0.5), "accuracy for aime24"),
        ("responses.jsonl", edited(benchmark="amc23"), "line 9 is no sample"),
        ("responses.jsonl", edited(ground_truth="8"), "samples [0, 1] of aime24 index 0, not 3, each once"),
        ("responses.jsonl", lambda lines: [*lines, "[1]"], "responses.jsonl, line 10 is no sample"),
        ("responses.jsonl", lambda lines: [], "results.json has 2 problems for math500, responses.jsonl 0"),
        ("responses.jsonl", lambda lines: [*lines[:-1], lines[-1][:20]], "jsonl, line 9: Unterminated string"),
        ("results.json", lambda lines: [], "results.json: Expecting value"),
        ("results.json", lambda lines: lines[:-1], "Expecting"),
        ("results.json", lambda lines: ["[]"], "results.json is another kind of JSON"),
        ("results.json", lambda lines: ['{"sampling": {"samples": "3"}, "benchmarks": {}}'], "another kind of JSON"),
    ],
)
def test_an_evaluation_that_is_not_as_it_was_written_is_refused(file, damage, says, tmp_path):
    base, other = save(tmp_path / "base", BASE), save(tmp_path / "other", BETTER)
    save(tmp_path / "other2", BASE)
    path = tmp_path / "other2" / file
    path.write_text("\n".join(damage(path.read_text().splitlines())))
    with pytest.raises(SystemExit) as end:
        main(["compare", base, other, str(tmp_path / "other2")])
    said = str(end.value)
    assert said.startswith(f"grail-verl compare: {tmp_path}/other2 is not as an evaluation left it") and says in said


def test_a_comparison_that_cannot_be_written_ends_the_command(tmp_path):
    base, better = save(tmp_path / "base", BASE), save(tmp_path / "better", BETTER)
    (tmp_path / "out").write_text("a file")
    with pytest.raises(SystemExit, match="^grail-verl compare: .*File exists"):
        main(["compare", base, better, "--out", str(tmp_path / "out")])


def test_a_setting_that_only_one_run_has_is_a_note(tmp_path, capsys):
    main(["compare", save(tmp_path / "base", BASE), save(tmp_path / "other", BETTER, seed=3)])
    assert "seed is None in" in capsys.readouterr().out


def test_names_out_of_a_data_set_are_shown_as_they_are_and_control_no_terminal(tmp_path, capsys):
    name = "\x1b]0;title\x07[red]sums"
    base = save(tmp_path / "base", {(name, 0): [1, 0]})
    main(["compare", base, save(tmp_path / "other", {(name, 0): [1, 1]}, top_p="\x1b[2J")])
    said = capsys.readouterr().out
    assert r"\x1b]0;title\x07[red]sums" in said and r"top_p is None in" in said and r"\x1b[2J" in said
    assert not set(said) & set("\x1b\x07")


def test_the_command_prints_and_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "base", BASE)
    save(tmp_path / "better", BETTER, top_k=50)
    main(["compare", "base", "--out", "comparison", "better"])
    printed = capsys.readouterr().out
    assert "A: base\nB: better\n" in printed and "B - A [95%]" in printed
    assert "aime24" in printed and "+33.3 [+33.3, +33.3]" in printed and "66.7" in printed
    assert "top_k is 20 in base, 50 in better" in printed
    written = json.loads((tmp_path / "comparison" / "compare.json").read_text())
    assert written["resamples"] == 10_000 and written["notes"] == ["top_k is 20 in base, 50 in better"]
    rows = pd.read_csv(tmp_path / "comparison" / "compare.csv")
    pd.testing.assert_frame_equal(rows, pd.DataFrame(written["rows"]))
    assert len(rows) == 2 * 4 * 2
