#!/usr/bin/env bash
# The tests, in an environment of their own if need be; arguments go to pytest:
#
#   bash tests/run.sh -m fast                               the first to run, under two minutes
#   bash tests/run.sh                                       all but the four below
#   bash tests/run.sh -m sweep                              the rest of the ways to run verl, 20 minutes
#   bash tests/run.sh -m recipes                            every recipe of the paper, from training to comparison
#   EXTRA=test,cpu-vllm bash tests/run.sh -m vllm           vLLM as the rollout on a CPU
#   EXTRA=test,cpu-veomni bash tests/run.sh -m veomni       verl's VeOmni engine on a CPU, ten minutes
set -euo pipefail
cd "$(dirname "$0")/.."
source recipes/environment.sh "${EXTRA:-test}"
export VERL_PLATFORM=cpu OMP_NUM_THREADS=1
ruff check .
lint-imports
python -m pytest "$@"
