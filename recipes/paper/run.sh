#!/usr/bin/env bash
# A row of the paper's table (arXiv 2606.04889): trains MODEL with METHOD on GPUS of this node, into OUT.
#
#   for name in deepmath math500 aime24 amc23 minerva_math college_math olympiadbench; do
#       grail-verl data $name --out outputs/paper/data
#   done
#   bash recipes/paper/run.sh qwen3_4b grail 8 outputs/paper/qwen3_4b-grail
#
# Models and methods are the files in conf/paper. Further arguments are Hydra overrides: several nodes, once they
# form a Ray cluster (`ray start --head` on this one, `ray start --address=…` on the others), trainer.nnodes=4;
# `--cfg job` prints the whole configuration and starts nothing. Started again, it goes on from its last checkpoint.
set -euo pipefail
cd "$(dirname "$0")/../.."
conf=recipes/paper/conf

if [ $# -lt 4 ]; then
    echo "usage: bash recipes/paper/run.sh MODEL METHOD GPUS OUT [OVERRIDE ...]" >&2
    exit 2
fi
model=$1 method=$2 gpus=$3 out=$4
shift 4
for choice in "model/$model" "method/$method"; do
    if [ ! -e "$conf/paper/$choice.yaml" ]; then
        allowed=$(basename -s .yaml "$conf/paper/${choice%/*}"/*.yaml | paste -sd ' ')
        echo "${choice%/*} '${choice#*/}' is not known; allowed: $allowed" >&2
        exit 2
    fi
done

exec python -m verl.trainer.main_ppo \
    --config-dir "$conf" \
    +paper=training "+paper/model=$model" "+paper/method=$method" \
    "trainer.n_gpus_per_node=$gpus" \
    "trainer.experiment_name=$(basename "$out")" \
    "trainer.default_local_dir=$out/checkpoints" \
    "hydra.run.dir=$out/hydra" \
    "$@"
