"""A rank that fails ends the others too: around the hook, in which all ranks wait for each other's collectives.

A rank that raises leaves its peers waiting for its part of a gather until their time-out, half an hour and more,
with an error that says nothing about the cause. So it tells them why, through the store by which the ranks found
each other, and aborts its process groups; each peer looks there twice a second, aborts its own groups, which ends
the wait, and raises what it read. The groups are gone afterwards: like any error in a worker, it ends the run.
"""

import contextlib
import threading
from collections.abc import Iterator

import torch.distributed as dist
from torch.distributed import distributed_c10d

from grail_verl.printable import told

KEY = "grail_verl/failed"
SECONDS = 0.5  # between two looks at the store


@contextlib.contextmanager
def ends_on_every_rank(what: str) -> Iterator[None]:
    """Within: an exception on one rank becomes a RuntimeError on every other one.

    Every rank must enter and leave; none leaves before all have come to the end, so that none is gone when another
    fails.

    Args:
        what: is going on, for the message.

    Raises:
        RuntimeError: another rank failed; names the rank and its error.
    """
    if dist.get_world_size() == 1:
        yield
        return
    store, left, aborted = distributed_c10d._get_default_store(), threading.Event(), threading.Event()

    def watch():
        while not left.wait(SECONDS):
            if _told(store):
                aborted.set()
                distributed_c10d._abort_process_group()
                return

    watcher = threading.Thread(target=watch, name="grail-verl-failure", daemon=True)
    watcher.start()
    failure = None
    try:
        yield
        dist.barrier()
    except BaseException as error:
        failure = error
    left.set()
    if failure is None and not aborted.is_set():
        return
    watcher.join()  # it may be at it
    try:
        if of_other := _told(store):
            failure, cause = RuntimeError(f"{what} failed on {of_other}"), failure
            failure.__cause__ = cause
        else:
            store.set(KEY, f"rank {dist.get_rank()}: {told(failure)}")
    finally:  # whatever becomes of the telling
        try:
            if not aborted.is_set():
                distributed_c10d._abort_process_group()
        finally:
            raise failure


def _told(store: dist.Store) -> str | None:
    try:
        return store.get(KEY).decode() if store.check([KEY]) else None
    except dist.DistError as error:  # the store lives in rank 0's process
        return f"rank 0, which is gone: {error}"
