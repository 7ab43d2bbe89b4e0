r"""verl's reward: 1.0 if the last complete `\boxed{}` of a response verifies with math-verify, else 0.0.

At the head of the data's way: *response → reward* → advantages, which the rest of the package then reweights. Used as
`reward.custom_reward_function.path=pkg://grail_verl.reward`; needs `pip install "grail-verl[math]"`.

What a policy writes into a box may keep a computer algebra system busy for ever, or eat the node's memory, inside C
code that no exception reaches; and math-verify's own time limit is a signal, which verl's reward workers, who grade
in threads, cannot use. So no answer is parsed in the process that trains:

    reward worker ── a pair ──> grading process ── fork ──> one child for this answer, under the kernel's limits
                  <─ verdict ──                 <─ exit status, or the signal that killed it

The grading process has math-verify loaded and warm, and so its fork costs milliseconds; the child is a fresh copy,
so that no grade depends on what was graded before. The limits lie in the child itself: they hold when the reward
worker is killed, too. It is started by a command line, not by `multiprocessing`, whose children run the user's script
again: there may be no such file (standard input), or no `if __name__ == "__main__"` in it.
"""

import contextlib
import gc
import importlib.util
import itertools
import logging
import multiprocessing
import numbers
import os
import queue
import re
import resource
import signal
import subprocess
import sys
from multiprocessing.connection import Connection

from grail_verl.credit.answer import complete_boxes

if importlib.util.find_spec("math_verify") is None:
    raise ImportError('grail_verl.reward grades with math-verify: pip install "grail-verl[math]"')

GRADERS = 2  # grading processes of a reward worker, of which verl starts reward.num_workers
CPU_SECONDS = 3.0  # of processor time, which a busy node does not use up; an ordinary answer takes hundredths
WALL_SECONDS = 30.0  # for an answer that waits instead of computing
PATIENCE_SECONDS = 120.0  # for a grading process that does not even start, or reply: stopped, or swapped out
MEMORY_BYTES = 1 << 30  # address space; the grading process itself has a tenth of it
# Of an answer that is parsed, where the truth is not longer or deeper itself. Answers are short and flat; the parser
# takes some tenth of a second for each level of brackets.
MAX_CHARACTERS, MAX_DEPTH = 1000, 10

logger = logging.getLogger(__name__)

RIGHT, WRONG, FAILED = 10, 11, 12  # a child's exit status; any other is FAILED as well


def compute_score(
    data_source,
    solution_str: str,
    ground_truth,
    extra_info: dict | None = None,
    reward_router_address=None,
    reward_model_tokenizer=None,
) -> dict[str, float]:
    r"""Grades one response. May be called from any number of threads at once.

    Args:
        data_source: the data set's name, for messages.
        solution_str: the response's text, of any length and content.
        ground_truth: text or a number. Of text that holds a complete `\boxed{}` the last one counts.
        extra_info, reward_router_address, reward_model_tokenizer: what verl passes besides; not used.

    Returns:
        The same keys for each response, all 1.0 or 0.0: `score`; `acc`, the same; `answer_found`, there is a
        complete box; `grading_failed`, the grader ran out of time or memory, died or raised, and `score` is 0.

    Raises:
        ValueError: there is no ground truth, or it is neither text nor a number. It ends the run: a mistake in the
            data, which graded as 0 would be trained on unnoticed.
        RuntimeError: the grading process does not start; its own error is on the standard error.
    """
    truth = _truth_text(ground_truth, data_source)
    answer = _last_box(solution_str)
    verdict = WRONG if answer is None else _verdict(truth, _clean(answer))
    failed = verdict not in (RIGHT, WRONG)
    if failed:  # verl has a metric of it in validation alone
        logger.warning("counted as wrong, as grading did not end well: %.100r of %s", answer, data_source)
    score = float(verdict == RIGHT)
    return {
        "score": score,
        "acc": score,
        "answer_found": float(answer is not None),
        "grading_failed": float(failed),
    }


def _truth_text(ground_truth, data_source) -> str:
    if not isinstance(ground_truth, str | numbers.Number | None):
        kind = type(ground_truth).__name__
        raise ValueError(f"a ground_truth of data source {data_source!r} is of type {kind}, not text or a number")
    # NaN, the only number that is not itself, is how parquet files may come to say None.
    text = "" if ground_truth is None or ground_truth != ground_truth else str(ground_truth)
    box = _last_box(text)
    text = _clean(text if box is None else box)
    if not text:
        raise ValueError(f"a ground_truth of data source {data_source!r} is empty: {ground_truth!r}")
    return text


def _last_box(text: str) -> str | None:
    boxes = complete_boxes(content := text.encode("utf-8", "surrogatepass"))
    return content[max(boxes)[1] + 1 : max(boxes)[2]].decode("utf-8", "surrogatepass") if boxes else None


