"""What a task's worked solution is made of, and on which side a problem is.

Below the tasks (chains.py, legs.py, word_problems.py), which write and read solutions in segments.
"""

import re
import zlib
from dataclasses import dataclass


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


Reading = list[tuple[Segment, str]]  # segments, each with what its result should be


def with_answer(reading: Reading, rest: str, form: str, result: int) -> Reading | None:
    """A reading and its answer, which stands in the form's group; None, where the rest is none."""
    match = re.fullmatch(form, rest)
    return match and [*reading, (Segment(rest, "answer", int(match[1]) != result), str(result))]


def held_out(problem: str) -> bool:
    """By a hash of its text: no held-out problem is ever seen in training."""
    return zlib.crc32(problem.encode()) % 10 == 0
