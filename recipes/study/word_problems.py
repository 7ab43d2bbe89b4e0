"""Word problems whose used sums, unused sums and filler are known by construction, for a language model that reads.

    Anna has 14 coins. Ben has 3 boxes of 5 cards. Anna buys 2 bags of 6 coins. How many coins does Anna have now?

Beside chains.py and legs.py, for hop_variants.py, imitate.py and train.py. A solution goes through the story sentence
by sentence, side sums of other people's things included, with filler in between and mistakes as in chains.py: any
result may be one too high, and what follows builds on that. It is given with the problem; what a policy writes itself
is graded and not read back.
"""

import random
import re
from dataclasses import dataclass, replace

from recipes.study.segments import Reading, Segment, held_out

NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Frank")
THINGS = ("coins", "cards", "apples", "books", "stamps", "shells")
PACKS = ("bags", "boxes", "packs")
FILLER = (" Let us go on.", " So far so good.", " Let me think.", " Now the next sentence.")
EVENTS, SIDES = 2, 2
FILLER_RATE, MISTAKE_RATE = 0.25, 1 / 6


def draw(rng: random.Random, validation: bool = False) -> tuple[str, Reading]:
    """A problem, and its solution's segments, each with what its result should be."""
    while True:
        problem, reading = _draw(rng)
        if held_out(problem) == validation:
            return problem, reading


def _draw(rng: random.Random) -> tuple[str, Reading]:
    (name, *others), (thing, *other_things) = rng.sample(NAMES, 1 + SIDES), rng.sample(THINGS, 1 + SIDES)
    total = rng.randint(11, 30)
    story, reading = [f"{name} has {total} {thing}."], []

    def write(before: str, left: int, operator: str, right: int, after: str, kind: str = "step") -> int:
        """A sentence with a result, filler before it now and then; the result as it is written."""
        if rng.random() < FILLER_RATE:
            reading.append((Segment(rng.choice(FILLER), "filler"), ""))
        value = {"+": left + right, "-": left - right, "*": left * right}[operator]
        mistake = rng.random() < MISTAKE_RATE
        text = f" {before} {left} {operator} {right} = {value + mistake} {after}."
        reading.append((Segment(text, kind, mistake), str(value)))
        return value + mistake

    sides = list(zip(others, other_things, strict=True))
    for side in rng.sample([False] * EVENTS + [True] * SIDES, EVENTS + SIDES):
        count, each, pack = rng.randint(2, 5), rng.randint(2, 9), rng.choice(PACKS)
        if side:
            other, other_thing = sides.pop()
            story.append(f"{other} has {count} {pack} of {each} {other_thing}.")
            write(f"{other} has", count, "*", each, other_thing, "side")
        elif rng.random() < 0.6:
            story.append(f"{name} buys {count} {pack} of {each} {thing}.")
            bought = write(f"{name} buys", count, "*", each, thing)
            total = write(f"Now {name} has", total, "+", bought, thing)
        else:
            story.append(f"{name} gives {each} {thing} away.")
            total = write(f"Now {name} has", total, "-", each, thing)
    (opening, right), *_ = reading
    reading[0] = replace(opening, text=opening.text.lstrip()), right
    reading.append((Segment(f" The answer is \\boxed{{{total}}}", "answer"), str(total)))
    return f"{' '.join(story)} How many {thing} does {name} have now? Answer in \\boxed{{}}.", reading


@dataclass(frozen=True)
class WordProblems:
    """As a task to train on.

    Attributes:
        response_tokens: SmolLM2's; the longest of 1000 solutions has 119.
    """

    response_tokens: int = 128

    def draw_problem(self, rng: random.Random, validation: bool = False) -> str:
        return draw(rng, validation)[0]

    def example(self, rng: random.Random) -> tuple[str, Reading]:
        """A problem and a solution with mistakes, as imitate.py wants them."""
        return draw(rng)

    def ground_truth(self, problem: str) -> str:
        """What the story's first person has, bought and gave away."""
        name, total = re.match(r"(\w+) has (\d+)", problem).groups()
        bought = re.findall(rf"{name} buys (\d+) \w+ of (\d+)", problem)
        given = re.findall(rf"{name} gives (\d+)", problem)
        return str(int(total) + sum(int(count) * int(each) for count, each in bought) - sum(map(int, given)))

    def score(self, answer: str, problem: str) -> float:
        return float(answer == self.ground_truth(problem))
