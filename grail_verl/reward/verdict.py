r"""Whether an answer is the truth: parts compared with parts.

On the grader's way: text → tokens → parts → values → *verdict*. Where two parts are of different kinds (an interval and
an inequality, a set and a list, an equation and its right side) this says which of them mean the same; docs/reward.md
has the list. What is not decided is wrong. quantities.py compares values, sets.py sets, relations.py relations.
"""

import sympy

from grail_verl.reward.parts import (
    LETTERS,
    Based,
    Bracket,
    Choice,
    Operation,
    Phrase,
    Qualified,
    Ratio,
    Relation,
    Several,
    Value,
)
from grail_verl.reward.quantities import base_of, is_computed, is_remainder, is_time, quotient, same_ratios, same_values
from grail_verl.reward.reading import read
from grail_verl.reward.relations import is_labelled, is_solved, is_unlabelled, label, same_relations
from grail_verl.reward.sets import is_set, real_set, same_sets
from grail_verl.reward.units import unit_name
from grail_verl.reward.values import equal, value


def is_right(truth: str, answer: str) -> bool:
    """The answer means what the truth means. What cannot be read is wrong."""
    try:
        one, other = read(truth, answer), read(answer, truth)
        if is_solved(one) and not is_solved(other):
            return False
        return _same(one, other) or _same_choices(one, other)
    except ValueError:  # Unread is one
        return False


def _same_choices(truth, answer) -> bool:
    """A letter of a multiple choice, whose case does not matter."""
    letter = _letter(truth)
    return letter is not None and isinstance(answer, Value) and answer.tokens == (letter.lower(),)


def is_read(truth: str) -> bool:
    """Something is read from the truth: mathematics, or a few words."""
    try:
        return _is_read(read(truth))
    except ValueError:
        return False


def _is_read(part) -> bool:
    match part:
        case Value():
            value(part.tokens)
            return True
        case Phrase():
            return len(part.parts) <= 6
        case Several() | Bracket() | Operation() | Ratio():
            return all(map(_is_read, part.items))
        case Relation():
            return _is_read(part.sides[-1])
        case Qualified():
            return _is_read(part.part)
        case Choice():
            return _is_read(part.content)
        case _:
            return True


def _same(truth, answer) -> bool:
    if truth == answer or (_letters(truth) and _letters(truth) == _letters(answer)):
        return True
    match truth, answer:
        case Qualified(), Qualified():
            return _same_domains(truth, answer) and _same(truth.part, answer.part)
        case Qualified(), _:
            return _same(truth.part, answer)
        case _, Qualified():
            return _same(truth, answer.part)
        case Choice(), Choice():
            return truth.letter == answer.letter and _same(truth.content, answer.content)
        case Choice(), _:
            return _letter(answer) == truth.letter or _same(truth.content, answer)
        case _, Choice():
            return _letter(truth) == answer.letter or (_letter(truth) is None and _same(truth, answer.content))
        case Relation(), Relation():
            return same_relations(truth, answer, _same)
        case Relation(), _:
            return is_unlabelled(truth, answer, _same)
        case _, Relation():
            return is_labelled(truth, answer, _same)
        case Phrase(), Phrase():
            return len(truth.parts) == len(answer.parts) and (
                all(map(_same_words, truth.parts, answer.parts))
                or (len(truth.parts) == 2 and all(map(_same_words, truth.parts, reversed(answer.parts))))  # odd n
            )
        case _, Phrase((Value() as rest, "mod", Value() as modulus)):  # 5 (mod 7) is a way to say 5
            return is_remainder(rest, modulus) and _same(truth, rest)
        case Ratio(), Phrase((above, "to", below)):
            return _same(truth, Ratio((above, below)))
        case (Phrase(), _) | (_, Phrase()):
            return False
        case Based(), Based():
            return truth.digits == answer.digits and base_of(truth.base) == base_of(answer.base)
        case Based(), Value():
            return answer.tokens[0].lstrip("0") == truth.digits and len(answer.tokens) == 1
        case Ratio(), Ratio():
            return same_ratios(truth, answer)
        case (Ratio(), Value()) | (Value(), Ratio()):
            ratio, number = (truth, answer) if isinstance(truth, Ratio) else (answer, truth)
            return len(ratio.items) == 2 and not is_time(ratio) and _same(quotient(ratio), number)
        case Value(), Value():
            return (is_computed(answer) or not is_computed(truth)) and same_values(truth, answer)
    sets = real_set(truth), real_set(answer)
    if None not in sets and any(map(is_set, (truth, answer))):
        return same_sets(*sets)
    match truth, answer:
        case Several(), Several():
            return _same_lists(truth, answer)
        case (Several(), Value()) | (Value(), Several()):
            several, one = (truth, answer) if isinstance(truth, Several) else (answer, truth)
            return len(several.items) == 1 and not is_set(several.items[0]) and _same(several.items[0], one)
        case Bracket(), Bracket():
            return (
                _brackets(truth) == _brackets(answer)
                and len(truth.items) == len(answer.items)
                and all(map(_same, truth.items, answer.items))
            )
        case (Bracket(), Value()) | (Value(), Bracket()):
            return _same_vectors(truth, answer)
        case (Bracket(), Several()) | (Several(), Bracket()):
            return _same_points(truth, answer)
        case Operation(), Operation():
            return truth.sign == answer.sign and _matched(truth.items, answer.items, truth.sign in (r"\setminus", "|"))
    return False


