#!/usr/bin/env bash
# tests/verl_names.py on each release of verl that is supported, and, with no consequence, on the newest there is.
# Needs hydra-core; downloads verl alone, without what it needs.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

check() {
    python -m pip install --quiet --no-deps --target "$folder/$1" "${@:2}"
    python tests/verl_names.py "$folder/$1/verl"
}

for release in 0.9.0 0.9.1; do
    check $release "verl==$release"
done
(check newest --pre verl) || echo "the newest verl is not supported as it is: docs/releases.md"
