"""The reward: every shape of ground truth, graded as a human would; and a grader that nothing written stops."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("math_verify")

from grail_verl import reward
from grail_verl.reward import compute_score, grader
from grail_verl.reward.spelling import cleaned

KEYS = ["score", "acc", "answer_found", "grading_failed"]
TOWER = "9^{9^{9^{9}}}"  # for ever, in one multiplication inside C code

MATRIX = r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}"

# Ground truth, what stands in the box, whether that is right.
SHAPES = {
    "integers": [
        ("5", "5", 1), ("5", "6", 0), ("-3", "-3", 1), ("3", "-3", 0), ("-3", "−3", 1), ("5", "5.", 1), ("7", "07", 1),
        ("5", "+5", 1), ("0", "0", 1), ("0", "", 0), ("5", "five", 0), ("1000000", "1000001", 0), ("5", "5.0", 1),
        ("123456789012345678901234567890", "123456789012345678901234567891", 0),
    ],
    "decimals": [
        ("0.25", "0.25", 1), ("0.25", ".25", 1), ("0.25", "0.250", 1), ("0.25", "0.26", 0), ("-0.5", "-.5", 1),
        ("3.14", "3.15", 0), ("0.5", r"\frac{1}{2}", 1), ("3.0", "3", 1), ("2.5", "25", 0),
    ],
    "fractions": [
        (r"\frac{1}{4}", "0.25", 1), (r"\frac{1}{4}", "1/4", 1), ("1/4", r"\frac14", 1), ("1/4", r"\dfrac{2}{8}", 1),
        (r"-\frac{3}{4}", "-3/4", 1), ("-3/4", r"\frac{-3}{4}", 1), ("-3/4", r"\frac{3}{-4}", 1),
        ("-3/4", r"\frac{3}{4}", 0), (r"2\frac{1}{2}", r"\frac{5}{2}", 1), ("2 1/2", "2.5", 1), ("-2 1/2", "-5/2", 1),
        ("2 1/2", "3/2", 0), (r"\frac{5}{2}", "2 1/2", 1), (r"\frac{1}{3}", "0.33", 0), ("1/3", "3", 0),
        (r"\frac{2}{3}", r"\tfrac{2}{3}", 1), (r"\frac{x+1}{2}", r"\frac{1}{2}x + \frac12", 1),
    ],
    "percentages": [
        (r"50\%", r"50\%", 1), ("50%", r"50\%", 1), (r"50\%", "0.5", 1), (r"50\%", "50", 1), ("50", r"50\%", 1),
        (r"50\%", r"60\%", 0), (r"50\%", "0.05", 0), (r"12.5\%", r"\frac{1}{8}", 1), (r"0.05\%", "0.0005", 1),
    ],
    "units": [
        (r"5 \text{ cm}", "5", 1), ("5", r"5 \text{ cm}", 1), ("5", r"5\ \mathrm{cm}", 1), ("5", "5 cm", 1),
        (r"5 \text{ cm}^2", "5", 1), ("5", r"6\text{ cm}^{2}", 0), (r"90^\circ", "90", 1), ("90", r"90^{\circ}", 1),
        ("90", "90°", 1), (r"90^\circ", r"45^\circ", 0), ("90", r"90 \text{ degrees}", 1), (r"\$18", "18", 1),
        ("18", r"\$18.00", 1), ("18", r"\$19", 0), (r"16\pi \text{ cm}^3", r"16\pi", 1),
    ],
    "thousands": [
        ("1{,}000", "1000", 1), ("1000", "1{,}000", 1), ("1,000", "1000", 1), ("1000", "1,000", 1),
        ("1000", "1,001", 0), ("1,000,000", "1000000", 1), (r"10\,000", "10000", 1), (r"10\,000", "0", 0),
        ("0", "1 000", 0), ("1000", "1 000", 1), (r"5,\!000", "5000", 1), ("1,234.5", "1234.5", 1),
        ("12,345", "(12,345)", 0),
    ],
    "intervals": [
        ("[1,2)", "[1, 2)", 1), ("[1,2)", r"\left[1, 2\right)", 1), ("[1,2)", "[1,2]", 0), ("[1,2)", "(1,2)", 0),
        (r"(-\infty, 3]", r"(-\infty,3]", 1), (r"(-\infty, 3]", r"(-\infty,3)", 0), (r"[0,\frac12]", "[0,0.5]", 1),
        (r"(-\infty,1)\cup(2,\infty)", r"(2,\infty) \cup (-\infty,1)", 1), ("[1,2]", r"x\in[1,2]", 1),
        (r"(-\infty,1)\cup(2,\infty)", r"(-\infty,1)\cup(3,\infty)", 0), (r"x \le 3", r"(-\infty, 3]", 1),
        ("1 < x < 2", "(1,2)", 1), ("1 < x < 2", "(1,3)", 0),
    ],
    "sets": [
        (r"\{1,2\}", r"\{2,1\}", 1), (r"\{1,2\}", r"\{1,3\}", 0), (r"\{1,2\}", r"\{1,2,3\}", 0),
        (r"\{1,2\}", "1, 2", 1), (r"\left\{\frac12\right\}", r"\{0.5\}", 1), (r"\emptyset", r"\varnothing", 1),
        (r"\emptyset", r"\{0\}", 0),
    ],
    "several answers": [
        ("1,2", "2,1", 1), ("1,2", "1, 2, 3", 0), ("1,2", "1", 0), (r"1 \text{ and } 2", "1,2", 1),
        ("6,7", "6 or 7", 1), (r"1 \pm \sqrt{2}", r"1+\sqrt2, 1-\sqrt2", 1), (r"1 \pm \sqrt{2}", r"1+\sqrt2", 0),
        ("-1, 0, 1", r"0, \pm 1", 1),
    ],
    "tuples": [
        ("(1,2)", "(1, 2)", 1), ("(1,2)", "(2,1)", 0), ("(1,2,3)", r"\left(1, 2, 3\right)", 1),
        ("(1,2,3)", "(3,2,1)", 0), (r"\left(\frac12, 3\right)", "(0.5, 3)", 1), ("(1,2),(3,4)", "(3,4), (1,2)", 1),
        ("(1,2,3)", "(1,2)", 0), (r"(3, \frac{\pi}{2})", r"(3, \frac{\pi}{2})", 1),
        (r"(3, \frac{\pi}{2})", r"(3, \frac{\pi}{3})", 0),
    ],
    "matrices": [
        (MATRIX, MATRIX.replace("pmatrix", "bmatrix"), 1), (MATRIX, MATRIX.replace("4", "5"), 0),
        (MATRIX, r"\begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}", 0), (MATRIX, "10", 0),
        (r"\begin{pmatrix} 1/2 \\ 3 \end{pmatrix}", r"\begin{pmatrix} 0.5 \\ 3 \end{pmatrix}", 1),
        (r"\begin{pmatrix} 1/2 \\ 3 \end{pmatrix}", r"\begin{pmatrix} 0.5 & 3 \end{pmatrix}", 0),
    ],
    "equations": [
        ("x = 5", "5", 1), ("5", "x = 5", 1), ("x=5", "y=5", 0), ("x=5", "x=6", 0), ("x=5", "6", 0),
        ("y=2x+1", "2x+1", 1), ("y = 2x+1", "y - 2x = 1", 1), ("x^2+y^2=1", "y^2 + x^2 = 1", 1),
        ("x^2+y^2=1", "x^2-y^2=1", 0), ("f(x)=x^2", "x^2", 1), ("f(x)=x^2", "x^3", 0),
    ],
    "text": [
        (r"\text{Evelyn}", "Evelyn", 1), (r"\text{Evelyn}", r"\text{evelyn}", 1), ("Evelyn", r"\text{ Evelyn }", 1),
        (r"\text{Evelyn}", r"\text{Carla}", 0), ("Evelyn", r"\mathrm{Evelyn}", 1), ("even", r"\text{even}", 1),
        ("even", "odd", 0), (r"\text{even}", r"\text{odd}", 0), ("Yes", "No", 0), (r"\text{Yes}", r"\textbf{yes}", 1),
        (r"\text{no solution}", r"\text{No solution}", 1), (r"\text{no solution}", "0", 0),
        ("east", r"\text{north}", 0), (r"\text{Monday}", "Monday", 1), ("!!", "!!", 1), ("!!", "??", 0),
    ],
    "letters": [
        ("C", "C", 1), ("(C)", "C", 1), ("C", "(C)", 1), ("C", r"\text{(C)}", 1), (r"\text{(C)}", r"\textbf{C}", 1),
        ("C", "D", 0), ("(C)", "(D)", 0), ("C", r"\text{D}", 0), ("A", "A, B", 0), ("E", "E", 1), ("E", "D", 0),
        ("D", "d", 1),
    ],
    "expressions": [
        ("x^2+2x+1", "(x+1)^2", 1), ("x^2+2x+1", "x^2+2x", 0), ("a+b", "b+a", 1), ("x^3+3x", "3x + x^{3}", 1),
        (r"\frac{1}{x-1}", r"\frac{-1}{1-x}", 1), (r"\sin^2 x + \cos^2 x", "1", 1), ("2^n", "2^{n+1}", 0),
        ("ab", "ba", 1), (r"e^{2x}", r"e^{x} \cdot e^{x}", 1), (r"\ln 4", r"2\ln 2", 1), ("x+1", "y+1", 0),
        ("3+4i", "4i+3", 1), ("3+4i", "3-4i", 0), ("2e-1", "2e - 1", 1), (r"\binom{5}{2}", "10", 1), ("5!", "120", 1),
        ("2^{10}", "1024", 1),
    ],
    "constants": [
        (r"\pi", r"\pi", 1), (r"\pi", "π", 1), (r"2\pi", r"\pi", 0), (r"2\pi", "6.28", 0),
        (r"\sqrt{8}", r"2\sqrt{2}", 1), (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt2}", 1), (r"3\sqrt3", r"\sqrt{28}", 0),
        (r"\infty", "∞", 1), (r"-\infty", r"\infty", 0), (r"\sqrt[3]{8}", "2", 1), (r"\frac{\pi}{6}", r"30^\circ", 0),
    ],
    "scientific": [
        (r"1.4 \times 10^{3}", "1400", 1), (r"1.4 \times 10^{3}", "1.4e3", 1),
        (r"1.4 \times 10^3", r"1.4 \cdot 10^3", 1), ("7.9e5", "790000", 1), ("7.9e5", r"7.9 \times 10^{5}", 1),
        ("7.9e5", r"7.9 \times 10^{6}", 0), ("1e-07", r"10^{-7}", 1), ("7.9e5", "790,000", 1), ("1E5", "100000", 1),
        ("4.5e33", r"4.5 × 10^{33}", 1), ("4.5e33", r"4.6 \times 10^{33}", 0), ("6.6e-27", r"6.6 \times 10^{-27}", 1),
        ("6.6e-27", r"6.7 \times 10^{-27}", 0), ("6.6e-27", "0", 0), ("0", "1e-12", 0),
        (r"6.6 \times 10^{-27}", r"6.7 \times 10^{-27}", 0), ("3.3e-12", r"5 \times 10^{-12}", 0),
        ("2.5e-2", "0.025", 1),
    ],
    "dollars": [
        ("$5$", "5", 1), ("5", "$5$", 1), (r"$\frac{1}{2}$", "0.5", 1), (r"$$x+1$$", "1+x", 1), ("$5$", "$6$", 0),
    ],
    "worked solutions": [
        (r"We have $2+2=4$, so $x = \boxed{4}$.", "4", 1), (r"so $x = \boxed{4}$.", "5", 0),
        (r"\boxed{3}, or \boxed{4}", "4", 1), (r"\boxed{3}, or \boxed{4}", "3", 0),
        (r"\boxed{7.9e5} \mathrm{~m}", r"7.9 \times 10^5 \mathrm{~m}", 1),
    ],
    "numbers, not text": [
        (5, "5", 1), (5, "6", 0), (2.5, r"\frac52", 1), (5.0, "5", 1), (1e-07, r"10^{-7}", 1), (np.int64(7), "7", 1),
        (np.float64(0.5), "1/2", 1), (-3, "-3", 1),
    ],
}  # fmt: skip


def boxed(answer: str) -> str:
    return rf"So the answer is \boxed{{{answer}}}."


@pytest.mark.parametrize("shape", SHAPES)
def test_grades_as_a_human_would(shape):
    wrong = []
    for truth, answer, right in SHAPES[shape]:
        result = compute_score("test", boxed(answer), truth)
        if result != {"score": right, "acc": right, "answer_found": 1.0, "grading_failed": 0.0}:
            wrong.append((truth, answer, result))
    assert not wrong


@pytest.mark.parametrize("truth", [row[0] for rows in SHAPES.values() for row in rows if row[2]])
def test_a_truth_is_right_itself(truth):
    answer = truth if r"\boxed" in str(truth) else boxed(str(truth))
    assert compute_score("test", answer, truth)["score"] == 1.0


@pytest.mark.parametrize(
    "response, score, found",
    [
        (r"\boxed{1} and then \boxed{4}", 1, 1),
        (r"\boxed{4} and then \boxed{1}", 0, 1),
        (r"\boxed{\boxed{4}}", 1, 1),
        (r"\boxed{1, \boxed{4}}", 1, 1),
        (r"\boxed{4, \boxed{1}}", 0, 1),
        (r"\boxed{4} and \boxed{1", 1, 1),
        (r"\boxed{1 and \boxed{4}", 1, 1),
        (r"\boxed {4}", 1, 1),
        (r"\boxed 4", 0, 0),
        (r"\fbox{4}", 0, 0),
        (r"\boxed{1, \fbox{4}}", 0, 1),
        (r"\boxed{\fbox{4}}", 1, 1),
        (r"\boxed{}", 0, 1),
        (r"\boxed{4", 0, 0),
        ("4", 0, 0),
        ("", 0, 0),
        (r"\boxed{garbage $4$ garbage}", 0, 1),
        (r"\boxed{The final answer is $4$. I hope it is correct}", 0, 1),
        ("\\boxed{4}\0\ud800", 1, 1),
        ("\\boxed{1}" * 50_000 + "\\boxed{4}" + "\\boxed{" * 50_000, 1, 1),
    ],
)
def test_the_last_complete_box_is_graded(response, score, found):
    result = compute_score("test", response, "4")
    assert list(result) == KEYS
    assert all(type(value) is float for value in result.values())
    assert list(result.values()) == [score, score, found, 0]


@pytest.mark.parametrize("truth", [None, "", "  ", "$$", r"\boxed{}", float("nan"), np.float32("nan"), ["5"], {"a": 5}])
def test_a_missing_ground_truth_names_its_data(truth):
    with pytest.raises(ValueError, match="ground_truth of data source 'some/data'"):
        compute_score("some/data", boxed("5"), truth)


def test_takes_what_verl_passes_and_nothing_else():
    given = {"extra_info": {"index": 1}, "reward_router_address": "host:1", "reward_model_tokenizer": None}
    assert compute_score(data_source="test", solution_str=boxed("5"), ground_truth="5", **given)["score"] == 1.0
    with pytest.raises(TypeError, match="timeout"):
        compute_score("test", boxed("5"), "5", timeout=5)


@given(st.text(st.characters(), max_size=40) | st.from_regex(r"[\d\\ ,;e.+%~$\-]{0,40}", fullmatch=True))
def test_cleaning_never_fails(text):
    assert isinstance(cleaned(text), str)


LONG = ["1e9", "9", "1 000", "$", "1 2/", "{}", r"\frac12", "\0", "\\", "é\ud800", "5" + " " * 999]


@pytest.mark.parametrize("text", LONG)
def test_long_answers_are_not_parsed(text):
    text = text * (1_000_000 // len(text))
    assert list(compute_score("test", boxed(text), "5").values()) == [0, 0, 1, 0]  # no limit was met
    assert compute_score("test", boxed(text + "7"), text + "7")["score"] == 1.0


@pytest.mark.parametrize("answer", [r"0.\overline{%s}", "%s", r"\frac{%s}{7}", "0.%s", "7e%s", r"%s\text{ cm}"])
def test_a_number_longer_than_python_converts_is_wrong_and_no_fault(answer):
    """Such an answer is let through where a truth is long itself; a fault would end the run."""
    truth = "x+" * 2500 + "1"
    assert compute_score("test", boxed(answer % ("3" * 4500)), truth)["score"] == 0.0


@pytest.mark.parametrize("nested", ["(%s)", "{%s}", r"\sqrt{%s}", r"\frac{1}{1+%s}"])
def test_deep_answers_are_not_parsed_unless_the_truth_is(nested):
    shallow, deep, endless = "0.50", "0.50", "0.50"
    for _ in range(4):
        shallow = nested % shallow
    for _ in range(grader.MAX_DEPTH + 1):
        deep = nested % deep
    for _ in range(100):
        endless = nested % endless
    assert compute_score("test", boxed(shallow), shallow.replace("0.50", "1/2"))["score"] == 1.0
    assert list(compute_score("test", boxed(endless), "1/2").values()) == [0, 0, 1, 0]
    assert list(compute_score("test", boxed(deep), "1/2").values()) == [0, 0, 1, 0]
    assert grader._depth(deep) == grader.MAX_DEPTH + 1


def answers():
    return [(str(n), str(n + n % 2) + ".0", float(n % 2 == 0)) for n in range(60)]


def test_threads_get_their_own_verdicts():
    with ThreadPoolExecutor(8) as threads:
        rows = list(threads.map(lambda row: compute_score("test", boxed(row[1]), row[0])["score"], answers()))
    assert rows == [score for *_, score in answers()]


def test_in_an_event_loop_that_goes_on():
    async def grade():
        loop, turns = asyncio.get_running_loop(), 0
        jobs = [loop.run_in_executor(None, compute_score, "test", boxed(row[1]), row[0]) for row in answers()]
        while not all(job.done() for job in jobs):
            await asyncio.sleep(0.01)
            turns += 1
        return [job.result()["score"] for job in jobs], turns

    scores, turns = asyncio.run(grade())
    assert scores == [score for *_, score in answers()]
    assert turns > 3


@pytest.mark.parametrize("answer", [TOWER, r"\binom{99999999999}{9999999}", "((9!)!)!"])
def test_a_hostile_answer_ends_and_is_told_and_the_next_one_is_graded(answer, caplog):
    assert list(compute_score("test", boxed(answer), r"\sqrt{2}").values()) == [0, 0, 1, 1]
    assert f"counted as wrong, as grading did not end well: {answer!r} of test" in caplog.text
    assert compute_score("test", boxed("0.50"), r"\frac12")["score"] == 1.0


def test_the_limits_hold():
    script = """
        import os, signal, tempfile
        from grail_verl.reward import grader
        def ending(deed):
            child = os.fork()
            if child == 0:
                grader._limit()
                try:
                    deed()
                    os._exit(0)
                except (MemoryError, OSError):
                    os._exit(7)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        grader.CPU_SECONDS = 0.3
        print(ending(lambda: bytearray(grader.MEMORY_BYTES)))
        print(ending(lambda: 9 ** 9 ** 9 ** 9) == -signal.SIGPROF)
        grader.WALL_SECONDS = 0.3
        print(ending(lambda: signal.pause()) == -signal.SIGALRM)
        print(ending(lambda: tempfile.TemporaryFile(buffering=0).write(b"x")))
    """
    assert run(script).split() == ["7", "True", "True", "7"]


def grading_processes() -> list[int]:
    return [one._process.pid for one in grader._graders.queue if one]


def test_a_dead_grading_process_is_replaced():
    assert compute_score("test", boxed("0.50"), "1/2")["score"] == 1.0
    before = grading_processes()
    for process in before:
        os.kill(process, signal.SIGKILL)
    assert compute_score("test", boxed("0.50"), "1/2")["score"] == 1.0
    assert not {grading_processes()[-1]} & set(before)


def test_a_grading_process_that_dies_while_it_grades():
    compute_score("test", boxed("0.50"), "1/2")
    results = []
    thread = threading.Thread(target=lambda: results.append(compute_score("test", boxed(TOWER), "1/2")))
    process = grading_processes()[-1]
    thread.start()
    wait_until(lambda: children(process))
    (grading,) = children(process)
    os.kill(process, signal.SIGKILL)
    thread.join(60)
    assert [list(result.values()) for result in results] == [[0, 0, 1, 1]]
    wait_until(lambda: not alive(grading))
    assert compute_score("test", boxed("0.50"), "1/2")["score"] == 1.0


def test_one_that_does_not_start_is_an_error_each_time(monkeypatch):
    monkeypatch.setattr(grader.sys, "executable", "/bin/false")
    grader._no_graders()
    for _ in range(grader.GRADERS + 1):
        with pytest.raises(RuntimeError, match="did not start"):
            compute_score("test", boxed("0.50"), "1/2")
    monkeypatch.undo()
    assert compute_score("test", boxed("0.50"), "1/2")["score"] == 1.0


def test_an_interrupt_leaves_no_verdict_for_the_next_answer(monkeypatch):
    assert compute_score("test", boxed("0.50"), "1/2")["score"] == 1.0

    def interrupted(connection, timeout):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(grader.Connection, "poll", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compute_score("test", boxed("0.50"), "1/2")
    assert compute_score("test", boxed("0.51"), "1/2")["score"] == 0.0


def test_a_forked_process_has_graders_of_its_own():
    script = """
        import os
        from grail_verl import reward
        grade = lambda answer: reward.compute_score("test", "\\\\boxed{%s}" % answer, "1/2")["score"]
        print(grade("0.50"))
        child = os.fork()
        scores = [grade("0.5%d" % (n % 2)) for n in range(1, 30)]
        if child == 0:
            os._exit(scores != [0.0, 1.0] * 14 + [0.0])
        print(scores == [0.0, 1.0] * 14 + [0.0], os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    assert run(script).split() == ["1.0", "True", "0"]


def test_nothing_is_left_when_the_worker_is_killed():
    script = f"""
        import threading, time
        from grail_verl import reward
        for answer in ("0.50", {TOWER!r}, {TOWER!r}):
            threading.Thread(target=reward.compute_score, args=("test", "\\\\boxed{{%s}}" % answer, "1/2")).start()
        time.sleep(600)
    """
    worker = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    try:
        wait_until(lambda: len(children(worker.pid)) == 2 and all(children(p) for p in children(worker.pid)))
        family = [p for process in children(worker.pid) for p in (process, *children(process))]
        assert len(family) == 4
    finally:
        worker.kill()
        worker.wait()
    wait_until(lambda: not any(map(alive, family)))


SCRIPT = r"""
from grail_verl.reward import compute_score
print(compute_score("test", r"\boxed{0.50}", "1/2")["score"])
"""


@pytest.mark.parametrize("way", ["file", "command", "input"])
def test_in_a_script_without_a_main_guard(way, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command, text = {"file": (["script.py"], None), "command": (["-c", SCRIPT], None), "input": (["-"], SCRIPT)}[way]
    options = {"cwd": tmp_path, "env": environment(), "text": True, "capture_output": True, "timeout": 120}
    done = subprocess.run([sys.executable, *command], input=text, **options)
    assert (done.stdout, done.stderr) == ("1.0\n", "")


def test_no_written_text_is_compiled():
    """Python reports what it compiles: of these answers, digits only."""
    script = r"""
        import sys
        from grail_verl.reward.grader import _without_lambdify
        (is_right, _), compiled = _without_lambdify(), []
        sys.addaudithook(lambda event, args: compiled.append(str(args[0])) if event == "compile" else None)
        names = [r"\text{canary}", r"\text{canary[0]}", r"\mathit{canary}", r"\variable{canary()}", "x_{canary(n)}",
                 r"\text{__import__('canary')}", r"\operatorname{canary}(2)", r"\bar{canary}", r"f_{canary}(2)"]
        shapes = ["%s", r"\sum_{n=0}^{\infty} \frac{1+n %s}{n!}-1", r"%s x^5-x+1=0", r"\{%s, 1\}", r"\max(%s, 1)",
                  r"\begin{pmatrix} %s \\ 1 \end{pmatrix}", r"\lim_{x \to 0} %s x", r"\int_0^1 %s x dx", "1 < x < %s"]
        for truth in (r"\sqrt{2}", "x^5=3", r"\{1,2\}"):
            for shape in shapes:
                for name in names:
                    try:
                        is_right(truth, shape % name)
                    except Exception:
                        pass
        print(len(compiled) > 10, [source for source in compiled if "canary" in source])
    """
    assert run(script).split() == ["True", "[]"]


def run(script: str) -> str:
    command = [sys.executable, "-c", textwrap.dedent(script)]
    return subprocess.run(command, env=environment(), text=True, stdout=subprocess.PIPE, check=True, timeout=300).stdout


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(reward.__file__).parents[1])}


def children(process: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        lists = [task.joinpath("children").read_text() for task in Path(f"/proc/{process}/task").iterdir()]
        return [int(child) for child in " ".join(lists).split() if alive(int(child))]
    return []


def alive(process: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited for 60 s"
        time.sleep(0.01)
