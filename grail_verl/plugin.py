import os

import torch

if os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu" or not torch.accelerator.is_available():
    from grail_verl import cpu

    cpu.register()
