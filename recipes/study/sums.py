"""The third task of the study: reasoning-gym's chain_sum, with its problems and its verifier, worked out sum by sum.

Of a question its expression is given, `4+3-9`; a solution says `4+3=7; 7-9=-2; \\boxed{-2}`. On the data's way this
stands where a data set does, as chains.py does; a small policy imitates solutions with mistakes (policy.py), a language
model right ones (imitate.py), and makes mistakes of its own.
"""

import random
import re
from dataclasses import dataclass
from functools import cached_property

import reasoning_gym

from recipes.study.segments import Reading, Segment, held_out, with_answer


@dataclass(frozen=True)
class Sums:
    """Sums and differences of so many numbers of one digit.

    Attributes:
        terms: numbers.
        response_tokens: room for the longest solution.
        imitation_steps: of the policy's.
    """

    terms: int
    response_tokens: int
    imitation_steps: int = 600

    @cached_property
    def data(self):
        return reasoning_gym.create_dataset(
            "chain_sum",
            min_terms=self.terms,
            max_terms=self.terms,
            min_digits=1,
            max_digits=1,
            size=10**9,
            seed=0,
        )

    def draw_problem(self, rng: random.Random, validation: bool = False) -> str:
        while True:
            problem = self.data[rng.randrange(10**9)]["metadata"]["expression"].replace(" ", "")
            if held_out(problem) == validation:
                return problem

    def work_out(self, problem: str, rng: random.Random | None = None) -> list[Segment]:
        """The worked solution. With a random generator, any result may be one too high, and what follows builds on
        that; in one of twelve, but in three of five that fall below zero."""
        first, *terms = re.findall(r"[-+]?\d+", problem)
        segments, total = [], int(first)
        for term in terms:
            value = total + int(term)
            mistake = bool(rng) and rng.random() < (0.6 if total >= 0 > value else 1 / 12)
            segments.append(Segment(f"{total}{term}={value + mistake}; ", "step", mistake))
            total = value + mistake
        segments.append(Segment(f"\\boxed{{{total}}}", "answer"))
        return segments

    def example(self, rng: random.Random) -> tuple[str, Reading]:
        """A problem and its right solution, as imitate.py wants them."""
        problem = self.draw_problem(rng)
        return problem, self.read(problem, "".join(segment.text for segment in self.work_out(problem)))

    def ground_truth(self, problem: str) -> str:
        return str(sum(map(int, re.findall(r"[-+]?\d+", problem))))

    def score(self, answer: str, problem: str) -> float:
        return self.data.score_answer(answer, {"answer": self.ground_truth(problem)})

    def read(self, problem: str, text: str) -> Reading | None:
        """As of chains."""
        first, *terms = re.findall(r"[-+]?\d+", problem)
        reading, at, total = [], 0, int(first)
        for term in terms:
            match = re.compile(rf"{re.escape(f'{total}{term}')}=(-?\d+); ").match(text, at)
            if match is None:
                return None
            right, total = total + int(term), int(match[1])
            reading.append((Segment(match[0], "step", total != right), str(right)))
            at = match.end()
        return with_answer(reading, text[at:], r"\\boxed\{(-?\d+)\}", total)
