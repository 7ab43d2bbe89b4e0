"""Weights that know the truth: what a rule of credit could win at most. Nobody has them but a task made for it.

Between annotate.py, which says what each token of a response is, and train.py, which multiplies GRPO's advantages by
them, as the hook does by a rule's.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from recipes.study.annotate import Annotation

TOTAL = 4.0  # of a wrong response's weights; `total` of the proportional rules beside it


def no_filler(note: Annotation, advantage: float) -> Tensor:
    """(tokens,): 1 where the answer rests on them, and on the answer; 0 on filler and side computations."""
    return torch.tensor([float(note.kind(token) in ("step", "answer")) for token in range(len(note.segment))])


def perfect(note: Annotation, advantage: float) -> Tensor:
    """Of a wrong response the first mistake alone, with all of TOTAL; else every token of a step or the answer, 1."""
    mistakes = [*note.tokens("step", wrong=True), *note.tokens("answer", wrong=True)]
    if advantage > 0 or not mistakes:
        return no_filler(note, advantage)
    weights = torch.zeros(len(note.segment))
    weights[mistakes[0]] = TOTAL
    return weights


WEIGHTS: dict[str, Callable[[Annotation, float], Tensor]] = {"perfect": perfect, "no_filler": no_filler}
