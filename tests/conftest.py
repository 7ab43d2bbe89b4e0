"""One thread per process (two cores, several ranks), the folders of helpers and tests on the path, no test that fails
for being slow, and none that sees what another registered."""

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), *(str(folder) for folder in HERE.iterdir() if folder.is_dir())]
from lane_table import pytest_addoption, pytest_collection_finish, pytest_terminal_summary  # noqa: E402, F401

torch.set_num_threads(1)
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def registries(monkeypatch):
    """As they were, whatever a test registers."""
    from grail_verl.credit.scores import SCORES
    from grail_verl.credit.weights import WEIGHTS

    for registry in (SCORES, WEIGHTS):
        monkeypatch.setattr(registry, "rules", dict(registry.rules))
