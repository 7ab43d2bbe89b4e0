"""Markers, one thread per process (two cores, several ranks), and this folder on the path of its helpers."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
