"""A folder of records is held by one run's processes, and by nobody once they are gone."""

import errno
import fcntl
import os
import signal
import subprocess
import sys

import pytest

from grail_verl.hook.claim import Claim

pytestmark = pytest.mark.fast

HOLD = "import sys; from grail_verl.hook.claim import Claim; claim = Claim(sys.argv[1], sys.argv[2], 1); " \
    "print(claim.holds, flush=True); sys.stdin.read()"  # fmt: skip


def holding(folder, word: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), word], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "True\n"
    return process


def test_the_first_process_holds_for_its_run_until_it_is_killed(tmp_path):
    with holding(tmp_path, "first") as process:
        try:
            same = Claim(tmp_path, "first", rank=0)
            assert not same.holds
            same.require()
            second = Claim(tmp_path, "second", rank=0)
            assert not second.holds
            with pytest.raises(BlockingIOError, match="another run is writing there"):
                second.require()
        finally:
            process.send_signal(signal.SIGKILL)
    again = Claim(tmp_path, "third", rank=1)
    assert again.holds
    again.require()


def test_without_locks_the_first_rank_holds_and_it_is_said(tmp_path, monkeypatch, caplog):
    """No test can mount a file system without locks: its answer stands in for it."""

    def answer(code: int):
        def refused(*args):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(fcntl, "lockf", refused)

    answer(errno.EOPNOTSUPP)
    first, second = Claim(tmp_path, "a", rank=0), Claim(tmp_path, "a", rank=1)
    assert (first.holds, second.holds) == (True, False)
    second.require()
    (said,) = caplog.messages
    assert "no locks here, so nothing keeps a second run out" in said
    answer(errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        Claim(tmp_path, "a", rank=0)
