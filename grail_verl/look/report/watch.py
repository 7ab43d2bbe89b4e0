"""`grail-verl report DIR --watch`: the report of a run that is going on, written anew as its records grow.

Around report.py's `write`, until it is interrupted. Drawing takes seconds, on a machine that has a policy to train: it
gets a tenth of one core's time.
"""

import time
from collections.abc import Callable
from pathlib import Path

PAUSE = 10.0  # seconds
SHARE = 0.1


def watch(folder: Path, write: Callable[[], None], sleep: Callable[[float], None] = time.sleep) -> None:
    """Calls `write` now and whenever the folder's files have changed, for ever.

    Args:
        folder: of the records, which need not be there yet.
        write: what is done with them.
        sleep: waits for so many seconds.
    """
    seen = None
    while True:
        now, took = _state(folder), 0.0
        if now != seen:
            started = time.perf_counter()
            write()
            took, seen = time.perf_counter() - started, now
        sleep(max(PAUSE, took / SHARE))


def _state(folder: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of the records' files; what the report itself writes lies in a folder below. A folder that
    vanishes meanwhile has none: whatever comes back is another state."""
    try:
        files = sorted(path for path in folder.glob("*.json*") if path.is_file())
        return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    except FileNotFoundError:
        return []
