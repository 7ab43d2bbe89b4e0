"""What a run survives and how it ends where it does not: a rank that fails, hangs nobody; a killed one, resumes."""

import contextlib
import signal
import socket
import time
from datetime import timedelta

import harness
import pytest
import ranks
import tiny
import torch.distributed as dist
from harness import Case

from grail_verl.hook.failure import ends_on_every_rank
from grail_verl.hook.packing import refuse_mixed_rows

CASES = {"fsdp": Case("tied", "fsdp"), "fsdp2": Case("tied", "fsdp2")}
OWN = [f"{ranks.ENGINE}use_orig_params=True"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("tied")
    tiny.save_policy(folder)
    return {"tied": str(folder)}


def fail(*args):
    raise RuntimeError("out of memory, say")


def die(*args):
    signal.raise_signal(signal.SIGKILL)


def fail_second():
    """In OAR-G's second forward, the noisy one."""
    calls = []

    def count(*args):
        calls.append(args)
        if len(calls) == 2:
            fail()

    return count


def break_at(module, place: str, how=fail):
    """When the forward reaches the place; returns the hook's handle."""
    named = {name.replace("_fsdp_wrapped_module.", ""): part for name, part in module.named_modules()}
    (part,) = (part for name, part in named.items() if name.endswith(place))
    return part.register_forward_pre_hook(how)


def all_ranks_fail(rank: int, folders: dict) -> dict:
    """Behind the blocks; and within one, whose parameters FSDP2 then leaves gathered."""
    report = {}
    for name, case in CASES.items():
        worker = case.actor(folders, "grail")
        for place in ("model.norm", "layers.1.mlp") if name == "fsdp2" else ("model.norm",):
            handle = break_at(worker.engine.module, place)
            before = harness.state(worker)
            with pytest.raises(RuntimeError, match="out of memory"):
                worker.reweight_advantages(harness.rollout(rank))
            report[name, place] = harness.state(worker) == before and worker.engine.mode is None
            handle.remove()
            worker.reweight_advantages(harness.rollout(rank))  # and the next pass runs
    oar_g = {"score": "oar_g", "weights": "reshaped"}
    for name, case in {"fsdp2": Case("tied", "fsdp2", oar_g), "fsdp": Case("tied", "fsdp", oar_g, OWN)}.items():
        worker = case.actor(folders, "grail")
        for forward, how in (("clean", fail), ("noisy", fail_second())):
            handle = break_at(worker.engine.module, "layers.1.mlp", how)
            before = harness.state(worker)
            with pytest.raises(RuntimeError, match="out of memory"):
                worker.reweight_advantages(harness.rollout(rank))
            report["OAR-G", name, forward] = harness.state(worker) == before and worker.engine.mode is None
            handle.remove()
            worker.reweight_advantages(harness.rollout(rank))
    return report


def test_a_pass_that_fails_leaves_nothing_behind(folders):
    """On one rank: on several, a failure ends the process groups."""
    (report,) = ranks.on_ranks(all_ranks_fail, 1, folders)
    assert len(report) == 7 and all(report.values()), report


def one_rank_fails(rank: int, folders: dict, name: str) -> tuple[str, float]:
    """Rank 1 fails in the middle of its first micro-batch, mostly of rank 0's rows, which goes on to its gathers."""
    worker = CASES[name].actor(folders, "grail")
    if rank == 1:
        break_at(worker.engine.module, "layers.1.mlp")
    started = time.monotonic()
    try:
        worker.train_mini_batch(harness.rollout(rank))
    except RuntimeError as error:
        return str(error), time.monotonic() - started
    return "nothing", time.monotonic() - started


def one_rank_fails_at_the_start(rank: int, folders: dict) -> str:
    """In the trial of packed rows."""
    worker = CASES["fsdp2"].actor(folders, "grail")
    if rank == 1:
        break_at(worker.engine.module, "layers.1.mlp")
    with pytest.raises(RuntimeError) as error:
        refuse_mixed_rows(worker.engine)
    return str(error.value)


def test_a_rank_that_fails_at_the_start_ends_the_others_with_its_reason(folders, monkeypatch):
    monkeypatch.setattr(ranks, "TIMEOUT_S", 60)
    other, own = ranks.on_ranks(one_rank_fails_at_the_start, 2, folders)
    assert own == "out of memory, say"
    assert other == "GRAIL's trial of packed rows failed on rank 1: RuntimeError: out of memory, say"


@pytest.mark.parametrize("name", CASES)
def test_a_rank_that_fails_alone_ends_the_others_with_its_reason(folders, name):
    (other, seconds), (own, _) = ranks.on_ranks(one_rank_fails, 2, folders, name)
    assert own == "out of memory, say"
    assert other == "GRAIL's saliency pass failed on rank 1: RuntimeError: out of memory, say"
    assert seconds < 60  # gloo's own time-out is half an hour


class Wordless(Exception):
    """A user's own, whose text cannot be had."""

    def __str__(self):
        raise KeyError("text")


FAILURES = {
    "cannot be encoded": ValueError("the prompt \ud800\x1b[2J"),
    "has no text": Wordless(),
    "comes when others are through": ValueError("late"),
}


def each_fails(rank: int, ports: dict[str, int]) -> dict[str, str]:
    """On rank 1, while rank 0 waits for it, or has nothing left to do."""
    ended = {}
    for name, port in ports.items():
        dist.init_process_group(
            "gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2, timeout=timedelta(seconds=20)
        )
        try:
            with ends_on_every_rank("a pass"):
                if rank == 1:
                    raise FAILURES[name]
                if name != "comes when others are through":
                    dist.barrier()
            ended[name] = "nothing"
        except Exception as error:
            ended[name] = "the original" if error is FAILURES[name] else f"{type(error).__name__}: {error}"
        if dist.is_initialized():
            ended[name] += ", and the groups are up"
            dist.destroy_process_group()
    return ended


def test_whatever_the_error_it_is_told_and_raised_and_the_groups_are_gone():
    with contextlib.ExitStack() as sockets:
        free = {name: sockets.enter_context(socket.socket()) for name in FAILURES}
        for each in free.values():
            each.bind(("127.0.0.1", 0))
        ports = {name: each.getsockname()[1] for name, each in free.items()}
    other, own = ranks.on_ranks(each_fails, 2, ports)
    assert set(own.values()) == {"the original"}
    assert other == {
        "cannot be encoded": r"RuntimeError: a pass failed on rank 1: ValueError: the prompt \ud800\x1b[2J",
        "has no text": "RuntimeError: a pass failed on rank 1: Wordless: no text, its str raises KeyError",
        "comes when others are through": "RuntimeError: a pass failed on rank 1: ValueError: late",
    }


def train(folders: dict, name: str, batches: list[int], checkpoint: str, *, resume=False, saved=None) -> list:
    """An update on each batch; `saved` is called after a checkpoint behind the first."""
    worker = CASES[name].actor(folders, "grail")
    if resume:
        worker.engine.load_checkpoint(checkpoint)
    for index, batch in enumerate(batches):
        worker.train_mini_batch(harness.rollout(batch))
        if saved is not None and index == 0:
            worker.engine.save_checkpoint(checkpoint, global_step=1)
            saved(worker)
    return [shard.tolist() for shard in harness.shards(worker)]


def killed(rank: int, folders: dict, name: str, checkpoint: str) -> None:
    """Rank 1, in the pass of the second update."""
    at = (lambda worker: break_at(worker.engine.module, "model.norm", die)) if rank == 1 else (lambda worker: None)
    train(folders, name, [rank, rank + 2, rank + 4], checkpoint, saved=at)


def resumed_and_whole(rank: int, folders: dict, name: str, checkpoint: str) -> tuple[list, list]:
    resumed = train(folders, name, [rank + 2, rank + 4], checkpoint, resume=True)
    return resumed, train(folders, name, [rank, rank + 2, rank + 4], checkpoint)


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["fsdp", "fsdp2"])
def test_killed_and_resumed_it_ends_where_an_uninterrupted_run_does(folders, tmp_path, name):
    with pytest.raises(RuntimeError, match="killed by a signal|by peer"):
        ranks.on_ranks(killed, 2, folders, name, str(tmp_path))
    for resumed, whole in ranks.on_ranks(resumed_and_whole, 2, folders, name, str(tmp_path)):
        assert resumed == whole
