"""Relations as answers: labels (x = 5 is 5), equations, inequalities.

On the grader's way: text → tokens → parts → values → *verdict*. What stands on the sides is compared by `same`,
verdict.py's own comparison of two parts, which comes to these functions as an argument.
"""

import re
from collections.abc import Callable

import sympy

from grail_verl.reward.parts import (
    INEQUALITIES,
    Bracket,
    Choice,
    Operation,
    Qualified,
    Relation,
    Several,
    Value,
    is_name,
)
from grail_verl.reward.quantities import are_unequal_numbers, is_rounded
from grail_verl.reward.sets import real_set, same_sets, variables
from grail_verl.reward.values import Unread, is_zero, value

Same = Callable[[object, object], bool]


def label(relation: Relation) -> tuple[str, ...] | None:
    """The name whose value the last side is, None if it is no such relation."""
    if not set(relation.signs) <= {"=", "~", "in"} or not is_name(relation.names[0]):
        return None
    return relation.names[0]


def _interval(relation: Relation) -> Bracket | None:
    """a < x < b as an interval, whatever its ends are."""
    if len(relation.signs) != 2 or not is_name(relation.names[1]) or "^" in relation.names[1]:
        return None
    low, _, high = relation.sides
    first, second = relation.signs
    if {first, second} <= {">", ">="}:
        low, high, first, second = high, low, second.replace(">", "<"), first.replace(">", "<")
    if not {first, second} <= {"<", "<="}:
        return None
    return Bracket("[" if first == "<=" else "(", (low, high), "]" if second == "<=" else ")")


def is_labelled(truth, answer: Relation, same: Same) -> bool:
    """The truth is without a label; the answer is, say, x = 5."""
    if (interval := _interval(answer)) and same(truth, interval):
        return True
    if set(answer.signs) <= INEQUALITIES | {"!="}:
        return same_sets(real_set(truth), real_set(answer))
    if not set(answer.signs) <= {"=", "~", "in"}:
        return False
    names = answer.names[0]
    if len(names) == 1 and names[0] in answer.names[-1] and len(answer.sides) == 2:
        return False  # x = x^2 says nothing of x
    if _contradicts_itself(answer):
        return False
    if "~" in answer.signs:
        before = answer.sides[answer.signs.index("~")]
        if not (answer.signs[0] == "~" and is_name(names)):
            rounded = is_rounded(before, answer.sides[-1])
            if rounded is not False and same(truth, before):
                return True
            if not rounded:
                return False
    return same(truth, answer.sides[-1])


def _contradicts_itself(relation: Relation) -> bool:
    """4 = 5, or 6 = x = 5."""
    equal: list = []
    for side, sign in zip(relation.sides, ("=", *relation.signs)):
        if sign == "=" and any(are_unequal_numbers(one, side) for one in equal):
            return True
        equal = [*equal, side] if sign == "=" else [side]
    return False


def is_unlabelled(truth: Relation, answer, same: Same) -> bool:
    """The truth is, say, x = 5; the answer is without a label."""
    if (interval := _interval(truth)) and same(interval, answer):
        return True
    if set(truth.signs) <= INEQUALITIES | {"!="}:
        return same_sets(real_set(truth), real_set(answer))
    return label(truth) is not None and same(truth.sides[-1], answer)


def same_relations(truth: Relation, answer: Relation, same: Same) -> bool:
    if set(truth.signs) <= INEQUALITIES | {"!="} or set(answer.signs) <= INEQUALITIES | {"!="}:
        return _same_inequalities(truth, answer, same)
    if label(truth) and label(answer):
        if _contradicts_itself(answer):
            return False
        names = truth.names[0], answer.names[0]
        if _are_same_names(*map("".join, names)):
            if same(truth.sides[-1], answer.sides[-1]):
                return True
        else:
            renamed = _renamed(truth, answer)
            if renamed is not None:
                return same(truth.sides[-1], renamed)
    if truth.signs == answer.signs and truth.signs in (("in",), ("==",), ("sub",), ("subeq",), ("->",), ("sim",)):
        return all(map(same, truth.sides, answer.sides))
    if truth.signs == answer.signs == ("=",):
        return _same_equations(truth, answer)
    return False


