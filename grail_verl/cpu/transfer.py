"""Weights from the trainer to rollout servers of their own, over a socket: verl's checkpoint engine `socket`.

    FSDP ranks -> SocketCheckpointEngine.send_weights -> receive_weights -> ServerAdapter (rollout.py), on each replica

verl's V1 trainer `separate_async` makes one in every training worker and in the worker of every standalone replica, and
has them connected anew for each transfer. The first rank sends; the others take part in gathering what FSDP sharded.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from multiprocessing.connection import Client, Listener

import ray
import torch
from verl.checkpoint_engine import CheckpointEngine, CheckpointEngineRegistry

NAME = "socket"  # actor_rollout_ref.rollout.checkpoint_engine.backend


@CheckpointEngineRegistry.register(NAME)
class SocketCheckpointEngine(CheckpointEngine):
    """One parameter at a time, so that verl's bucket is of no use here.

    Args:
        bucket_size: verl's; unused.
        is_master: the trainer's first rank.
    """

    def __init__(self, bucket_size: int, is_master: bool = False):
        self.is_master = is_master
        self.listener: Listener | None = None
        self.connections: list = []  # the first rank's to all receivers, a receiver's to it

    def prepare(self) -> tuple | None:
        """Where the first rank listens, and the key to it: what comes over the socket is unpickled."""
        if not self.is_master:
            return None
        key = os.urandom(32)
        self.listener = Listener((ray.util.get_node_ip_address(), 0), backlog=128, authkey=key)
        return self.listener.address, key

    @classmethod
    def build_topology(cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list):
        trainers = {
            "receivers": [rollout_world_size] + [0] * (actor_wg_world_size - 1),
            "address": [None] * actor_wg_world_size,
        }
        replicas = {"receivers": [0] * rollout_world_size, "address": [metadata[0]] * rollout_world_size}
        return trainers, replicas

    def init_process_group(self, receivers: int, address: tuple | None) -> None:
        """
        Args:
            receivers: how many to wait for; 0 but on the trainer's first rank.
            address: in a receiver, what the first rank's `prepare` returned.
        """
        if address is None:
            self.connections = [self.listener.accept() for _ in range(receivers)]
        else:
            place, key = address
            self.connections = [Client(place, authkey=key)]

    def finalize(self) -> None:
        for connection in self.connections:
            connection.close()
        if self.listener is not None:
            self.listener.close()
        self.connections, self.listener = [], None

    async def send_weights(self, weights, global_steps: int | None = None) -> None:
        """Raises OSError: a receiver is gone."""
        for name, weight in weights:
            self._send((name, weight.detach().float().numpy()))  # float32 holds bf16 and fp16 exactly
        self._send(None)

    def _send(self, message) -> None:
        for connection in self.connections:
            connection.send(message)

    async def receive_weights(self, global_steps: int | None = None) -> AsyncIterator[tuple[str, torch.Tensor]]:
        """(name, tensor in float32) as they come. Raises EOFError: the sender is gone."""
        (connection,) = self.connections
        while (message := await asyncio.to_thread(connection.recv)) is not None:
            name, weight = message
            yield name, torch.from_numpy(weight)
