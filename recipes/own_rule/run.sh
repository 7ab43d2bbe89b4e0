#!/usr/bin/env bash
# Trains with the rule in rule.py on the quick start's task; further arguments are Hydra overrides.
#
#   bash recipes/own_rule/run.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
RUN=${RUN:-outputs/own_rule} exec bash recipes/quickstart/run.sh \
    '+algorithm.grail.modules=[recipes/own_rule/rule.py]' \
    +algorithm.grail.score=doubt \
    +algorithm.grail.weights=from_peak \
    "$@"