def _same_domains(truth, answer) -> bool:
    domains = [[q for q in part.qualifiers if isinstance(q, Relation)] for part in (truth, answer)]
    return not all(domains) or _matched(*domains)


def _letter(part) -> str | None:
    return part.tokens[0] if isinstance(part, Value) and len(part.tokens) == 1 and part.tokens[0] in LETTERS else None


def _letters(part) -> list[str]:
    """Several letters of a multiple choice: B, D or BD."""
    match part:
        case Several():
            found = [_letter(item) or "" for item in part.items]
        case Value(tokens, ()):
            found = list(tokens)
        case Phrase((str() as word,)):
            found = list(word.upper())
        case _:
            return []
    return sorted(found) if LETTERS.issuperset(found) and len(set(found)) == len(found) > 1 else []


def _same_words(one, other) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return one == other or (isinstance(one, str) and isinstance(other, str) and _same_units(one, other))
    return _same(one, other)


def _same_units(one: str, other: str) -> bool:
    return unit_name(one) is not None and unit_name(one) == unit_name(other)


# Lists, points and vectors


def _brackets(bracket: Bracket) -> tuple[str, str]:
    return tuple({r"\langle": "(", r"\rangle": ")"}.get(side, side) for side in (bracket.left, bracket.right))


def _matched(truths, answers, ordered: bool = False) -> bool:
    if len(truths) != len(answers):
        return False
    if ordered:
        return all(map(_same, truths, answers))
    left = list(answers)
    for truth in truths:
        index = next((n for n, answer in enumerate(left) if _same(truth, answer)), None)
        if index is None:
            return False
        del left[index]
    return True


def _labels(part) -> list[tuple[str, ...]]:
    return [label(item) for item in part.items if isinstance(item, Relation) and label(item)]


def _same_lists(truth: Several, answer: Several) -> bool:
    labels = [_labels(part) for part in (truth, answer)]
    several = [len(set(names)) > 1 for names in labels]
    # x = 1, y = 2 against 1, 2: only in this order, and only where the order of names is everybody's
    if any(several) and not all(labels):
        names = max(labels)
        return names == sorted(names) and _matched(truth.items, answer.items, ordered=True)
    dots = [any(isinstance(item, Value) and item.tokens == (r"\ldots",) for item in p.items) for p in (truth, answer)]
    return _matched(truth.items, answer.items, ordered=any(dots))


def _same_points(truth, answer) -> bool:
    """A point against a list: only with names in their order."""
    point, several = (truth, answer) if isinstance(truth, Bracket) else (answer, truth)
    names = _labels(several)
    if len(names) != len(several.items) or names != sorted(names) or "[" in point.left + point.right:
        return False
    return _matched(point.items, [item.sides[-1] for item in several.items], ordered=True)


def _same_vectors(truth, answer) -> bool:
    """A column against a point or vector in a row."""
    bracket, matrix = (truth, answer) if isinstance(truth, Bracket) else (answer, truth)
    column = value(matrix.tokens)
    if not isinstance(column, sympy.MatrixBase | sympy.MatrixExpr) or "[" in bracket.left + bracket.right:
        return False
    column = sympy.Matrix(column.doit())
    if column.cols != 1 or column.rows != len(bracket.items):
        return False
    entries = zip(bracket.items, column.flat())
    return all(isinstance(item, Value) and equal(value(item.tokens), entry) for item, entry in entries)
