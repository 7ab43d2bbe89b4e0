"""docs/any_experiment.md: its blocks compose with the plugin's presets, and its snippet makes data that verl reads."""

import os
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
from composed import composed
from verl.utils.import_utils import load_extern_object

from grail_verl.hook.launch import prepare

PAGE = (Path(__file__).parents[2] / "docs" / "any_experiment.md").read_text()


def overrides(heading: str) -> list[str]:
    """What the block below a heading hands to main_ppo."""
    block = re.search(rf"## {heading}\n.*?```bash\n(.*?)```", PAGE, re.S)[1]
    return [word for word in shlex.split(block.replace("\\\n", " ")) if re.match(r"\+?[a-z_.]+=", word)]


# What verl's script for GSM8K sets where the plugin might touch it (examples/grpo_trainer/run_qwen3_4b_fsdp.sh).
GSM8K = [
    "algorithm.adv_estimator=grpo", "algorithm.use_kl_in_reward=False", "data.train_batch_size=512",
    "actor_rollout_ref.model.path=Qwen/Qwen3-4B", "actor_rollout_ref.model.use_remove_padding=True",
    "actor_rollout_ref.actor.ppo_mini_batch_size=256", "actor_rollout_ref.actor.use_kl_loss=True",
    "actor_rollout_ref.actor.kl_loss_coef=0.001", "actor_rollout_ref.actor.kl_loss_type=low_var_kl",
    "actor_rollout_ref.actor.entropy_coeff=0", "actor_rollout_ref.actor.use_dynamic_bsz=True",
    "actor_rollout_ref.rollout.name=vllm", "actor_rollout_ref.rollout.n=5",
]  # fmt: skip
EXPERIMENTS = {"GRPO on GSM8K": GSM8K, "DAPO": []}


@pytest.mark.parametrize("preset", [None, "paper", "oar_g", "[paper_loss,oar_g]", "[paper,cpu]"])
@pytest.mark.parametrize("heading", EXPERIMENTS)
def test_the_blocks_compose_with_every_preset(heading, preset):
    theirs, ours = EXPERIMENTS[heading], overrides(heading)
    assert ours[:2] == ["algorithm.adv_estimator=grail", "reward.custom_reward_function.path=pkg://grail_verl.reward"]
    config = composed(*([f"+grail={preset}"] if preset else []), *theirs, *ours)
    prepare(config)
    assert config.algorithm.grail.score == ("oar_g" if preset and "oar_g" in preset else "saliency")
    for override in [*theirs, *ours]:  # what the experiment sets stays set, whatever the preset
        name, value = override.lstrip("+").split("=")
        if name != "algorithm.adv_estimator":
            found = config
            for part in name.split("."):
                found = found[part]
            assert str(found).lower() == value.lower(), name
    reward = config.reward.custom_reward_function
    assert callable(load_extern_object(reward.path, reward.name))


def test_the_snippet_rewrites_verls_gsm8k(tmp_path):
    row = {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "user", "content": 'How many? Let\'s think step by step and answer after "####".'}],
        "reward_model": {"style": "rule", "ground_truth": "72"},
        "extra_info": {"split": "train", "index": 0, "question": "How many?", "answer": "#### 72"},
    }
    (tmp_path / "gsm8k").mkdir()
    for split in ("train", "test"):
        pd.DataFrame([row]).to_parquet(tmp_path / "gsm8k" / f"{split}.parquet")
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        exec(re.search(r"```python\n(.*?)```", PAGE, re.S)[1], {})
    finally:
        os.chdir(before)
    made = pd.read_parquet(tmp_path / "gsm8k_boxed" / "test.parquet").iloc[0]
    assert made["prompt"][0] == {
        "role": "user",
        "content": r"How many? Please reason step by step, and put your final answer within \boxed{}.",
    }
    assert made["reward_model"]["ground_truth"] == "72"
