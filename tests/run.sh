#!/usr/bin/env bash
# All tests, in an environment of their own if need be; arguments go to pytest:
#
#   bash tests/run.sh                           everything
#   bash tests/run.sh -m 'not end_to_end'       without the runs of verl's main_ppo
set -euo pipefail
cd "$(dirname "$0")/.."
source recipes/environment.sh test
export VERL_PLATFORM=cpu OMP_NUM_THREADS=1
ruff check .
python -m pytest "$@"
