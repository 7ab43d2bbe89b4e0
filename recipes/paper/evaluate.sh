#!/usr/bin/env bash
# The paper's benchmarks on a checkpoint of run.sh, or on the model it started from (its hub name or folder):
#
#   bash recipes/paper/evaluate.sh qwen3_4b Qwen/Qwen3-4B 8 outputs/paper/qwen3_4b/evaluation
#   bash recipes/paper/evaluate.sh qwen3_4b outputs/paper/qwen3_4b-grail/checkpoints/global_step_50 8 \
#       outputs/paper/qwen3_4b-grail/evaluation
#   grail-verl compare outputs/paper/qwen3_4b/evaluation outputs/paper/qwen3_4b-grail/evaluation
#
# MODEL names the file in conf/paper/model whose chat template and settings hold. Further arguments are those of
# `grail-verl evaluate`: Hydra overrides, or --server URL.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ $# -lt 4 ]; then
    echo "usage: bash recipes/paper/evaluate.sh MODEL CHECKPOINT GPUS OUT [ARGUMENT ...]" >&2
    exit 2
fi
model=$1 checkpoint=$2 gpus=$3 out=$4
shift 4

exec python -m grail_verl evaluate "$checkpoint" --data "${DATA:-outputs/paper/data}" --out "$out" \
    "hydra.searchpath=[file://$PWD/recipes/paper/conf]" "+paper/model=$model" \
    "trainer.n_gpus_per_node=$gpus" "$@"
