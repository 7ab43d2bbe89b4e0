#!/usr/bin/env bash
# The tests, in an environment of their own if need be; arguments go to pytest:
#
#   bash tests/run.sh -m fast                               the first to run, under two minutes
#   bash tests/run.sh                                       all but the five below
#   bash tests/run.sh -m sweep                              the rest of the ways to run verl, 20 minutes
#   bash tests/run.sh -m recipes                            every recipe of the paper, from training to comparison
#   EXTRA=test,cpu-vllm bash tests/run.sh -m vllm           vLLM as the rollout on a CPU
#   EXTRA=test,cpu-veomni bash tests/run.sh -m veomni       verl's VeOmni engine on a CPU, ten minutes
#   bash tests/run.sh -m gpu --table FILE                   the hook on CUDA devices, in the environment as it is: docs/gpu.md
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
if [[ " $* " == *" -m gpu "* ]]; then
    exec python -m pytest -v tests/hook/test_gpu.py "$@"
fi
source recipes/environment.sh "${EXTRA:-test}"
export VERL_PLATFORM=cpu
ruff check .
lint-imports
python -m pytest "$@"
