#!/usr/bin/env bash
# GRAIL on a real language model, on a CPU: SmolLM2-135M-Instruct learns to add and subtract.
#
#   bash recipes/smollm2/run.sh
#
# Three steps of 4 problems x 4 answers: enough to see everything work, far too few to see the model improve.
# Interrupted and started again with the same command, it goes on from the last checkpoint. Further arguments
# are Hydra overrides, RUN is the run's folder.
set -euo pipefail
cd "$(dirname "$0")/../.."
RUN=${RUN:-outputs/smollm2/grail}

source recipes/smollm2/policy.sh
python -c "import reasoning_gym" 2>/dev/null || pip install reasoning-gym
source recipes/run_folder.sh "$RUN" "$@"
python -m recipes.smollm2.data outputs/smollm2/data

python -m verl.trainer.main_ppo +grail=cpu \
    algorithm.adv_estimator=grail \
    data.train_files=outputs/smollm2/data/train.parquet \
    data.val_files=outputs/smollm2/data/validation.parquet \
    data.seed=1 \
    data.train_batch_size=4 \
    data.max_prompt_length=160 \
    data.max_response_length=32 \
    reward.custom_reward_function.path=pkg://grail_verl.reward \
    actor_rollout_ref.model.path=outputs/smollm2/policy \
    actor_rollout_ref.actor.optim.lr=1e-5 \
    actor_rollout_ref.actor.ppo_mini_batch_size=4 \
    actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4 \
    actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=4 \
    actor_rollout_ref.rollout.n=4 \
    trainer.total_training_steps=3 \
    trainer.test_freq=3 \
    trainer.save_freq=1 \
    trainer.max_actor_ckpt_to_keep=1 \
    trainer.default_local_dir="$RUN/checkpoints" \
    trainer.logger=file \
    trainer.project_name=smollm2 \
    trainer.experiment_name="$(basename "$RUN")" \
    hydra.run.dir="$RUN/hydra" \
    "$@"

touch "$RUN/finished"
python -m recipes.quickstart.plot "$RUN"
