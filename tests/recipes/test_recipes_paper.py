"""The recipes of the paper's table: every model and method composes, each setting as published, and each runs: a
tiny policy of the same architecture and kind of tokenizer is trained on a few rows, saved, merged, evaluated, compared.

The published settings are METHOD's (arXiv 2606.04889), written out here once more, in verl's words.
"""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import tokenizers_for_tests
from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import OmegaConf

from grail_verl import __main__ as command
from grail_verl.evaluation import data, settings

ROOT = Path(__file__).parents[2]

MODELS = {
    "qwen3_4b": "Qwen/Qwen3-4B",
    "qwen3_8b": "Qwen/Qwen3-8B",
    "octothinker_3b_short": "OctoThinker/OctoThinker-3B-Short-Base",
    "octothinker_8b_short": "OctoThinker/OctoThinker-8B-Short-Base",
    "r1_distill_llama_8b": "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
}
METHODS = ("grpo", "grail", "oar_g")

PUBLISHED = {
    "algorithm.norm_adv_by_std_in_grpo": False,
    "algorithm.use_kl_in_reward": False,
    "data.max_response_length": 4096,
    "actor_rollout_ref.rollout.n": 8,
    "actor_rollout_ref.rollout.temperature": 1.0,
    "actor_rollout_ref.rollout.top_p": 1.0,
    "actor_rollout_ref.rollout.top_k": 50,
    "actor_rollout_ref.rollout.agent.default_agent_loop": "mask_truncated_agent",
    "actor_rollout_ref.actor.optim.lr": 1e-6,
    "actor_rollout_ref.actor.optim.optimizer": "AdamW",
    "actor_rollout_ref.actor.optim.lr_scheduler_type": "constant",
    "actor_rollout_ref.actor.optim.clip_grad": 1.0,
    "actor_rollout_ref.actor.ppo_epochs": 4,
    "actor_rollout_ref.actor.clip_ratio_low": 0.2,
    "actor_rollout_ref.actor.clip_ratio_high": 0.28,
    "actor_rollout_ref.actor.use_kl_loss": False,
    "actor_rollout_ref.actor.entropy_coeff": 0,
    "actor_rollout_ref.actor.loss_agg_mode": "seq-mean-token-sum-norm",
    "actor_rollout_ref.actor.loss_scale_factor": 4096,
    "actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype": "bf16",
    "actor_rollout_ref.model.enable_gradient_checkpointing": True,
    "reward.custom_reward_function.path": "pkg://grail_verl.reward",
    "reward.custom_reward_function.name": "compute_score",
}
# What is not the paper's but asked of every recipe.
OURS = {
    "actor_rollout_ref.rollout.name": "vllm",
    "actor_rollout_ref.actor.strategy": "fsdp2",
    "trainer.nnodes": 1,
}
# Prompts, rollout batches, warm-up. The published script's: 4 devices × 8 × 8 responses in groups of 8, 200 optimizer
# steps of which a batch takes 4, no warm-up. Ours: the paper's words in verl's steps, on 8 devices.
BUDGETS = {"official": (4 * 8 * 8 // 8, 200 // 4, 0), "ours": (8 * 8 * 8 // 8, 200, 20)}
PROMPTS = {"official": "official_prompt", "corrected": "prompt"}
ALGORITHMS = {
    "grpo": {"adv_estimator": "grpo"},
    "oar_g": {"adv_estimator": "grail", "grail": {"score": "oar_g", "weights": "reshaped", "occurrence": "first"}},
    "grail": {
        "adv_estimator": "grail",
        "grail": {
            "score": "saliency", "weights": "standardised", "std": 0.5, "mean": 1.0, "w_min": 0.5, "w_max": 5.0,
            "leaf": "embeddings", "rollouts": "wrong", "alignment": "predictor", "occurrence": "first",
            "statistics": "response",
        },
    },
}


@functools.cache
def composed(model: str, method: str, *overrides: str) -> dict:
    search = f"hydra.searchpath=[file://{ROOT}/recipes/paper/conf]"
    choices = ["+paper=training", f"+paper/model={model}", f"+paper/method={method}"]
    with initialize_config_module("verl.trainer.config", version_base=None):
        return OmegaConf.to_container(compose("ppo_trainer", [search, *choices, *overrides]), resolve=True)


def at(config: dict, path: str):
    return functools.reduce(lambda section, name: section[name], path.split("."), config)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", MODELS)
def test_every_setting_is_the_published_one(model, method):
    config = composed(model, method)
    assert {path: at(config, path) for path in PUBLISHED | OURS} == PUBLISHED | OURS
    assert at(config, "actor_rollout_ref.model.path") == MODELS[model]
    algorithm = {name: config["algorithm"].get(name) for name in ("adv_estimator", "grail")}
    assert algorithm == {"grail": None, **ALGORITHMS[method]}
    thinking = config["data"]["apply_chat_template_kwargs"].get("enable_thinking")
    assert thinking is (False if model.startswith("qwen3") else None)


@pytest.mark.parametrize(
    ("choice", "budget", "prompt"),
    [
        ((), "official", "corrected"),
        (("budget=ours",), "ours", "corrected"),
        (("prompt=official",), "official", "official"),
        (("budget=official", "prompt=corrected"), "official", "corrected"),
    ],
)
def test_budget_and_prompt_are_the_official_ones_or_ours(choice, budget, prompt):
    config = composed("qwen3_8b", "grail", *choice)
    prompts, batches, warmup = BUDGETS[budget]
    expected = {
        "data.prompt_key": PROMPTS[prompt],
        "data.train_batch_size": prompts,
        "actor_rollout_ref.actor.ppo_mini_batch_size": prompts,  # one optimizer step an iteration
        "actor_rollout_ref.actor.optim.lr_warmup_steps": warmup,
        "trainer.total_training_steps": batches,
    }
    assert {path: at(config, path) for path in expected} == expected
    assert batches % at(config, "trainer.save_freq") == 0  # so the last is kept


def test_an_evaluation_may_have_the_official_prompt_too():
    """By evaluate.sh's overrides."""
    overrides = [f"hydra.searchpath=[file://{ROOT}/recipes/paper/conf]", "+paper/model=qwen3_4b"]
    keys = [settings.compose_config([*overrides, *more]).data.prompt_key for more in ([], ["+prompt=official"])]
    assert keys == ["prompt", "official_prompt"]


def test_our_budget_is_eight_times_the_official_one():
    official, ours = (prompts * batches for prompts, batches, _ in map(BUDGETS.get, ("official", "ours")))
    assert (official, ours) == (1_600, 8 * official)


def differences(one, other, path="") -> set[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        names = one.keys() | other.keys()
        return set().union(*(differences(one.get(n), other.get(n), f"{path}.{n}".strip(".")) for n in names), set())
    return set() if one == other else {path}


def test_methods_differ_in_the_method_alone():
    for model in MODELS:
        grpo, grail, oar_g = (composed(model, method) for method in METHODS)
        assert differences(grpo, grail) == differences(grpo, oar_g) == {"algorithm.adv_estimator", "algorithm.grail"}


def test_models_differ_in_what_their_files_say():
    first = composed("qwen3_4b", "grail")
    said = {
        "actor_rollout_ref.model.path", "actor_rollout_ref.model.custom_chat_template",
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu", "data.apply_chat_template_kwargs.enable_thinking",
    }  # fmt: skip
    follows = {"actor_rollout_ref.ref.log_prob_max_token_len_per_gpu"}
    follows.add("actor_rollout_ref.rollout.prometheus.served_model_name")
    for model in MODELS:
        assert differences(first, composed(model, "grail")) <= said | follows


def run_sh(*arguments: str, script: str = "run.sh", **environment: str) -> subprocess.CompletedProcess:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", f"recipes/paper/{script}", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=900,
        env={**os.environ, "PATH": path, **environment},
    )


def test_the_script_hands_on_model_method_gpus_output_and_overrides():
    chosen = ["budget=ours", "trainer.nnodes=2"]
    done = run_sh("r1_distill_llama_8b", "oar_g", "4", "outputs/somewhere", *chosen, "--cfg", "job")
    assert done.returncode == 0, done.stderr
    config = OmegaConf.to_container(OmegaConf.create(done.stdout), resolve=True)
    expected = composed("r1_distill_llama_8b", "oar_g", *chosen)
    changed = {
        "trainer.n_gpus_per_node": 4,
        "trainer.default_local_dir": "outputs/somewhere/checkpoints",
        "trainer.experiment_name": "somewhere",
    }
    assert {path: at(config, path) for path in changed} == changed
    follows = {"actor_rollout_ref.rollout.n_gpus_per_node", "actor_rollout_ref.rollout.trace.experiment_name"}
    assert differences(config, expected) == changed.keys() | follows


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["qwen3_4b", "grail", "8"], "usage: bash recipes/paper/run.sh MODEL METHOD GPUS OUT"),
        (["qwen3_9b", "grail", "8", "out"], "model 'qwen3_9b' is not known; allowed: octothinker_3b_short"),
        (["qwen3_4b", "ppo", "8", "out"], "method 'ppo' is not known; allowed: grail grpo oar_g"),
    ],
)
def test_a_wrong_argument_is_told_at_once(arguments, says):
    done = run_sh(*arguments)
    assert done.returncode == 2 and says in done.stderr


