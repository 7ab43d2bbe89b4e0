"""benchmarks/saliency_cost.py at a size that measures nothing: that it runs, with every option, and what it prints."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "saliency_cost.py"


def test_saliency_cost_prints_its_ratios_last():
    options = "--hidden 32 --intermediate 64 --layers 3 --heads 2 --kv-heads 1 --head-dim 16 --vocabulary 320 --rows 4 "
    options += "--prompt 8 --response 64 --share 0.75 --answer-at 0.8 --tokens-per-gpu 128 --iterations 3 --rounds 1 "
    options += "--precision bf16 --strategy fsdp --ranks 2 --packed --keep-activations"
    output = subprocess.run(
        [sys.executable, SCRIPT, *options.split()], check=True, capture_output=True, text=True
    ).stdout
    ratios = json.loads(output.splitlines()[-1])
    assert list(ratios) == [
        "update_ratio_1", "update_ratio_3", "cost_vs_published_3", "peak_memory_ratio", "vs_floor", "no_pass_ms"
    ]
    added = ratios["update_ratio_1"] - 1
    assert added > 0 and abs(added - 3 * (ratios["update_ratio_3"] - 1)) < 5e-3  # one hook for all iterations
    assert ratios["cost_vs_published_3"] > 0 and ratios["vs_floor"] > 0 and ratios["no_pass_ms"] > 0
