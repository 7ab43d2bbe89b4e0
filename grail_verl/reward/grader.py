r"""Grades each answer in a process of its own, under the kernel's limits.

On the data's way: reward worker → *grading process* → verdict. What a policy writes into a box may keep a computer
algebra system busy for ever, or eat the node's memory, inside C code that no exception reaches; and time limits by
signal, as math-verify has them, cannot be used by verl's reward workers, who grade in threads. So no answer is parsed
in the process that trains:

    reward worker ── a pair ──> grading process ── fork ──> one child for this answer, under the kernel's limits
                  <─ verdict ──                 <─ exit status, or the signal that killed it

The grading process has the grammar and sympy loaded and warm, and so its fork costs milliseconds; the child is a fresh
copy, so that no grade depends on what was graded before. The limits lie in the child itself: they hold when the reward
worker is killed, too. It is started by a command line, not by `multiprocessing`, whose children run the user's script
again: there may be no such file (standard input), or no `if __name__ == "__main__"` in it.
"""

import contextlib
import gc
import itertools
import logging
import multiprocessing
import os
import queue
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

from grail_verl.reward.spelling import cleaned

GRADERS = 2  # grading processes of a reward worker, of which verl starts reward.num_workers
CPU_SECONDS = 3.0  # of processor time, which a busy node does not use up; an ordinary answer takes hundredths
WALL_SECONDS = 30.0  # for an answer that waits instead of computing
PATIENCE_SECONDS = 120.0  # for a grading process that does not even start, or reply: stopped, or swapped out
MEMORY_BYTES = 1 << 30  # address space; the grading process itself has a tenth of it
# Of an answer that is parsed, where the truth is not longer or deeper itself. Answers are short and flat; the parser
# takes some tenth of a second for each level of brackets.
MAX_CHARACTERS, MAX_DEPTH = 1000, 10

RIGHT, WRONG, FAILED = 10, 11, 12  # a child's exit status; any other is FAILED as well


def _depth(text: str) -> int:
    return max(itertools.accumulate((bracket in "([{") - (bracket in ")]}") for bracket in text), default=0)


