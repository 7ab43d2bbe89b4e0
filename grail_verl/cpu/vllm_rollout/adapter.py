"""In each training worker: verl's way to hand the policy's weights to vLLM, with an end to waiting.

verl's sender waits for its receiver without a limit, so that a vLLM process that died would leave every rank of
the trainer hanging.
"""

import ray
import zmq
from verl.workers.rollout.vllm_rollout import vllm_rollout
from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightSender

from grail_verl.cpu import patches

SECONDS = 45  # for one bucket, which takes a fraction of a second


def run_id() -> str:
    """Of this run alone on this host, 16 hex digits. verl takes Ray's job id, but every cluster has a job 01000000."""
    return ray.get_runtime_context().get_node_id()[:16]


class Sender(BucketedWeightSender):
    """verl's, but `zmq.Again` is raised where the receiver is silent for SECONDS."""

    def _init_socket(self):
        super()._init_socket()
        self.socket.sndtimeo = self.socket.rcvtimeo = SECONDS * 1000
        self.socket.linger = 0  # what nobody took is dropped when the socket is closed


class Adapter(vllm_rollout.ServerAdapter):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.zmq_handle = self.zmq_handle.replace(ray.get_runtime_context().get_job_id(), run_id())
        self._receiving: ray.ObjectRef | None = None

    async def _execute_method(self, *args, **kwargs):
        self._receiving = await super()._execute_method(*args, **kwargs)
        return self._receiving

    async def update_weights(self, *args, **kwargs) -> None:
        """As verl's.

        Raises:
            RuntimeError: vLLM took no weights for SECONDS; from its own error, where it still can tell.
        """
        with patches.sender(vllm_rollout, Sender):
            try:
                await super().update_weights(*args, **kwargs)
            except zmq.Again as silence:
                raise RuntimeError(
                    f"vLLM's replica {self.replica_rank} took no weights for {SECONDS} s; its process may be gone"
                ) from self._error_of_receiver() or silence

    def _error_of_receiver(self) -> Exception | None:
        try:
            ray.get(self._receiving, timeout=5)
        except ray.exceptions.GetTimeoutError:
            return None
        except Exception as error:
            return error
