"""One run at a time in a folder of records: two at once would leave rows of both between each other.

Beside dump.py. What holds the folder is the kernel's lock on a file in it, which goes with the process that took it,
however that ends. A network's file system tells it to other machines where it serves POSIX locks, as NFS does; one that
serves none is written to without, with a warning.
"""

import errno
import fcntl
import logging
import os
from pathlib import Path

LOCK = "run.lock"
HELD = (errno.EACCES, errno.EAGAIN)
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)

logger = logging.getLogger(__name__)


class Claim:
    """A process's part in its run's hold on a folder, for as long as this object lives.

    Of a run's processes that see the same folder, on one machine or several, the first to ask holds it for all and
    leaves the run's word there; the others find it.

    Args:
        folder: which is there.
        word: that all processes of this run share, and no other run has.
        rank: 0 holds it where there are no locks.

    Attributes:
        holds: it is this process that does.

    Raises:
        OSError: the folder cannot be written to.
    """

    def __init__(self, folder: str | Path, word: str, rank: int):
        self._path, self._word = Path(folder) / LOCK, word
        self._file = self._path.open("a+")
        self.holds = self._lock(rank)
        if self.holds:
            self._file.truncate(0)
            self._file.write(word)
            self._file.flush()
            os.fsync(self._file.fileno())

    def require(self) -> None:
        """Once every process of the run has asked. Raises BlockingIOError: another run holds the folder."""
        if not self.holds and self._path.read_text() != self._word:
            raise BlockingIOError("another run is writing there")

    def _lock(self, rank: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in HELD:
                return False
            if error.errno not in NO_LOCKS:
                raise
            if rank == 0:
                logger.warning("%s: no locks here, so nothing keeps a second run out (%s)", self._path, error)
            return rank == 0
        return True
