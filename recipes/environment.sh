# The environment of a recipe:  source recipes/environment.sh cpu
#
# An environment that already holds everything which the extra named by the argument asks for (see setup.py)
# is left as it is. Otherwise `.venv` in the checkout is created, completed where something is missing, and
# activated. Cheap the second time. PYTHON names the interpreter to create it with (3.10 to 3.12).

has_extra() {
    python -I - "$1" 2>/dev/null <<'PY'
import sys
from importlib.metadata import requires, version

from packaging.requirements import Requirement

for need in map(Requirement, requires("grail-verl")):
    if need.marker is None or need.marker.evaluate({"extra": sys.argv[1]}):
        assert version(need.name) in need.specifier
PY
}

if ! has_extra "$1"; then
    [ -e .venv/bin/activate ] || "${PYTHON:-python3}" -m venv .venv
    source .venv/bin/activate
    has_extra "$1" || pip install -e ".[$1]"
fi
