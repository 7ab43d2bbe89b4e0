"""verl's VeOmni engine for the device "cpu": the same class, minus what it takes for granted of a GPU.

Imported with verl.workers.engine where VeOmni is installed; EngineRegistry then finds it for the strategy veomni. Two
ranks at least: a model on one is not sharded, and VeOmni builds such a one on an accelerator alone (launch.py).
"""

import torch
from verl.workers.engine import EngineRegistry
from verl.workers.engine.veomni import transformer_impl
from verl.workers.engine.veomni.utils import passthrough_moe_param_handler

from grail_verl.cpu import patches
from grail_verl.cpu.engine import OnHost


@EngineRegistry.register(model_type="language_model", backend=["veomni"], device="cpu")
class CPUVeOmniEngineWithLMHead(OnHost, transformer_impl.VeOmniEngineWithLMHead):
    """Computes in `veomni.dtype`, a field of verl's for all engines that VeOmni's does not read: it knows bfloat16."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.engine_config.dtype != "bfloat16":
            self._autocast_dtype = getattr(torch, self.engine_config.dtype)

    def _build_model_optimizer(self):
        with patches.gathered_in(transformer_impl, self.engine_config.dtype):
            super()._build_model_optimizer()

    def get_per_tensor_param(self, **kwargs):
        """Experts stacked, as transformers' models have them: verl's are one by one, as in a checkpoint, for vLLM."""
        with patches.moe_params(transformer_impl, passthrough_moe_param_handler):
            return super().get_per_tensor_param(**kwargs)
