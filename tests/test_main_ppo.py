"""The command a user types: verl's main_ppo with `algorithm.adv_estimator=grail`, really training.

Two ranks, FSDP2, a policy that boxes digits; validation, a checkpoint every step; then the same command
with one step more, which must resume. About two minutes a run on two cores, nearly all of it start-up.
"""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import tiny
import torch

pytestmark = pytest.mark.end_to_end

REWARD = """
from verl.utils.reward_score import math_reward

def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return math_reward.compute_score(solution_str, ground_truth)
"""


def boxing_policy(folder) -> None:
    """A model that has learned the form `3 + 4 = d, so \\boxed{d}` d = 6 or 7 at even odds, in seconds."""
    tokenizer = tiny.tokenizer()
    model = tiny.model(seed=1, vocabulary=len(tokenizer))  # as many rows: the rollout draws from these alone
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "3 + 4"}], add_generation_prompt=True,
                                           tokenize=False)
    texts = [f"{prompt}3 + 4 = {digit}, so \\boxed{{{digit}}}<|im_end|>" for digit in (6, 7)]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def problems(path, count: int) -> None:
    rows = [
        {
            "data_source": "sums",
            "prompt": [{"role": "user", "content": "3 + 4"}],
            "reward_model": {"style": "rule", "ground_truth": "7"},
            "extra_info": {"index": index},
        }
        for index in range(count)
    ]
    pd.DataFrame(rows).to_parquet(path)


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    home = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    boxing_policy(home / "policy")
    problems(home / "train.parquet", 8)
    problems(home / "validation.parquet", 4)
    (home / "reward.py").write_text(REWARD)

    def run(steps: int, log: str) -> dict[int, dict]:
        command = [
            sys.executable, "-m", "verl.trainer.main_ppo", "+grail=cpu", "algorithm.adv_estimator=grail",
            "+algorithm.grail.rollouts=all",
            f"data.train_files={home}/train.parquet", f"data.val_files={home}/validation.parquet",
            "data.train_batch_size=2", "data.max_prompt_length=32", "data.max_response_length=24",
            f"actor_rollout_ref.model.path={home}/policy",
            "actor_rollout_ref.actor.strategy=fsdp2", "actor_rollout_ref.actor.optim.lr=1e-3",
            "actor_rollout_ref.actor.ppo_mini_batch_size=2", "actor_rollout_ref.actor.ppo_epochs=2",
            "actor_rollout_ref.actor.use_dynamic_bsz=True",
            "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz=True",
            "actor_rollout_ref.rollout.n=8", "actor_rollout_ref.rollout.calculate_log_probs=True",
            f"reward.custom_reward_function.path={home}/reward.py",
            "trainer.n_gpus_per_node=2", f"trainer.total_training_steps={steps}",
            "trainer.test_freq=1", "trainer.save_freq=1", f"trainer.default_local_dir={home}/checkpoints",
            f"hydra.run.dir={home}/hydra",
        ]
        environment = {**os.environ, "VERL_FILE_LOGGER_PATH": str(home / log), "VERL_PLATFORM": "cpu"}
        done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
        lines = [json.loads(line) for line in (home / log).read_text().splitlines()]
        metrics: dict[int, dict] = {}
        for line in lines:
            metrics.setdefault(line["step"], {}).update(line["data"])
        return metrics

    return run


def test_trains_validates_saves_and_resumes(train):
    metrics = train(2, "first.jsonl")
    assert sorted(metrics) == [0, 1, 2]
    for step in (1, 2):
        grail = {name.removeprefix("actor/grail/"): value for name, value in metrics[step].items() if "grail" in name}
        assert sorted(grail) == sorted([
            "weight_mean", "weight_std", "weight_min", "weight_max", "clip_frac_min", "clip_frac_max",
            "answer_found_rate", "reweighted_rate", "advantage_scale_ratio", "nonfinite_rows", "saliency_rows",
            "saliency_seconds",
        ])
        assert grail["answer_found_rate"] > 0.5 and grail["nonfinite_rows"] == 0
        assert metrics[step]["training/rollout_probs_diff_max"] < 1e-5
        assert metrics[step]["actor/grad_norm"] >= 0
    reweighted = [metrics[step]["actor/grail/saliency_rows"] for step in (1, 2)]
    assert max(reweighted) > 0  # groups of 8 at even odds are hardly ever of one mind
    assert any("val-" in name for name in metrics[0]) and any("val-" in name for name in metrics[2])

    metrics = train(3, "second.jsonl")
    assert sorted(metrics) == [2, 3]  # validated at step 2, where the checkpoint is, then trained one step
    assert "actor/grail/weight_mean" in metrics[3] and "actor/grail/weight_mean" not in metrics[2]
