"""verl's legacy trainer (V0), where it runs: in 0.9.0 it takes padding out by flash-attn, which needs a GPU."""

from importlib.util import find_spec

import pytest
import verl
from packaging.version import Version

LEGACY = pytest.mark.skipif(
    Version(verl.__version__) < Version("0.9.1") and find_spec("flash_attn") is None,
    reason="verl 0.9.0's legacy trainer needs flash-attn",
)
