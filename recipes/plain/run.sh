#!/usr/bin/env bash
# GRPO and GRAIL on one page, without verl: grail.py. Its arguments, such as --method grpo, may follow.
#
#   bash recipes/plain/run.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
source recipes/environment.sh cpu
python -m recipes.plain.grail "$@"
