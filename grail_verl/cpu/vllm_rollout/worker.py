"""In vLLM's worker process: takes the policy's weights into a model that is packed for the CPU.

On a GPU verl's worker extension overwrites parameters in place. On a CPU vLLM packs every linear weight for its
kernels when it has loaded it, and drops the original; its own reload builds each layer anew, packs it, and puts
it where the old one was.
"""

import torch
from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightReceiver
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension
from vllm.config import set_current_vllm_config
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload


class WorkerExtension(vLLMColocateWorkerExtension):
    @torch.no_grad()
    def update_weights_from_ipc(
        self, peft_config: dict | None = None, base_sync_done: bool = False, use_shm: bool = False
    ) -> None:
        """Receive a whole policy, called by verl's adapter while its sender waits.

        Raises:
            RuntimeError: the trainer sent nothing for a parameter of the model.
        """
        model = self.model_runner.model
        missing = {name for name, _ in model.named_parameters()}

        def load(weights: list[tuple[str, torch.Tensor]], is_last: bool) -> None:
            # The reload keeps tensors until a layer is complete; the next bucket overwrites this one's memory.
            missing.difference_update(model.load_weights([(name, weight.clone()) for name, weight in weights]))

        with set_current_vllm_config(self.vllm_config):
            initialize_layerwise_reload(model)
            BucketedWeightReceiver(self._get_zmq_handle(), self.device, use_shm).receive_weights(load)
            finalize_layerwise_reload(model, self.vllm_config.model_config)
            # Tied embeddings were packed under the name they came by, not yet for the output layer.
            for layer in model.modules():
                if isinstance(layer, ParallelLMHead):
                    layer.quant_method.process_weights_after_loading(layer)
        if missing:
            raise RuntimeError(f"the trainer sent no weights for {sorted(missing)}")
