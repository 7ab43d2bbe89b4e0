"""Ends the run when its rewards cannot be computed.

verl's V1 agent loop catches what a reward raises and trains on the other responses; in colocate_async it would draw
prompts for ever. So the reward worker that meets such a fault leaves the reason in Ray's key-value store, and
main_ppo's process, which started Ray and looks there every two seconds, prints it and ends, whatever it is waiting
for; Ray ends the rest of the job with it.

    reward worker ── tell(reason) ──> Ray's key-value store <── watch() ── main_ppo's process
"""

import os
import sys
import threading
import time

import ray
from ray.experimental import internal_kv

KEY = b"grail_verl.reward/fault"
SECONDS = 2.0  # between two looks

_watching = threading.Lock()


def tell(reason: str) -> None:
    """Ends the run that this reward worker belongs to. The first reason counts."""
    if ray.is_initialized():
        internal_kv._internal_kv_put(_key(), reason.encode(), overwrite=False)


def watch() -> None:
    """Makes this process, the one that starts Ray, end with status 1 as soon as a reason is told. Called again, it does
    nothing."""
    if _watching.acquire(blocking=False):
        threading.Thread(target=_watch, name="grail-verl-reward", daemon=True).start()


def _watch() -> None:
    while True:
        time.sleep(SECONDS)
        if not ray.is_initialized():
            continue
        reason = internal_kv._internal_kv_get(_key())
        if reason:
            print(f"grail_verl.reward ends the run: {reason.decode()}", file=sys.stderr, flush=True)
            os._exit(1)  # Ray's own processes end with it; ray.shutdown would end this one first, and with status 0


def _key() -> bytes:
    """Of this job alone: a cluster may run others."""
    return KEY + b"/" + ray.get_runtime_context().get_job_id().encode()
