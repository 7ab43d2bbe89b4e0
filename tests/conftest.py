"""One thread per process (two cores, several ranks), and the folders of helpers and tests on the path."""

import sys
from pathlib import Path

import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), *(str(folder) for folder in HERE.iterdir() if folder.is_dir())]
torch.set_num_threads(1)
