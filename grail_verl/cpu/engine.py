"""verl's FSDP engine for the device "cpu": the same class, minus what it takes for granted of a GPU.

Imported with verl.workers.engine; EngineRegistry then finds it for the strategies fsdp and fsdp2. It is for
policies and references: verl loads every critic (model_type value_model) with flash attention, a GPU's.
"""

import dataclasses

from torch.distributed.tensor import DTensor
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp import transformer_impl

from grail_verl.cpu import patches


class OnHost:
    """Mixin before an engine of verl's: parameters live on the host from the start and stay there."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # There is nowhere to offload to, and "load to the GPU" would ask for the device "cpu:cpu". The
        # second name is verl's for "leave the parameters where they are".
        self._is_offload_param = self._is_offload_optimizer = False
        self._uses_fsdp2_cpu_offload_policy = True

    def to(self, device: str, model: bool = True, optimizer: bool = True, grad: bool = True) -> None:
        pass


@EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device="cpu")
class CPUEngineWithLMHead(OnHost, transformer_impl.FSDPEngineWithLMHead):
    def _build_module(self):
        with patches.every_rank_loads_weights(transformer_impl):
            return super()._build_module()

    def _build_fsdp_module(self, module):
        # A reference model (forward_only) would be offloaded to pinned memory, which only CUDA has.
        configured = self.engine_config
        self.engine_config = dataclasses.replace(configured, forward_only=False, offload_policy=False)
        try:
            with patches.no_weights_sent_while_wrapping(transformer_impl):
                return super()._build_fsdp_module(module)
        finally:
            self.engine_config = configured

    def _merged_lora_per_tensor_param(self):
        """verl's, but in the parameters' own dtype: verl rounds to bf16, which a GPU's rollout would do anyway."""
        with transformer_impl.merged_lora_context(self.module, backup_adapters=True):
            params = transformer_impl.normalize_peft_param_name(self.module.state_dict())
            for name, param in transformer_impl.convert_weight_keys(params, self.module).items():
                yield name, param.full_tensor() if isinstance(param, DTensor) else param.detach().clone()
