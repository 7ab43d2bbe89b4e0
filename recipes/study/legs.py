"""The second task of the study: reasoning-gym's leg_counting, with its problems and its verifier.

Of a question its list is given, `2 crabs, 3 cows?`; what stands before it is the same in all. A solution recalls each
animal's legs, multiplies and adds up: `2 crab 2*10=20 20; 3 cow 3*4=12 32; \\boxed{32}`. Demonstrations make
mistakes: of fact for some animals more often than not, of arithmetic now and then. On the data's way this stands where
a data set does, as chains.py does.
"""

import random
import re

import reasoning_gym
from reasoning_gym.arithmetic.leg_counting import ANIMALS

from recipes.study.chains import Segment, held_out

RESPONSE_TOKENS = 96
MISREMEMBERED = {"crab": 8, "lobster": 8, "starfish": 6, "spider": 6, "insect": 8, "bee": 4, "bird": 4, "snake": 2}
DATA = reasoning_gym.create_dataset(
    "leg_counting", min_animals=3, max_animals=4, min_instances=1, max_instances=5, size=10**9, seed=0
)


def draw_problem(rng: random.Random, validation: bool = False) -> str:
    while True:
        problem = DATA[rng.randrange(10**9)]["question"].rpartition("if you have ")[2].strip()
        if held_out(problem) == validation:
            return problem


def animals(problem: str) -> list[tuple[int, str]]:
    found = re.findall(r"(\d+) ([a-z ]+)[,?]", problem)
    return [(int(count), name if name in ANIMALS else name.removesuffix("s")) for count, name in found]


def work_out(problem: str, rng: random.Random | None = None) -> list[Segment]:
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


def ground_truth(problem: str) -> str:
    return str(sum(count * ANIMALS[name] for count, name in animals(problem)))


def score(answer: str, problem: str) -> float:
    return DATA.score_answer(answer, {"answer": ground_truth(problem)})
