"""Sets of real numbers: intervals, unions, inequalities with one variable, lists of numbers.

On the grader's way: text → tokens → parts → values → *verdict*.
"""

import sympy

from grail_verl.reward.parts import INEQUALITIES, Bracket, Operation, Qualified, Relation, Several, Value, is_name
from grail_verl.reward.values import Unread, equal, value


def is_set(part) -> bool:
    """It is a set for sure: an interval, a union, an inequality; (1, 2) and {1, 2} are other things as well."""
    match part:
        case Bracket():
            return "[" in part.left + part.right or _is_infinite(part)
        case Operation() | Relation():
            return True
        case Several():
            return any(map(is_set, part.items)) and part.joined in ("and", "or")
        case Value():
            return real_set(part) is not None
    return False


def _is_infinite(part: Bracket) -> bool:
    return any(isinstance(item, Value) and r"\infty" in item.tokens for item in part.items)


def real_set(part) -> sympy.Set | None:
    """The set of real numbers that a part is, None if it is none."""
    try:
        return _as_set(part)
    except (Unread, TypeError, NotImplementedError):
        return None


def _as_set(part) -> sympy.Set | None:
    match part:
        case Bracket() if len(part.items) == 2 and part.left in "([" and part.right in ")]":
            ends = [value(item.tokens) if isinstance(item, Value) else None for item in part.items]
            if None in ends or not all(isinstance(end, sympy.Expr) and end.is_number for end in ends):
                return None
            if (ends[0] > ends[1]) != False:  # noqa: E712  a list in brackets
                return None
            if (part.left == "[" and ends[0] == -sympy.oo) or (part.right == "]" and ends[1] == sympy.oo):
                return None
            return sympy.Interval(ends[0].doit(), ends[1].doit(), part.left == "(", part.right == ")")
        case Operation():
            sets = list(map(_as_set, part.items))
            if None in sets or part.sign == "|":
                return None
            if part.sign == r"\setminus":
                return sympy.Complement(sets[0], sympy.Union(*sets[1:]))
            return sympy.Union(*sets) if part.sign == r"\cup" else sympy.Intersection(*sets)
        case Value():
            if "".join(part.tokens) in (r"\mathbb{R}^{+}", r"\mathbb{R}_{+}", r"\mathbb{R}_{>0}"):
                return sympy.Interval.open(0, sympy.oo)
            found = value(part.tokens)
            if isinstance(found, sympy.Set):
                return found
        case Several():
            if part.joined in ("and", "or") and all(isinstance(item, Relation) for item in part.items):
                sets = list(map(_as_set, part.items))
                if None not in sets and len({frozenset(variables(item)) for item in part.items}) == 1:
                    return (sympy.Union if part.joined == "or" else sympy.Intersection)(*sets)
                return None
            if all(isinstance(item, Bracket) for item in part.items):
                return None
            if all(isinstance(item, Relation) for item in part.items):
                others = [item for item in part.items if item.signs != ("!=",)]
                same = len({frozenset(variables(item)) for item in part.items}) == 1
                sets = list(map(_as_set, part.items)) if len(others) <= 1 and same else [None]  # 0 < x < 2, x != 1
                return None if None in sets else sympy.Intersection(*sets)
            found = [value(item.tokens) if isinstance(item, Value) else None for item in part.items]
            if all(isinstance(number, sympy.Expr) and number.is_number for number in found):
                return sympy.FiniteSet(*(number.doit() for number in found))
        case Relation():
            return _solutions(part)
        case Qualified():
            return _as_set(part.part)
    return None


def _solutions(relation: Relation) -> sympy.Set | None:
    """The real numbers of which an inequality with one variable is true."""
    if relation.signs == ("in",) and is_name(relation.names[0]):
        return _as_set(relation.sides[1])
    if not set(relation.signs) <= INEQUALITIES | {"!="}:
        return None
    sides = [value(side.tokens) if isinstance(side, Value) else None for side in relation.sides]
    if not all(isinstance(side, sympy.Expr) for side in sides):
        return None
    symbols = set().union(*(side.free_symbols for side in sides))
    if len(symbols) != 1:
        return None
    old, variable = symbols.pop(), sympy.Symbol("x", real=True)
    result = sympy.S.Reals
    for left, sign, right in zip(sides, relation.signs, sides[1:]):
        left, right = left.xreplace({old: variable}).doit(), right.xreplace({old: variable}).doit()
        if left == variable and right.is_number:
            result &= _side_of(sign, right)
        elif right == variable and left.is_number:
            result &= _side_of({"<": ">", ">": "<", "<=": ">=", ">=": "<="}.get(sign, sign), left)
        elif sign != "!=":
            result &= sympy.solve_univariate_inequality(sympy.Rel(left, right, sign), variable, relational=False)
        else:
            return None
    return result


def _side_of(sign: str, end) -> sympy.Set:
    match sign:
        case "<" | "<=":
            return sympy.Interval(-sympy.oo, end, True, sign == "<")
        case ">" | ">=":
            return sympy.Interval(end, sympy.oo, sign == ">", True)
        case _:
            return sympy.Union(sympy.Interval.open(-sympy.oo, end), sympy.Interval.open(end, sympy.oo))


def same_sets(one: sympy.Set | None, other: sympy.Set | None) -> bool:
    if one is None or other is None:
        return False
    if one == other:
        return True
    pieces = [part.args if isinstance(part, sympy.Union) else (part,) for part in (one, other)]
    if len(pieces[0]) != len(pieces[1]) or not all(isinstance(p, sympy.Interval) for ps in pieces for p in ps):
        return bool(one.symmetric_difference(other).is_empty)
    pieces = [sorted(part, key=lambda interval: interval.start) for part in pieces]
    return all(
        (a.left_open, a.right_open) == (b.left_open, b.right_open) and equal(a.start, b.start) and equal(a.end, b.end)
        for a, b in zip(*pieces)
    )


def variables(relation: Relation) -> set:
    found = set()
    for side in relation.sides:
        if isinstance(side, Value):
            found |= value(side.tokens).free_symbols
    return found