def test_a_choice_that_there_is_not_is_told_by_hydra():
    with pytest.raises(HydraException, match="Could not find 'prompt/oxed'\n\nAvailable options in 'prompt':"):
        composed("qwen3_4b", "grail", "prompt=oxed")


# Rows as published, a few of each set.
ROWS = {
    "deepmath": [{"question": f"What is {n} + {7 - n}?", "final_answer": str(6 + n % 2), "difficulty": 1.0,
                  "topic": "Arithmetic"} for n in range(8)],
    "math500": [{"problem": f"Evaluate ${n}+3$.", "solution": "", "answer": str(n), "subject": "Algebra", "level": 1,
                 "unique_id": f"test/{n}.json"} for n in (6, 7)],
    "aime24": [{"id": 60, "problem": "Find $m$.", "answer": "007", "url": "", "year": "2024", "solution": ""}],
    "amc23": [{"id": 0, "question": "How many?", "answer": 6.0, "url": ""}],
    "minerva_math": [{"problem": "How far?", "type": "Physics", "solution": r"Thus \boxed{7}", "idx": 0}],
    "college_math": [{"data_source": "college_math", "question_number": "1", "question": "Solve $x=6$.",
                      "answer": "$6$", "license": "", "data_topic": "algebra"}],
    "olympiadbench": [{"id": 1, "question": "Determine $k$.", "final_answer": ["$7$"], "context": None,
                       "modality": "Text-only", "subfield": "Algebra", "is_multiple_answer": False, "unit": None,
                       "answer_type": "Numerical", "error": None}],
}
BENCHMARKS = [name for name in ROWS if name != "deepmath"]
CHATS = {
    "qwen3": "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
             "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
             "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
             "{% endif %}",
    "r1": "{{ bos_token }}{% for message in messages %}<|User|>{{ message['content'] }}{% endfor %}"
          "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}",
    "octothinker": None,  # the recipe's own
}


