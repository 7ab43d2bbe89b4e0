"""The ground truths of a run's files, checked before Ray starts: what is refused, what is told, what is left alone."""

import json

import pandas as pd
import pytest
from composed import composed

pytest.importorskip("math_verify")

from grail_verl.hook.reward import prepare_reward
from grail_verl.reward import truths

PROSE = "The set of all points from which both circles are seen under the same angle, that is, a circle or a line."


def write(path, ground_truths):
    rows = [
        {"data_source": "some/data", "prompt": [{"content": "?"}], "reward_model": {"ground_truth": truth}}
        for truth in ground_truths
    ]
    if path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.mark.parametrize("name", ["a.parquet", "a.json", "a.jsonl"])
def test_a_missing_truth_is_told_with_its_row(tmp_path, name):
    file = write(tmp_path / name, ["7", r"\frac12", "", "5", None])
    with pytest.raises(ValueError, match="2 of 5 rows of .* have no ground truth") as told:
        truths.check([file, file])
    assert f"{file} row 2: a ground_truth of data source 'some/data' is empty: ''" in str(told.value)
    assert f"{file} row 4" in str(told.value)


def test_only_the_first_rows_are_shown(tmp_path):
    with pytest.raises(ValueError, match="50 of 50") as told:
        truths.check([write(tmp_path / "a.jsonl", [""] * 50)])
    assert str(told.value).count("a.jsonl row ") == truths.SHOWN


def test_a_truth_of_another_type_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is of type list"):
        truths.check([write(tmp_path / "a.jsonl", [["5"]])])


def test_a_file_without_the_column_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "?"}')
    with pytest.raises(ValueError, match="1 of 1 rows"):
        truths.check([str(tmp_path / "a.jsonl")])


def test_prose_is_counted_and_shown(tmp_path, capsys):
    file = write(tmp_path / "a.jsonl", ["7", "7", r"\frac{1}{2}", r"[0,1)", r"\text{even}", 3.5, PROSE, r"x^{2"])
    truths.check([file])
    told = capsys.readouterr().out
    assert "8 ground truths are there, 7 distinct ones of 7 forms" in told
    assert "read 7 of 7 forms" in told and "nothing is read from 2" in told
    assert f"{file} row 6: {PROSE[:100]!r}" in told and f"{file} row 7: 'x^{{2'" in told


def test_truths_that_differ_in_digits_are_read_once(tmp_path, capsys):
    """A file of ordinary truths: thousands of distinct ones would take a minute on two cores."""
    rows = [rf"{n}\sqrt{{{n + 1}}}" for n in range(100, 900)] + [f"{PROSE} {n}" for n in range(10, 20)]
    truths.check([write(tmp_path / "a.jsonl", rows)])
    told = capsys.readouterr().out
    assert "810 distinct ones of 2 forms" in told and "read 2 of 2 forms" in told
    assert "nothing is read from 10 distinct truths" in told and "a.jsonl row 800" in told


def test_time_for_reading_is_limited(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(truths, "SECONDS", 0.0)
    truths.check([write(tmp_path / "a.jsonl", ["7", "x+1", "y+2"])])
    assert "read 1 of 3 forms" in capsys.readouterr().out  # the one that is seen to be a number


def test_what_is_no_local_file_is_told(capsys):
    truths.check(["hdfs://host/train.parquet"])
    assert "hdfs://host/train.parquet is no local file" in capsys.readouterr().out


def config(file, *overrides):
    return composed(f"data.train_files={file}", f"data.val_files=[{file}]", *overrides)


OURS = "reward.custom_reward_function.path=pkg://grail_verl.reward"


@pytest.mark.parametrize("estimator", ["grpo", "grail"])
def test_a_run_is_checked_whatever_its_estimator(tmp_path, estimator):
    file = write(tmp_path / "a.parquet", ["7", ""])
    with pytest.raises(ValueError, match="1 of 2 rows"):
        prepare_reward(config(file, OURS, f"algorithm.adv_estimator={estimator}"))


def test_verls_validate_config_does_it(tmp_path):
    from verl.utils.config import validate_config

    file = write(tmp_path / "a.parquet", ["7", ""])
    with pytest.raises(ValueError, match="1 of 2 rows"):
        validate_config(config=config(file, OURS), use_reference_policy=False, use_critic=False)


def test_the_manager_is_ours_afterwards(tmp_path):
    from verl.trainer.ppo.reward import resolve_reward_manager_cls

    from grail_verl.reward.manager import PolicyRewardManager

    checked = config(write(tmp_path / "a.parquet", ["7"]), OURS)
    prepare_reward(checked)
    assert resolve_reward_manager_cls(checked) is PolicyRewardManager
    (tmp_path / "a.parquet").unlink()
    prepare_reward(checked)  # as verl's V0 calls validate_config again, in a worker


@pytest.mark.parametrize("override", ["reward.reward_manager.name=dapo", "data.custom_cls.path=pkg://some.module"])
def test_what_the_user_chose_stays(tmp_path, override):
    chosen = config(write(tmp_path / "a.parquet", ["7"]), OURS, override)
    prepare_reward(chosen)
    manager = "dapo" if "dapo" in override else "PolicyRewardManager"
    assert chosen.reward.reward_manager.name == manager


def test_another_reward_is_left_alone(tmp_path):
    other = config(write(tmp_path / "a.parquet", [""]))
    before = other.copy()
    prepare_reward(other)
    assert other == before
