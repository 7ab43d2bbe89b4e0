"""The first task of the study: chains of arithmetic modulo 10, with filler and side computations that nothing uses.

`3+4[5*6]-9` asks for ((3+4)-9) mod 10; what stands in brackets is worked out on the way and never used. A solution
says so step by step, ` hm` and the like in between: `3+4=7[5*6=0] hm-9=8 \\boxed{8}`. Which tokens the answer rests on
is known by construction, and so is the first wrong step of a solution with planted mistakes. On the data's way this
stands where a data set does: policy.py imitates its solutions, train.py draws its problems.

Which side a problem is on is decided by a hash of its text: no held-out problem is ever seen in training.
"""

import random
import zlib
from dataclasses import dataclass

OPERATORS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
STEPS, SIDES = 5, 2
FILLER = (" hm", " so", " ok", " well")
RESPONSE_TOKENS = 64  # the longest solution has 48


@dataclass(frozen=True)
class Segment:
    """A piece of a worked solution.

    Attributes:
        text: as written.
        kind: step (the answer rests on it), side (nothing does), filler or answer.
        mistake: its result does not follow from what stands before it.
    """

    text: str
    kind: str
    mistake: bool = False


def held_out(problem: str) -> bool:
    return zlib.crc32(problem.encode()) % 10 == 0


def draw_problem(rng: random.Random, validation: bool = False) -> str:
    while True:
        pieces = [rng.choice("+-*") + str(rng.randint(0, 9)) for _ in range(STEPS)]
        for _ in range(SIDES):
            side = f"[{rng.randint(0, 9)}{rng.choice('+-*')}{rng.randint(0, 9)}]"
            pieces.insert(rng.randint(0, len(pieces)), side)
        problem = str(rng.randint(0, 9)) + "".join(pieces)
        if held_out(problem) == validation:
            return problem


def work_out(problem: str, rng: random.Random | None = None) -> list[Segment]:
    """The worked solution. With a random generator it has filler in it, and mistakes: any result may be one too high,
    and what follows builds on that; in every sixth step, but in three of five multiplications by 7, 8 and 9."""
    segments, result, rest = [Segment(problem[0], "step")], int(problem[0]), problem[1:]
    while rest:
        if rng and rng.random() < 0.25:
            segments.append(Segment(rng.choice(FILLER), "filler"))
        side = rest[0] == "["
        left, operator, right = (int(rest[1]), rest[2], rest[3]) if side else (result, rest[0], rest[1])
        value = OPERATORS[operator](left, int(right)) % 10
        mistake = bool(rng) and rng.random() < (0.6 if operator == "*" and right in "789" else 1 / 6)
        value = (value + mistake) % 10
        text, rest = (f"{rest[:4]}={value}]", rest[5:]) if side else (f"{rest[:2]}={value}", rest[2:])
        segments.append(Segment(text, "side" if side else "step", mistake))
        result = result if side else value
    segments.append(Segment(f" \\boxed{{{result}}}", "answer"))
    return segments


def ground_truth(problem: str) -> str:
    return work_out(problem)[-1].text[-2]


def score(answer: str, problem: str) -> float:
    return float(answer == ground_truth(problem))
