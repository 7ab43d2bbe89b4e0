"""verl's main_ppo with the rollout `vllm` on a CPU: GRAIL training on what vLLM generates.

A lane of its own, see test_vllm_server.py.
"""

from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import pytest
from runs import FSDP2, boxing_policy, check, problems, train

pytestmark = [pytest.mark.vllm, pytest.mark.skipif(find_spec("vllm") is None, reason="needs the extra cpu-vllm")]

STEPS = 5
# Policies that part from the first update on, so that weights of the other run would be noticed at the next step.
RUNS = {
    "two workers": [*FSDP2, "trainer.n_gpus_per_node=2", "actor_rollout_ref.actor.optim.lr=5e-4"],
    "one worker": [
        "actor_rollout_ref.actor.strategy=fsdp", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=4", "trainer.n_gpus_per_node=1",
        "actor_rollout_ref.actor.optim.lr=2e-4",
    ],
}


def test_two_runs_at_once_each_generate_with_their_own_weights(tmp_path):
    """That their updates meet is rare; for what keeps them apart then see test_vllm_server.py."""
    boxing_policy(tmp_path / "policy", head_dim=32)
    problems(tmp_path / "problems.parquet")

    def run(name):
        return train(
            tmp_path, f"{name}.jsonl", "actor_rollout_ref.rollout.name=vllm", *RUNS[name],
            f"trainer.total_training_steps={STEPS}", f"hydra.run.dir={tmp_path / name}", timeout=1200,
        )

    with ThreadPoolExecutor() as pool:
        for metrics in pool.map(run, RUNS):
            check(metrics)
            assert sorted(metrics) == list(range(1, STEPS + 1))
            assert all(metrics[step]["training/rollout_probs_diff_max"] < 1e-5 for step in metrics)
