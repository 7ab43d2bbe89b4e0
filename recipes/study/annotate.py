"""What every token of a sampled response is: part of a step the answer rests on, of a side computation, filler, or the
answer; and at which tokens a result departs from what it should be.

Between a policy's response and credit.py. A response is read back, from its text and its problem alone, into the
segments that its task would write. One that leaves the form or copies the problem wrongly has no truth known by
construction: it is None, for the caller to count.
"""

import re
from dataclasses import dataclass
from itertools import accumulate

from recipes.study.segments import Reading, Segment
from recipes.study.tasks import TASKS


@dataclass(frozen=True)
class Annotation:
    """Lists of one entry for each of the response's tokens but the one that ends it.

    Attributes:
        segments: of the response.
        segment: the index of the token's segment.
        result: the token belongs to the number that its step or side computation comes to.
        wrong: it is the token at which such a number departs from the right one.
    """

    segments: list[Segment]
    segment: list[int]
    result: list[bool]
    wrong: list[bool]

    def kind(self, token: int) -> str:
        return self.segments[self.segment[token]].kind

    def tokens(self, kind: str, result: bool = False, wrong: bool = False) -> list[int]:
        """The tokens of a kind; result, wrong: those alone."""
        return [
            token
            for token in range(len(self.segment))
            if self.kind(token) == kind and (self.result[token] or not result) and (self.wrong[token] or not wrong)
        ]


def annotate(task_name: str, problem: str, pieces: list[str]) -> Annotation | None:
    """
    Args:
        task_name: of tasks.py.
        problem: as the task draws it.
        pieces: the texts of the response's tokens without the one that ends it; joined they are its text. A special
            token's text is empty.

    Returns:
        None where the text is not a solution of this problem, right or wrong, in the task's form.
    """
    reading = TASKS[task_name].read(problem, "".join(pieces))
    return None if reading is None or "" in pieces else annotation_of(reading, pieces)


def annotation_of(reading: Reading, pieces: list[str]) -> Annotation:
    """Of a reading whose text the pieces are, none of them empty."""
    segment_of, result_of, wrong_of = [], [], []  # of each character
    for index, (segment, right) in enumerate(reading):
        results = list(re.finditer(r"(?<=[=*])-?\d+|(?<== )\d+|(?<=^ )\d+(?=; )|(?<=\{)-?\d+", segment.text))
        begin, end = results[-1].span() if results else (0, 0)
        departs = _departure(segment.text[begin:end], right) if segment.mistake else None
        for at in range(len(segment.text)):
            segment_of.append(index)
            result_of.append(begin <= at < end)
            wrong_of.append(departs is not None and at == begin + departs)
    starts = accumulate(map(len, pieces), initial=0)
    spans = [(start, start + len(piece)) for start, piece in zip(starts, pieces)]
    return Annotation(
        [segment for segment, _ in reading],
        [segment_of[start] for start, _ in spans],
        [any(result_of[start:end]) for start, end in spans],
        [any(wrong_of[start:end]) for start, end in spans],
    )


def _departure(number: str, right: str) -> int:
    """The first digit at which a number is not the right one; its last where all of them begin the right one."""
    differing = (at for at, (digit, other) in enumerate(zip(number, right)) if digit != other)
    return next(differing, min(len(number), len(right) + 1) - 1)
