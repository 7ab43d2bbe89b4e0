"""benchmarks/saliency_cost.py at a size that measures nothing: that it runs, with every option, and what it prints."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "saliency_cost.py"


SMALL = "--hidden 32 --intermediate 64 --layers 3 --heads 2 --kv-heads 1 --head-dim 16 --vocabulary 320 --rows 4 "
SMALL += "--prompt 8 --response 64 --answer-at 0.8 --tokens-per-gpu 128 --iterations 3 --rounds 1 "


def ratios_of(options: str) -> dict:
    command = [sys.executable, SCRIPT, *(SMALL + options).split()]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def test_saliency_cost_prints_its_ratios_last():
    ratios = ratios_of("--share 0.75 --precision bf16 --strategy fsdp --ranks 2 --packed --keep-activations")
    assert list(ratios) == [
        "update_ratio_1", "update_ratio_3", "cost_vs_published_3", "peak_memory_ratio", "vs_floor", "no_answer_ms"
    ]
    added = ratios["update_ratio_1"] - 1
    assert added > 0 and abs(added - 3 * (ratios["update_ratio_3"] - 1)) < 5e-3  # one hook for all iterations
    assert ratios["cost_vs_published_3"] > 0 and ratios["vs_floor"] > 0 and ratios["no_answer_ms"] > 0


@pytest.mark.sweep
def test_a_score_that_verl_has_computed_needs_no_floor():
    ratios = ratios_of("--score entropy --entropy-known")
    assert "vs_floor" not in ratios and ratios["update_ratio_1"] > 1
