#!/usr/bin/env bash
# Where a user with GPUs starts: Qwen3 on DeepMath-103K, vLLM rollout, one node.
#
#   pip install "grail-verl[vllm]"
#   python -m recipes.deepmath.data outputs/deepmath/data
#   bash recipes/deepmath/run.sh
#
# Further arguments are Hydra overrides: another model (actor_rollout_ref.model.path=Qwen/Qwen3-8B), fewer
# GPUs (trainer.n_gpus_per_node=4), the baseline (algorithm.adv_estimator=grpo), the published method in every
# setting (+grail=paper); `--cfg job` prints the whole configuration and starts nothing.
set -euo pipefail
cd "$(dirname "$0")/../.."

python -m verl.trainer.main_ppo \
    algorithm.adv_estimator=grail \
    data.train_files=outputs/deepmath/data/train.parquet \
    data.val_files=outputs/deepmath/data/validation.parquet \
    data.train_batch_size=128 \
    data.max_prompt_length=1024 \
    data.max_response_length=4096 \
    data.filter_overlong_prompts=true \
    +data.apply_chat_template_kwargs.enable_thinking=false \
    reward.custom_reward_function.path=recipes/reward.py \
    actor_rollout_ref.model.path=Qwen/Qwen3-4B \
    actor_rollout_ref.model.use_remove_padding=true \
    actor_rollout_ref.model.enable_gradient_checkpointing=true \
    actor_rollout_ref.actor.strategy=fsdp2 \
    actor_rollout_ref.actor.optim.lr=1e-6 \
    actor_rollout_ref.actor.optim.lr_warmup_steps=20 \
    actor_rollout_ref.actor.ppo_mini_batch_size=128 \
    actor_rollout_ref.actor.use_dynamic_bsz=true \
    actor_rollout_ref.actor.ppo_max_token_len_per_gpu=16384 \
    actor_rollout_ref.rollout.name=vllm \
    actor_rollout_ref.rollout.n=8 \
    actor_rollout_ref.rollout.tensor_model_parallel_size=1 \
    actor_rollout_ref.rollout.gpu_memory_utilization=0.6 \
    actor_rollout_ref.rollout.log_prob_use_dynamic_bsz=true \
    trainer.n_gpus_per_node=8 \
    trainer.total_training_steps=200 \
    trainer.test_freq=20 \
    trainer.save_freq=50 \
    trainer.default_local_dir=outputs/deepmath/checkpoints \
    trainer.project_name=deepmath \
    trainer.experiment_name=grail \
    "$@"
