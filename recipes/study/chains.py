"""The first task of the study: chains of arithmetic modulo 10, with filler and side computations that nothing uses.

`3+4[5*6]-9` asks for ((3+4)-9) mod 10; what stands in brackets is worked out on the way and never used. A solution
says so step by step, ` hm` and the like in between: `3+4=7[5*6=0] hm-9=8 \\boxed{8}`. Which tokens the answer rests on
is known by construction, and so is the first wrong step of a solution with planted mistakes. Longer chains, without
side computations, are tasks of their own (tasks.py). On the data's way this stands where a data set does: policy.py
imitates its solutions, train.py draws its problems.
"""

import random
import re
from dataclasses import dataclass

from recipes.study.segments import Reading, Segment, held_out, with_answer

OPERATORS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
FILLER = (" hm", " so", " ok", " well")


@dataclass(frozen=True)
class Chains:
    """Chains of one length.

    Attributes:
        steps: operations that the answer rests on.
        sides: side computations.
        filler_rate: how often filler stands before either, in solutions with mistakes.
        response_tokens: room for the longest solution.
        imitation_steps: of the policy's.
    """

    steps: int = 5
    sides: int = 2
    filler_rate: float = 0.25
    response_tokens: int = 64
    imitation_steps: int = 600

    def draw_problem(self, rng: random.Random, validation: bool = False) -> str:
        while True:
            pieces = [rng.choice("+-*") + str(rng.randint(0, 9)) for _ in range(self.steps)]
            for _ in range(self.sides):
                side = f"[{rng.randint(0, 9)}{rng.choice('+-*')}{rng.randint(0, 9)}]"
                pieces.insert(rng.randint(0, len(pieces)), side)
            problem = str(rng.randint(0, 9)) + "".join(pieces)
            if held_out(problem) == validation:
                return problem

    def work_out(self, problem: str, rng: random.Random | None = None) -> list[Segment]:
        """The worked solution. With a random generator it has filler in it, and mistakes: any result may be one too
        high, and what follows builds on that; in every sixth step, but in three of five multiplications by 7, 8, 9."""
        segments, result, rest = [Segment(problem[0], "step")], int(problem[0]), problem[1:]
        while rest:
            if rng and rng.random() < self.filler_rate:
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

    def ground_truth(self, problem: str) -> str:
        return self.work_out(problem)[-1].text[-2]

    def score(self, answer: str, problem: str) -> float:
        return float(answer == self.ground_truth(problem))

    def read(self, problem: str, text: str) -> Reading | None:
        """The segments of a solution, right or wrong; None, where it is none of this problem in this form."""
        if not text.startswith(problem[0]):
            return None
        reading, at, result = [(Segment(problem[0], "step"), problem[0])], 1, int(problem[0])
        filler = re.compile("|".join(FILLER))
        for operation in re.findall(r"\[\d[-+*]\d\]|[-+*]\d", problem[1:]):
            while match := filler.match(text, at):
                reading.append((Segment(match[0], "filler"), ""))
                at = match.end()
            side = operation[0] == "["
            stem = operation.rstrip("]")
            match = re.compile(rf"{re.escape(stem)}=(\d){re.escape(']' * side)}").match(text, at)
            if match is None:
                return None
            left = int(stem[1]) if side else result
            right = OPERATORS[stem[-2]](left, int(stem[-1])) % 10
            reading.append((Segment(match[0], "side" if side else "step", int(match[1]) != right), str(right)))
            at, result = match.end(), result if side else int(match[1])
        return with_answer(reading, text[at:], r" \\boxed\{(\d+)\}", result)
