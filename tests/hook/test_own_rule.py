"""A third weighting takes one file: a copy of the package with one more, in verl's actor worker."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import tiny

ROOT = Path(__file__).parents[2]

GRADIENT_NORM = '''
"""The plain norm of the gradient at the embeddings, scaled to a mean of 1."""

import torch

from grail_verl.saliency import leaf_gradient
from grail_verl.weightings import Weighting


class Scheme(Weighting):
    options = frozenset({"rollouts"})

    def selected(self, advantages_B):
        return advantages_B > 0

    def position_scores(self, model, inputs, positions, recompute, loss_scale):
        def loss(output):
            return torch.nn.functional.cross_entropy(output.logits.float(), positions.labels_N, reduction="sum")

        _, gradient_BSD = leaf_gradient(
            model, inputs, positions.keep_BS, loss, recompute=recompute, loss_scale=loss_scale
        )
        return gradient_BSD.norm(dim=-1)

    def token_weights(self, scores_BT, response_mask_BT, answer_BT, content_BT, advantages_B):
        total_B1 = (scores_BT * response_mask_BT).sum(dim=-1, keepdim=True)
        scaled_BT = scores_BT * response_mask_BT.sum(dim=-1, keepdim=True) / total_B1
        return torch.where(total_B1 > 0, scaled_BT, 1.0) * response_mask_BT
'''

SCRIPT = """
import sys
import grail_verl, harness, ranks
from grail_verl import GrailConfig
from harness import Case

assert grail_verl.__file__.startswith(sys.argv[1]), grail_verl.__file__
try:
    GrailConfig(weighting="other")
except ValueError as error:
    print(error)

def reweigh(rank, folder):
    worker = Case("tied", "fsdp2", {"weighting": "gradient_norm"}).actor({"tied": folder}, "grail")
    data = harness.rollout(1)
    worker.reweight_advantages(data)
    rows = zip(data["advantages"].unbind(), harness.rollout(1)["advantages"].unbind())
    return [(got.tolist(), before.tolist()) for got, before in rows]

if __name__ == "__main__":
    (rows,) = ranks.on_ranks(reweigh, 1, sys.argv[2])
    assert all(abs(sum(got) - sum(before)) < 1e-5 for got, before in rows)
    print("changed:", [int(got != before) for got, before in rows])
"""


def test_one_more_file_is_one_more_weighting(tmp_path):
    shutil.copytree(ROOT / "grail_verl", tmp_path / "grail_verl")
    (tmp_path / "grail_verl" / "weightings" / "gradient_norm.py").write_text(GRADIENT_NORM)
    (tmp_path / "script.py").write_text(SCRIPT)
    tiny.save_policy(tmp_path / "policy")
    done = subprocess.run(
        [sys.executable, "script.py", str(tmp_path), str(tmp_path / "policy")],
        cwd=tmp_path, capture_output=True, text=True, timeout=600,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "tests")])},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "algorithm.grail.weighting='other' is not allowed; allowed: gradient_norm | grail | oar_g" in done.stdout
    assert "changed: [1, 1, 1, 0, 0, 1, 0, 0]" in done.stdout  # those with an answer and an advantage above 0