_SPELLINGS = str.maketrans({
    "−": "-", "×": r"\times ", "·": r"\cdot ", "°": r"^\circ ", "π": r"\pi ", "∞": r"\infty ",
    "≤": r"\le ", "≥": r"\ge ",
})
_NO_MEANING = re.compile(r"\\?\$|\\(?:boxed|fbox)\b|\\!")  # of frames only the innermost box is the answer
_INTEGER = re.compile(r"-?\d{1,30}", re.ASCII)
_DIGIT_GROUPS = re.compile(r"(?<![\d.])\d{1,3}(?:(?:\\[,;: ]|~| )\d{3})+(?!\d)", re.ASCII)
_MIXED = re.compile(r"(?<![\d./])(\d+) +(\d+)/(\d+)(?![\d.])", re.ASCII)
# 7.9e5, 1e-07 and 2E-1, but 2e-1 is 2·e − 1.
_SCIENTIFIC = re.compile(r"(?<![\w.])(\d+\.\d+|\d+(?=E|e\d|e[+-]\d\d))[eE]([+-]?\d+)(?!\w|\.\d)", re.ASCII)


def _clean(text: str) -> str:
    """The same value in a spelling that math-verify reads rightly: for it `10\\,000` is 10 · 0, `2 1/2` is 3/2 and
    `7.9e5` is 7.9 · e · 5."""
    text = _NO_MEANING.sub("", text).translate(_SPELLINGS).replace(r"\varnothing", r"\emptyset")
    text = " ".join(text.split()).removesuffix(".").rstrip()
    text = _DIGIT_GROUPS.sub(lambda match: re.sub(r"[^\d]", "", match[0]), text)
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", text)
    return _SCIENTIFIC.sub(lambda match: rf"{match[1]} \times 10^{{{match[2]}}}", text)


def _depth(text: str) -> int:
    return max(itertools.accumulate((bracket in "([{") - (bracket in ")]}") for bracket in text), default=0)


class _Grader:
    """A grading process.

    Raises:
        RuntimeError: it does not start.
    """

    _COMMAND = "import sys; sys.path[:] = sys.argv[2:]; from grail_verl.reward import serve; serve(int(sys.argv[1]))"

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

    def grade(self, truth: str, answer: str) -> int:
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


def _verdict(truth: str, answer: str) -> int:
    if answer == truth:
        return RIGHT
    if not answer or len(answer) > max(MAX_CHARACTERS, 2 * len(truth)):
        return WRONG
    if _depth(answer) > max(MAX_DEPTH, _depth(truth)):
        return WRONG
    if _INTEGER.fullmatch(truth) and _INTEGER.fullmatch(answer):  # most pairs of most data sets
        return RIGHT if int(truth) == int(answer) else WRONG
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


def serve(file_descriptor: int) -> None:
    """The grading process: verdicts for the pairs that come in, until the reward worker closes the pipe or is dead."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the reward worker
    deadly = {signal.SIGPROF, signal.SIGALRM}
    for number in {*deadly, signal.SIGCHLD}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, deadly)
    logging.disable()
    grades_right = _math_verify()
    for truth, answer in WARM_UP:
        grades_right(truth, answer)
    gc.freeze()  # children would copy every page that a collection touches
    with Connection(file_descriptor) as connection, contextlib.suppress(EOFError, OSError):
        connection.send_bytes(bytes([RIGHT]))
        while True:
            pair = connection.recv()
            child = os.fork()
            if child == 0:
                status = FAILED
                try:
                    connection.close()
                    _limit()
                    status = RIGHT if grades_right(*pair) else WRONG
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


def _math_verify():
    """The function that grades one pair, with math-verify loaded.

    No text of a model's is evaluated as code. Of math-verify's extractions only LaTeX's is used; the one for plain
    expressions gives its matches to `parse_expr`, which is an `eval`. In what the LaTeX grammar accepts, numbers alone
    go through sympy's string parser, as digits. `lambdify`, which compiles the names of symbols (`\\text{…}`), is
    cut off where the numerical value of a sum would get there.
    """
    import math_verify
    import sympy
    from latex2sympy2_extended.antlr_parser import PSParser

    def refuse(*_):
        raise NotImplementedError  # a sum has other ways to its value

    sympy.core.evalf.lambdify = refuse
    if not hasattr(PSParser.AtomContext, "FUNC_GAMMA"):  # forgotten for Hydra's antlr 4.9: no percentage was read
        PSParser.AtomContext.FUNC_GAMMA = lambda self: None
    extraction = (math_verify.LatexExtractionConfig(try_extract_without_anchor=False, boxed_match_priority=0),)

    def parse(text: str) -> list:
        boxed = f"\\boxed{{{text}}}"
        return math_verify.parse(boxed, extraction, extraction_mode="first_match", parsing_timeout=None)

    def grades_right(truth: str, answer: str) -> bool:
        gold, target = parse(truth), parse(answer)
        right = math_verify.verify(gold, target, timeout_seconds=None, raise_on_error=True)
        return right and not (gold and target and differ_though_tiny(gold[0], target[0]))

    def differ_though_tiny(gold, target) -> bool:
        """math-verify compares absolutely: for it 6.6e-27 and 6.7e-27 are equal."""
        if not all(isinstance(value, sympy.Expr) and value.is_number for value in (gold, target)):
            return False
        gold, target = sympy.N(gold.doit()), sympy.N(target.doit())  # a percentage is unevaluated
        return bool(0 < abs(gold) < 1e-3) and bool(abs(gold - target) > 1e-2 * abs(gold))

    return grades_right


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