def is_solved(part) -> bool:
    """No inequality is left to be solved: that would be the question."""
    match part:
        case Several() | Operation():
            return all(map(is_solved, part.items))
        case Qualified():
            return is_solved(part.part)
        case Choice():
            return is_solved(part.content)
        case Relation() if set(part.signs) <= INEQUALITIES:
            return _stands_alone(part)
    return True


def _stands_alone(relation: Relation) -> bool:
    """A side is a variable or its absolute value, which the other sides are without."""
    for name in relation.names:
        bare = name[1:-1] if name[0] == name[-1] == "|" and len(name) > 2 else name
        others = [other for other in relation.names if other != name]
        if is_name(bare) and "^" not in bare and not any(bare[0] in other for other in others):
            return True
    return False


def _are_same_names(one: str, other: str) -> bool:
    """y(t) is y as well, but not y(s)."""
    return one == other or one.partition("(")[0] == other or other.partition("(")[0] == one


def _renamed(truth: Relation, answer: Relation):
    """The answer's value with the truth's variable, where both are functions: f(x) = 2x and f(t) = 2t."""
    names = ["".join(relation.names[0]) for relation in (truth, answer)]
    heads = [re.fullmatch(r"(.+)\(([a-zA-Z])\)", name) for name in names]
    if not all(heads) or heads[0][1] != heads[1][1] or not isinstance(answer.sides[-1], Value):
        return None
    old, new = heads[1][2], heads[0][2]
    if new in answer.sides[-1].tokens:
        return None
    return Value(tuple(new if token == old else token for token in answer.sides[-1].tokens), answer.sides[-1].unit)


def _difference(relation: Relation):
    left, right = relation.sides
    if not (isinstance(left, Value) and isinstance(right, Value)):
        raise Unread(relation)
    left, right = value(left.tokens), value(right.tokens)
    if not (isinstance(left, sympy.Expr) and isinstance(right, sympy.Expr)):
        raise Unread(relation)
    return (left - right).doit()


def _same_equations(truth: Relation, answer: Relation) -> bool:
    """One is a multiple of the other by a number that is not zero.

    Where the truth is x = 5, x - 5 = 0 says it as well, but 2x + 4 = 14 is the question.
    """
    factor = _factor(_difference(truth), _difference(answer))
    if factor is not None and label(truth) and not value(truth.sides[-1].tokens).free_symbols:
        return ("0",) in answer.names and abs(factor) == 1
    return factor is not None


def _factor(one, other):
    if one.free_symbols != other.free_symbols or not one.free_symbols:
        return None
    points = [{s: sympy.Rational(17 * n + 5, 7 * n + 11) for n, s in enumerate(sorted(one.free_symbols, key=str))}]
    ratio = sympy.nsimplify((one.xreplace(points[0]) / other.xreplace(points[0])).doit())
    if not ratio.is_number or ratio.is_zero or not ratio.is_finite:
        return None
    return ratio if is_zero(one - ratio * other) else None


def _same_inequalities(truth: Relation, answer: Relation, same: Same) -> bool:
    one, other = real_set(truth), real_set(answer)
    if one is not None and other is not None:
        return variables(truth) == variables(answer) and same_sets(one, other)
    if len(truth.signs) != 1 or len(answer.signs) != 1:
        return truth.signs == answer.signs and all(map(same, truth.sides, answer.sides))
    factor = _factor(_difference(truth), _difference(answer))
    if factor is None or not factor.is_real:
        return False
    flipped = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!="}
    return (truth.signs[0] if factor.is_positive else flipped.get(truth.signs[0])) == answer.signs[0]