class _Grader:
    """A grading process.

    Raises:
        RuntimeError: it does not start.
    """

    _COMMAND = (
        "import sys; sys.path[:] = sys.argv[2:]; from grail_verl.reward.grader import serve; serve(int(sys.argv[1]))"
    )

    def __init__(self):
        self._connection, theirs = multiprocessing.Pipe()
        with theirs:
            number = theirs.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", self._COMMAND, str(number), *map(str, sys.path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[number],
                env={**os.environ, "PYTHONHASHSEED": "0"},  # the order in sympy's sets
            )
        try:
            started = self._connection.poll(PATIENCE_SECONDS) and self._connection.recv_bytes()
        except (EOFError, OSError):
            started = False
        if not started:
            self.close()
            raise RuntimeError("the grading process of grail_verl.reward did not start; see standard error")

    def grade(self, truth: str, answer: str | None) -> int:
        self._connection.send((truth, answer))
        if self._connection.poll(PATIENCE_SECONDS):
            return self._connection.recv_bytes()[0]
        self._process.kill()
        return FAILED

    def close(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()


def _no_graders() -> None:
    """At the start, and in a forked process, which must not write into its parent's pipes."""
    global _graders
    _graders = queue.LifoQueue()  # who calls from one thread has one grading process
    for _ in range(GRADERS):
        _graders.put(None)


_no_graders()
os.register_at_fork(after_in_child=_no_graders)


_INTEGER = re.compile(r"-?\d{1,30}", re.ASCII)


def verdict(truth: str, answer: str) -> int:
    """RIGHT, WRONG, or something else if grading did not end well.

    Raises:
        RuntimeError: the grading process does not start.
    """
    if answer == truth:
        return RIGHT
    if not answer or len(answer) > max(MAX_CHARACTERS, 2 * len(truth)):
        return WRONG
    if _depth(answer) > max(MAX_DEPTH, _depth(truth)):
        return WRONG
    if _INTEGER.fullmatch(truth) and _INTEGER.fullmatch(answer):  # most pairs of most data sets
        return RIGHT if int(truth) == int(answer) else WRONG
    if cleaned(truth) == cleaned(answer):
        return RIGHT
    graders, grader = _graders, _graders.get()
    try:
        for _ in range(2):  # the second time with a new process: it was not this answer that killed the old one
            grader = grader or _Grader()
            try:
                return grader.grade(truth, answer)
            except (EOFError, OSError):
                grader = grader.close()
        return FAILED
    except BaseException:  # an interrupt, say, with a verdict still in the pipe that the next answer must not get
        grader = grader and grader.close()
        raise
    finally:
        graders.put(grader)


_EXACT = re.compile(r"-?\d+(\.\d+)?|-?\\[dt]?frac\{\d+\}\{\d+\}|[a-zA-Z]", re.ASCII)  # read by whoever sees it


def are_read(truths: list[str], seconds: float) -> list[bool | None]:
    """Whether the grader reads something from each truth: None where time was up.

    Raises:
        RuntimeError: the grading process does not start.
    """
    verdicts: list[bool | None] = [True if _EXACT.fullmatch(truth) else None for truth in truths]
    left = iter([index for index, verdict in enumerate(verdicts) if verdict is None])
    deadline, lock = time.monotonic() + seconds, threading.Lock()

    def read(_):
        grader = None
        try:
            while time.monotonic() < deadline:
                with lock:
                    index = next(left, None)
                if index is None:
                    return
                grader = grader or _Grader()
                verdicts[index] = grader.grade(truths[index], None) == RIGHT
        finally:
            if grader:
                grader.close()

    workers = min(os.cpu_count() or 1, sum(verdict is None for verdict in verdicts))
    if workers:
        with ThreadPoolExecutor(workers) as threads:
            list(threads.map(read, range(workers)))
    return verdicts


def serve(file_descriptor: int) -> None:
    """The grading process: verdicts for the pairs that come in, until the reward worker closes the pipe or is dead."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the reward worker
    deadly = {signal.SIGPROF, signal.SIGALRM}
    for number in {*deadly, signal.SIGCHLD}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, deadly)
    logging.disable()
    is_right, is_read = _without_lambdify()
    for truth, answer in WARM_UP:
        is_right(truth, answer)
    gc.freeze()  # children would copy every page that a collection touches
    with Connection(file_descriptor) as connection, contextlib.suppress(EOFError, OSError):
        connection.send_bytes(bytes([RIGHT]))
        while True:
            truth, answer = connection.recv()  # no answer: is the truth read?
            child = os.fork()
            if child == 0:
                status = FAILED
                try:
                    connection.close()
                    _limit()
                    right = is_read(truth) if answer is None else is_right(truth, answer)
                    status = RIGHT if right else WRONG
                finally:
                    os._exit(status)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            connection.send_bytes(bytes([max(status, 0)]))  # negative: a signal


def _limit() -> None:
    """The kernel's limits on this process: for the first two it ends it, whatever code is running."""
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
    for limit, value in {resource.RLIMIT_AS: MEMORY_BYTES, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0}.items():
        resource.setrlimit(limit, (value, value))


def _without_lambdify() -> tuple[Callable[[str, str], bool], Callable[[str], bool]]:
    """The functions that grade one pair and read one truth, with nothing in reach that compiles what a model wrote.

    The LaTeX grammar makes symbols of names and numbers of digits, and nothing is given to sympy's string parser, which
    is an `eval`. `lambdify`, which compiles the names of symbols, is cut off where the numerical value of a sum would
    get there.
    """
    import sympy

    from grail_verl.reward.verdict import is_read, is_right

    def refuse(*_):
        raise NotImplementedError  # a sum has other ways to its value

    sympy.core.evalf.lambdify = refuse
    return is_right, is_read


# A pair for each path through the parser and the comparisons, which builds their tables and imports.
WARM_UP = (
    (r"\frac{1}{2}", "0.25"),
    (r"-\frac{\sqrt{3}}{2}", r"2\pi"),
    (r"x^{2}+2x+1", r"(x+1)^2"),
    (r"\frac{x+1}{2}", "0.5x + 1"),
    (r"x = 5", r"y=6"),
    (r"x^2+y^2=1", r"x-y=2"),
    (r"(-\infty,3]\cup[4,5)", r"[4, 5) \cup (-\infty, 3]"),
    (r"[1,2)", r"[1, 2.0)"),
    (r"\{1,2\}", r"2, 3"),
    (r"(1,2,3)", r"\left(1, \frac{1}{2}, 3\right)"),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{bmatrix} 1 & 2 \\ 3 & 5 \end{bmatrix}"),
    (r"50\%", r"90^\circ"),
    (r"\text{Evelyn}", r"even"),
    (r"(C)", r"\text{(D)}"),
    (r"1.4 \times 10^{3}", r"3 \text{ cm}^2"),
    (r"x \le 3", r"1 < x < 2"),
    (r"3+4i", r"\log_2 8"),
    (r"5!", r"\binom{5}{2}"),
)
