"""The checkpoint engine `socket` between threads, each in place of a worker: real sockets, no Ray."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from grail_verl.cpu.transfer import SocketCheckpointEngine

pytestmark = pytest.mark.fast

WEIGHTS = {
    "large": torch.arange(2**20, dtype=torch.float32).view(2**10, -1),
    "bf16": torch.full((3,), 1.015625, dtype=torch.bfloat16),
    "a transposed one": torch.arange(6.0).view(2, 3).T,
    "a scalar": torch.tensor(0.1),
}


def connected(trainers: int, replicas: int) -> list[SocketCheckpointEngine]:
    """As verl's CheckpointEngineManager has them connected for a transfer."""
    engines = [SocketCheckpointEngine(2**20, is_master=rank == 0) for rank in range(trainers)]
    engines += [SocketCheckpointEngine(2**20) for _ in range(replicas)]
    metadata = [engine.prepare() for engine in engines]
    of_trainers, of_replicas = SocketCheckpointEngine.build_topology(trainers, replicas, metadata)
    options = [
        {name: values[rank] for name, values in part.items()}
        for part, workers in ((of_trainers, trainers), (of_replicas, replicas))
        for rank in range(workers)
    ]
    with ThreadPoolExecutor(len(engines)) as workers:
        list(workers.map(lambda engine, options: engine.init_process_group(**options), engines, options))
    return engines


async def received(engine: SocketCheckpointEngine) -> dict[str, torch.Tensor]:
    return {name: weight async for name, weight in engine.receive_weights(global_steps=1)}


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")  # there is no Ray


def test_every_replica_gets_every_weight_and_every_rank_walks_through_all_of_them():
    engines = connected(trainers=2, replicas=2)
    walked = [iter(WEIGHTS.items()) for _ in range(2)]
    with ThreadPoolExecutor(4) as workers:
        sending = [engine.send_weights(weights) for engine, weights in zip(engines[:2], walked, strict=True)]
        sent = [workers.submit(asyncio.run, coroutine) for coroutine in sending]
        came = [workers.submit(asyncio.run, received(engine)) for engine in engines[2:]]
        assert [future.result(60) for future in sent] == [None, None]
        assert [list(rest) for rest in walked] == [[], []]
        for future in came:
            weights = future.result(60)
            assert list(weights) == list(WEIGHTS)
            assert all(torch.equal(weights[name], weight.float()) for name, weight in WEIGHTS.items())
    for engine in engines:
        engine.finalize()


def test_a_side_that_is_gone_ends_the_other():
    (sender, receiver) = connected(trainers=1, replicas=1)
    receiver.finalize()
    with pytest.raises(OSError):
        asyncio.run(sender.send_weights(iter(WEIGHTS.items())))
    sender.finalize()
    (sender, receiver) = connected(trainers=1, replicas=1)
    sender.finalize()
    with pytest.raises(EOFError):
        asyncio.run(received(receiver))
    receiver.finalize()
