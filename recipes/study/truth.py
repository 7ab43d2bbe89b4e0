"""Weights that know the truth: what a rule of credit could win at most. Nobody has them but a task made for it.

Between annotate.py, which says what each token of a response is, and train.py, which multiplies GRPO's advantages by
them, as the hook does by a rule's. Each takes the response's annotation, whether it is right, and the share of its
group's responses that are.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from recipes.study.annotate import Annotation

TOTAL = 4.0  # of a wrong response's weights; `total` of the proportional rules beside it


def no_filler(note: Annotation, right: bool, rate: float) -> Tensor:
    """(tokens,): 1 where the answer rests on them, and on the answer; 0 on filler and side computations."""
    return torch.tensor([float(note.kind(token) in ("step", "answer")) for token in range(len(note.segment))])


def perfect(note: Annotation, right: bool, rate: float) -> Tensor:
    """Of a wrong response the first mistake alone, with all of TOTAL; else every token of a step or the answer, 1."""
    mistakes = [*note.tokens("step", wrong=True), *note.tokens("answer", wrong=True)]
    if right or not mistakes:
        return no_filler(note, right, rate)
    weights = torch.zeros(len(note.segment))
    weights[mistakes[0]] = TOTAL
    return weights


def by_value(note: Annotation, right: bool, rate: float) -> Tensor:
    """What each result changes of the chance to be right in the end, the sum of a response TOTAL.

    The advantages of a policy that gets every one of n results right with the same chance q, q ** n the group's `rate`,
    and is never right after a mistake: a right result k adds q ** (n - k) - q ** (n - k + 1), a mistake takes away what
    was left. Divided by their sum, right - rate, which GRPO's advantage is a multiple of.
    """
    mistakes = set(note.tokens("step", wrong=True) + note.tokens("answer", wrong=True))
    results = note.tokens("step", result=True) + note.tokens("answer", result=True)
    if not 0 < rate < 1 or right == bool(mistakes):  # no advantage; or the reward says otherwise
        return no_filler(note, right, rate)
    weights, chance = torch.zeros(len(note.segment)), rate
    for token in results:
        after = 0.0 if token in mistakes else chance * rate ** (-1 / len(results))
        weights[token] = (after - chance) / (right - rate) * TOTAL
        chance = after
    return weights


WEIGHTS: dict[str, Callable[[Annotation, bool, float], Tensor]] = {
    "perfect": perfect,
    "no_filler": no_filler,
    "by_value": by_value,
}