def policy(folder: Path, model: str) -> None:
    """A tiny model that ends every prompt of the family's form with \\boxed{6} or \\boxed{7}, at even odds."""
    family = model.split("_")[0]
    tokenizer = tokenizers_for_tests.BUILDERS["qwen2" if family == "qwen3" else "llama3"]()
    added = ["<|im_start|>", "<|im_end|>"] if family == "qwen3" else ["<|User|>", "<|Assistant|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": added})
    tokenizer.eos_token = "<|im_end|>" if family == "qwen3" else "<|end|>"
    tokenizer.pad_token = tokenizer.eos_token
    template = CHATS[family] or at(composed(model, "grpo"), "actor_rollout_ref.model.custom_chat_template")
    questions = [row.get("question") or row["problem"] for rows in ROWS.values() for row in rows]
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question + data.SUFFIX}], chat_template=template,
            add_generation_prompt=True, tokenize=False, enable_thinking=False,
        )
        for question in questions
    ]
    texts = [f"{prompt} so \\boxed{{{digit}}}{tokenizer.eos_token}" for prompt in prompts for digit in (6, 7)]
    tiny.teach(folder, tokenizer, texts, architecture="qwen3" if family == "qwen3" else "llama")
    if CHATS[family]:
        tokenizer.chat_template = CHATS[family]
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paper")
    for name, rows in ROWS.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = ["--source", str(folder / f"{name}.jsonl"), "--rows", str(len(rows))]
        command.main(["data", name, "--out", str(folder / "data"), *source])
    return folder


SMALL = [
    "+grail=cpu", "data.max_prompt_length=192", "data.max_response_length=32",
    "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=4096",
    "actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu=4096",
]


def train(model: str, method: str, home: Path, out: Path) -> list[dict]:
    """Metrics of two steps, which run.sh trained the family's tiny policy."""
    start = home / model
    if not start.exists():
        policy(start, model)
    done = run_sh(
        model, method, "1", str(out), *SMALL, f"actor_rollout_ref.model.path={start}",
        f"data.train_files={home}/data/deepmath.parquet", f"data.val_files={home}/data/math500.parquet",
        "data.train_batch_size=4", "actor_rollout_ref.actor.optim.lr=1e-4", "trainer.total_training_steps=2",
        "trainer.save_freq=2", "trainer.test_freq=-1", "trainer.val_before_train=False",
        VERL_FILE_LOGGER_PATH=str(out / "metrics.jsonl"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
    steps = [json.loads(line)["data"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(steps) == 2 and all(0 < step["critic/score/mean"] < 1 for step in steps)
    return steps


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("model", "method"),
    [
        pytest.param(
            model, method, marks=pytest.mark.sweep if (model, method) == ("qwen3_4b", "oar_g") else pytest.mark.recipes
        )
        for model in MODELS for method in METHODS
    ],
)
def test_trains_saves_merges_evaluates_and_compares(model, method, home, tmp_path):
    """By the commands of the README, overrides alone making them small."""
    steps = train(model, method, home, tmp_path)
    assert all(step["actor/grad_norm"] > 0 for step in steps)
    rates = [step.get("actor/grail/reweighted_rate") for step in steps]
    assert rates == [None, None] if method == "grpo" else min(rates) > 0

    evaluation, first = tmp_path / "evaluation", home / f"{model}-evaluation"
    done = run_sh(
        model, str(tmp_path / "checkpoints/global_step_2"), "1", str(evaluation), *SMALL,
        script="evaluate.sh", DATA=str(home / "data"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
    assert set(json.loads((evaluation / "results.json").read_text())["benchmarks"]) == set(BENCHMARKS)
    if not first.exists():  # the model's first method is what the others are compared with
        shutil.copytree(evaluation, first)
    compared = subprocess.run(
        [sys.executable, "-m", "grail_verl", "compare", str(first), str(evaluation)], capture_output=True, text=True
    )
    assert compared.returncode == 0 and "olympiadbench" in compared.stdout, compared.stderr
