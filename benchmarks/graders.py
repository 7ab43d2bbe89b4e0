r"""The verdicts of four graders on pairs of ground truth and boxed answer, in one table by kind, and what each costs.

    python benchmarks/graders.py PAIRS.jsonl [--all] [--before CHECKOUT]

A pair is a line of JSON: kind, ground_truth, answer and right (0 or 1, judged by hand). The graders: grail_verl.reward;
math-verify as its documentation shows it; verl's `math_verify`; verl's `prime_math`. A false positive accepts a wrong
answer, a false negative refuses a right one; a grader that raises or takes over 30 s has refused.

--all prints the verdicts on each pair, --before adds the reward of another checkout of this repository, asked in turn
with this one's, so that their times are comparable. The times are the median over the pairs of the median of ROUNDS
verdicts, of wall-clock on a warm grader; what a grader decides without work (equal texts, two integers) counts as well.
"""

import argparse
import json
import os
import select
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

ROUNDS = 3
PATIENCE_SECONDS = 30
OURS, BEFORE = "grail_verl.reward", "before"


def ours(truth: str, answer: str) -> bool:
    from grail_verl.reward import compute_score

    return compute_score("pairs", rf"\boxed{{{answer}}}", truth)["score"] == 1.0


def math_verify(truth: str, answer: str) -> bool:
    from math_verify import parse, verify

    return verify(parse(rf"\boxed{{{truth}}}"), parse(rf"\boxed{{{answer}}}"))


def verl_math_verify(truth: str, answer: str) -> bool:
    from verl.utils.reward_score.math_verify import compute_score

    return compute_score(rf"\boxed{{{answer}}}", truth) == 1.0


def verl_prime_math(truth: str, answer: str) -> bool:
    from verl.utils.reward_score.prime_math import compute_score

    return bool(compute_score(rf"\boxed{{{answer}}}", truth)[0])


GRADERS = {
    OURS: ours, "math-verify": math_verify, "verl math_verify": verl_math_verify, "verl prime_math": verl_prime_math,
}  # fmt: skip


def serve(name: str) -> None:
    """A grader's process: verdicts and seconds for the pairs that come in. Only `replies` is the real output, as
    graders print."""
    with os.fdopen(os.dup(1), "w") as replies:
        os.dup2(2, 1)
        for line in sys.stdin:
            started = time.perf_counter()
            try:
                verdict = GRADERS[name](*json.loads(line))
            except ImportError:
                raise
            except Exception as error:
                print(f"{name}: {error!r} for {line}", file=sys.stderr)
                verdict = False
            print(json.dumps([verdict, time.perf_counter() - started]), file=replies, flush=True)


class Grader:
    """A grader in a process of its own, started again when it takes too long."""

    def __init__(self, name: str, checkout: Path):
        self.command = [sys.executable, __file__, "--serve", OURS if name == BEFORE else name]
        path = os.pathsep.join([str(checkout), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.environment = {**os.environ, "PYTHONPATH": path}
        self.process = None

    def __call__(self, truth: str, answer: str) -> tuple[bool, float]:
        if self.process is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": sys.stderr}
            self.process = subprocess.Popen(self.command, env=self.environment, text=True, **pipes)
            if self._ask(r"\frac{1}{2}", r"\frac12", 10 * PATIENCE_SECONDS) is None:  # imports
                raise SystemExit(f"{self.command} does not start")
        reply = self._ask(truth, answer, PATIENCE_SECONDS)
        if reply is None:
            self.process.kill()
            self.process = None
        return tuple(reply or (False, PATIENCE_SECONDS))

    def _ask(self, truth: str, answer: str, patience: float) -> list | None:
        print(json.dumps([truth, answer]), file=self.process.stdin, flush=True)
        if select.select([self.process.stdout], [], [], patience)[0]:
            return json.loads(self.process.stdout.readline())


def table(header: list[str], rows: list[list]) -> str:
    rows = [header, *[list(map(str, row)) for row in rows]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path, nargs="?")
    parser.add_argument("--all", action="store_true", help="the verdicts on each pair as well")
    parser.add_argument("--before", type=Path, help="another checkout of this repository")
    parser.add_argument("--serve", choices=GRADERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve)
    pairs = [json.loads(line) for line in options.pairs.read_text().splitlines() if line.strip()]
    here = Path(__file__).resolve().parents[1]
    graders = {name: Grader(name, here) for name in GRADERS}
    if options.before:
        graders[BEFORE] = Grader(BEFORE, options.before)

    faults, costs, verdicts = Counter(), {name: [] for name in graders}, []
    for pair in pairs:
        times, row = {name: [] for name in graders}, {}
        for _ in range(ROUNDS):
            for name, grader in graders.items():
                row[name], seconds = grader(pair["ground_truth"], pair["answer"])
                times[name].append(seconds)
        for name, verdict in row.items():
            costs[name].append(statistics.median(times[name]))
            if verdict != bool(pair["right"]):
                faults[pair["kind"], name, verdict] += 1
        verdicts.append([pair["kind"], pair["ground_truth"], pair["answer"], pair["right"], *map(int, row.values())])

    names = list(graders)
    if options.all:
        print(table(["kind", "ground truth", "answer", "right", *names], verdicts), end="\n\n")
    print("false positives / false negatives\n")
    kinds = list(dict.fromkeys(pair["kind"] for pair in pairs))
    rows = []
    for kind in kinds:
        right = [pair["right"] for pair in pairs if pair["kind"] == kind]
        counts = [f"{faults[kind, name, True]} / {faults[kind, name, False]}" for name in names]
        rows.append([kind, right.count(0), right.count(1), *counts])
    sums = [
        " / ".join(str(sum(faults[kind, name, verdict] for kind in kinds)) for verdict in (True, False))
        for name in names
    ]
    right = [pair["right"] for pair in pairs]
    rows.append(["all", right.count(0), right.count(1), *sums])
    medians = [f"{1000 * statistics.median(costs[name]):.1f}" for name in names]
    print(table(["kind", "wrong", "right", *names], [*rows, ["median ms", "", "", *medians]]))


if __name__ == "__main__":
    main()
