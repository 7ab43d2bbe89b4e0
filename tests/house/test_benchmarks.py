"""The benchmarks at a size that measures nothing: that they run, with every option, and what they print."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import report_records

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "saliency_cost.py"


SMALL = "--hidden 32 --intermediate 64 --layers 3 --heads 2 --kv-heads 1 --head-dim 16 --vocabulary 320 --rows 4 "
SMALL += "--prompt 8 --response 64 --answer-at 0.8 --tokens-per-gpu 128 --iterations 3 --rounds 1 "


def ratios_of(options: str) -> dict:
    command = [sys.executable, SCRIPT, *(SMALL + options).split()]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def test_saliency_cost_prints_its_ratios_last():
    ratios = ratios_of("--share 0.75 --precision bf16 --strategy fsdp --ranks 2 --packed --keep-activations")
    assert list(ratios) == [
        "update_ratio_1",
        "update_ratio_3",
        "cost_vs_published_3",
        "peak_memory_ratio",
        "vs_floor",
        "no_answer_ms",
    ]
    added = ratios["update_ratio_1"] - 1
    assert added > 0 and abs(added - 3 * (ratios["update_ratio_3"] - 1)) < 5e-3  # one hook for all iterations
    assert ratios["cost_vs_published_3"] > 0 and ratios["vs_floor"] > 0 and ratios["no_answer_ms"] > 0


@pytest.mark.sweep
def test_a_score_that_verl_has_computed_needs_no_floor():
    ratios = ratios_of("--score entropy --entropy-known")
    assert "vs_floor" not in ratios and ratios["update_ratio_1"] > 1


@pytest.mark.fast
def test_shared_pass_simulates_with_lengths_of_its_own_and_of_a_runs_records(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import shared_pass

    report_records.write_run(tmp_path, steps=[1])
    for name, value in (("RANKS", (4,)), ("ROWS", (8,)), ("WRONG", (0.0, 0.5))):
        monkeypatch.setattr(shared_pass, name, value)
    for records in ([], ["--records", str(tmp_path)]):
        monkeypatch.setattr(sys, "argv", ["shared_pass.py", "--tokens-per-gpu", "4000", "--draws", "3", *records])
        shared_pass.simulate(shared_pass.arguments())
        header, *lines = capsys.readouterr().out.splitlines()
        (line,) = lines  # without a wrong response there is no pass
        before, after = re.search(r"([\d.]+) -> +([\d.]+) +[\d.]+ +\d+%$", line).groups()
        assert 1 <= float(after) < float(before)
