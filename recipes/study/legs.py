"""The second task of the study: reasoning-gym's leg_counting, with its problems and its verifier.

Of a question its list is given, `2 crabs, 3 cows?`; what stands before it is the same in all. A solution recalls each
animal's legs, multiplies and adds up: `2 crab 2*10=20 20; 3 cow 3*4=12 32; \\boxed{32}`. Demonstrations make
mistakes: of fact for some animals more often than not, of arithmetic now and then. On the data's way this stands where
a data set does, as chains.py does.
"""

import random
import re
from dataclasses import dataclass
from functools import cached_property

import reasoning_gym
from reasoning_gym.arithmetic.leg_counting import ANIMALS

from recipes.study.segments import Reading, Segment, held_out, with_answer

MISREMEMBERED = {"crab": 8, "lobster": 8, "starfish": 6, "spider": 6, "insect": 8, "bee": 4, "bird": 4, "snake": 2}


def animals(problem: str) -> list[tuple[int, str]]:
    found = re.findall(r"(\d+) ([a-z ]+)[,?]", problem)
    return [(int(count), name if name in ANIMALS else name.removesuffix("s")) for count, name in found]


@dataclass(frozen=True)
class Legs:
    """Questions after so many animals.

    Attributes:
        least, most: animals.
        response_tokens: room for the longest solution.
        imitation_steps: of the policy's.
    """

    least: int = 3
    most: int = 4
    response_tokens: int = 96
    imitation_steps: int = 400

    @cached_property
    def data(self):
        return reasoning_gym.create_dataset(
            "leg_counting",
            min_animals=self.least,
            max_animals=self.most,
            min_instances=1,
            max_instances=5,
            size=10**9,
            seed=0,
        )

    def draw_problem(self, rng: random.Random, validation: bool = False) -> str:
        while True:
            problem = self.data[rng.randrange(10**9)]["question"].rpartition("if you have ")[2].strip()
            if held_out(problem) == validation:
                return problem

    def work_out(self, problem: str, rng: random.Random | None = None) -> list[Segment]:
        segments, total = [], 0
        for count, name in animals(problem):
            legs = ANIMALS[name]
            if wrong_fact := bool(rng) and rng.random() < (0.6 if name in MISREMEMBERED else 0.0):
                legs = MISREMEMBERED[name]
            segments.append(Segment(f"{count} {name} {count}*{legs}", "step", wrong_fact))
            slips = [bool(rng) and rng.random() < 1 / 16 for _ in range(2)]
            product = count * legs + 2 * slips[0]
            segments.append(Segment(f"={product}", "step", slips[0]))
            total += product + 10 * slips[1]
            segments.append(Segment(f" {total}; ", "step", slips[1]))
        segments.append(Segment(f"\\boxed{{{total}}}", "answer"))
        return segments

    def ground_truth(self, problem: str) -> str:
        return str(sum(count * ANIMALS[name] for count, name in animals(problem)))

    def score(self, answer: str, problem: str) -> float:
        return self.data.score_answer(answer, {"answer": self.ground_truth(problem)})

    def read(self, problem: str, text: str) -> Reading | None:
        """As of chains."""
        reading, at, total = [], 0, 0
        for count, name in animals(problem):
            match = re.compile(rf"({count} {name} {count}\*(\d+))(=(\d+))( (\d+); )").match(text, at)
            if match is None:
                return None
            legs, product, new_total = (int(match[group]) for group in (2, 4, 6))
            rights = ANIMALS[name], count * legs, total + product
            for piece, number, right in zip(match.group(1, 3, 5), (legs, product, new_total), rights, strict=True):
                reading.append((Segment(piece, "step", number != right), str(right)))
            at, total = match.end(), new_total
        return with_answer(reading, text[at:], r"\\boxed\{(\d+)\}", total)
