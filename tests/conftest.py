"""One thread per process (two cores, several ranks), the folders of helpers and tests on the path, and no test that
fails for being slow."""

import sys
from pathlib import Path

import torch
from hypothesis import settings

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), *(str(folder) for folder in HERE.iterdir() if folder.is_dir())]
torch.set_num_threads(1)
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
