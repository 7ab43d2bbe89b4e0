"""Marks of tests that need what is installed for them alone; tests/run.sh says how."""

from importlib.util import find_spec

import pytest

VEOMNI = [pytest.mark.veomni, pytest.mark.skipif(find_spec("veomni") is None, reason="needs the extra cpu-veomni")]
