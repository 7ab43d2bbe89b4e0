"""Runs of verl's main_ppo with a tiny policy and problems, in a process of their own, and what every one must show."""

import json
import math
import os
import subprocess
import sys

import pandas as pd
import tiny

FSDP2 = ["actor_rollout_ref.actor.strategy=fsdp2", "actor_rollout_ref.actor.use_dynamic_bsz=True"]


def boxing_policy(folder, **sizes) -> None:
    """A model that has learned the form `3 + 4 = d, so \\boxed{d}` d = 6 or 7 at even odds, in seconds."""
    tokenizer = tiny.tokenizer()
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "3 + 4"}], add_generation_prompt=True,
                                           tokenize=False)
    tiny.teach(folder, tokenizer, [f"{prompt}3 + 4 = {digit}, so \\boxed{{{digit}}}<|im_end|>" for digit in (6, 7)],
               **sizes)


def problems(path) -> None:
    """Every other one cannot be solved: its responses are of one mind."""
    rows = [
        {
            "data_source": "sums",
            "prompt": [{"role": "user", "content": "3 + 4"}],
            "reward_model": {"style": "rule", "ground_truth": ground_truth},
            "extra_info": {"index": index},
        }
        for index, ground_truth in enumerate(["7", "none"] * 4)
    ]
    pd.DataFrame(rows).to_parquet(path)


# In place of the CPU preset, where the accelerator is one that verl finds.
ON_A_GPU = [
    "++actor_rollout_ref.model.override_config.attn_implementation=sdpa",
    "actor_rollout_ref.rollout.tensor_model_parallel_size=1", "actor_rollout_ref.rollout.gpu_memory_utilization=0.3",
    "actor_rollout_ref.rollout.enforce_eager=True", "actor_rollout_ref.rollout.agent.num_workers=1",
    "reward.num_workers=1", "trainer.nnodes=1", "trainer.logger=[console,file]",
]


def main_ppo(
    home, log: str, *overrides: str, preset: str = "cpu", timeout: int = 600, on_a_gpu: bool = False
) -> subprocess.CompletedProcess:
    command = [
        sys.executable, "-m", "verl.trainer.main_ppo", *(ON_A_GPU if on_a_gpu else [f"+grail={preset}"]),
        "algorithm.adv_estimator=grail",
        "+algorithm.grail.rollouts=all",
        f"data.train_files={home}/problems.parquet", f"data.val_files={home}/problems.parquet", "data.shuffle=False",
        "data.train_batch_size=2", "data.max_prompt_length=32", "data.max_response_length=24",
        f"actor_rollout_ref.model.path={home}/policy", "actor_rollout_ref.actor.optim.lr=1e-3",
        "actor_rollout_ref.actor.ppo_mini_batch_size=2", "actor_rollout_ref.actor.ppo_epochs=2",
        "actor_rollout_ref.rollout.n=8", "actor_rollout_ref.rollout.calculate_log_probs=True",
        "reward.custom_reward_function.path=pkg://grail_verl.reward",
        "trainer.n_gpus_per_node=2", "trainer.total_training_steps=2",
        "trainer.val_before_train=False", "trainer.test_freq=-1", "trainer.save_freq=-1", "trainer.resume_mode=disable",
        f"trainer.default_local_dir={home}/checkpoints", f"hydra.run.dir={home}/hydra", *overrides,
    ]
    platform = {} if on_a_gpu else {"VERL_PLATFORM": "cpu"}
    environment = {**os.environ, "VERL_FILE_LOGGER_PATH": str(home / log), **platform}
    return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=timeout)


def train(home, log: str, *overrides: str, **options) -> dict[int, dict]:
    """Metrics by step of a run that ended well."""
    done = main_ppo(home, log, *overrides, **options)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
    metrics: dict[int, dict] = {}
    for line in map(json.loads, (home / log).read_text().splitlines()):
        metrics.setdefault(line["step"], {}).update(line["data"])
    return metrics


def check(metrics: dict[int, dict], probs_diff: float = 1e-5) -> None:
    """Of every step but the validation before the first. probs_diff: allowed between the rollout's and the trainer's
    probabilities of the tokens; by the same policy, in other arithmetic."""
    steps = sorted(metrics.keys() - {0})
    assert steps[:2] == [1, 2]
    for step in steps:
        grail = {name.removeprefix("actor/grail/"): value for name, value in metrics[step].items() if "grail" in name}
        assert sorted(grail) == sorted([
            "weight_mean", "weight_std", "weight_min", "weight_max", "clip_frac_min", "clip_frac_max",
            "answer_found_rate", "reweighted_rate", "advantage_scale_ratio", "nonfinite_rows", "saliency_rows",
            "saliency_seconds",
        ])
        assert grail["answer_found_rate"] > 0.5 and grail["nonfinite_rows"] == 0
        assert math.isfinite(metrics[step]["actor/grad_norm"])
        if metrics[step].get("training/off_policy/trajectory_staleness_worst/max", 0) == 0:  # by this step's policy
            assert metrics[step]["training/rollout_probs_diff_max"] < probs_diff
    # Half of the groups are solvable, and eight responses at even odds are hardly ever of one mind.
    assert max(metrics[step]["actor/grail/saliency_rows"] for step in steps) > 0
