r"""Whether an answer is the truth: parts compared with parts.

On the grader's way: text → tokens → parts → values → *verdict*. Where two parts are of different kinds (an interval and
an inequality, a set and a list, an equation and its right side) this says which of them mean the same; docs/reward.md
has the list. What is not decided is wrong.
"""

import re

import sympy

from grail_verl.reward.reading import (
    INEQUALITIES,
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
    is_name,
    read,
)
from grail_verl.reward.values import Unread, decimal_digits, equal, is_zero, value

ENOUGH_DIGITS = 6  # of a decimal that is not exact


def is_right(truth: str, answer: str) -> bool:
    """The answer means what the truth means. What cannot be read is wrong."""
    try:
        one, other = read(truth, answer), read(answer, truth)
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
    if truth == answer:
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
            return _same_relations(truth, answer)
        case Relation(), _:
            return _unlabelled(truth, answer)
        case _, Relation():
            return _labelled(truth, answer)
        case Phrase(), Phrase():
            return len(truth.parts) == len(answer.parts) and (
                all(map(_same_words, truth.parts, answer.parts))
                or (len(truth.parts) == 2 and all(map(_same_words, truth.parts, reversed(answer.parts))))  # odd n
            )
        case _, Phrase((value_of, "mod", _)):  # 5 (mod 7) is a way to say 5, but not the other way round
            return _same(truth, value_of)
        case (Phrase(), _) | (_, Phrase()):
            return False
        case Based(), Based():
            return truth.digits == answer.digits and _base(truth.base) == _base(answer.base)
        case Based(), Value():
            return answer.tokens[0].lstrip("0") == truth.digits and len(answer.tokens) == 1
        case Ratio(), Ratio():
            return _same_ratios(truth, answer)
        case (Ratio(), Value()) | (Value(), Ratio()):
            ratio, number = (truth, answer) if isinstance(truth, Ratio) else (answer, truth)
            return len(ratio.items) == 2 and not _is_time(ratio) and _same(_quotient(ratio), number)
        case Value(), Value():
            return _same_values(truth, answer)
    sets = _set(truth), _set(answer)
    if None not in sets and any(map(_is_set, (truth, answer))):
        return _same_sets(*sets)
    match truth, answer:
        case Several(), Several():
            return _same_lists(truth, answer)
        case (Several(), Value()) | (Value(), Several()):
            several, one = (truth, answer) if isinstance(truth, Several) else (answer, truth)
            return len(several.items) == 1 and _same(several.items[0], one)
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
    return part.tokens[0] if isinstance(part, Value) and part.tokens in _LETTERS else None


_LETTERS = {(letter,) for letter in "ABCDEFGH"}


def _same_words(one, other) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return _same(one, other)


# Values


def _same_values(truth: Value, answer: Value) -> bool:
    if truth.tokens == answer.tokens and truth.unit == answer.unit:
        return True
    if truth.unit == (("degree", 1),) and not answer.unit and r"\pi" in answer.tokens:
        try:
            return equal(value(truth.tokens) * sympy.pi / 180, value(answer.tokens))
        except Unread:
            return False
    percents = [part.unit == (("percent", 1),) for part in (truth, answer)]
    if truth.unit and answer.unit and truth.unit != answer.unit:
        return False
    try:
        one, other = value(truth.tokens), value(answer.tokens)
    except Unread:
        return truth.tokens == answer.tokens
    if _same_numbers(truth, one, answer, other):
        return True
    if percents == [True, False]:
        return _same_numbers(truth, one / 100, answer, other)
    if percents == [False, True]:
        return _same_numbers(truth, one, answer, other / 100)
    return False


def _same_numbers(truth: Value, one, answer: Value, other) -> bool:
    if equal(one, other):
        return True
    given = [decimal_digits(part.tokens) for part in (truth, answer)]
    places = [place for digits, place in filter(None, given) if digits >= ENOUGH_DIGITS]
    if not places or not all(isinstance(number, sympy.Expr) and number.is_number for number in (one, other)):
        return False
    difference = sympy.Abs(one - other).evalf()
    return bool(difference.is_Float and difference < max(places))


# Equations, labels and inequalities


def _label(relation: Relation) -> tuple[str, ...] | None:
    """The name whose value the last side is, None if it is no such relation."""
    if not set(relation.signs) <= {"=", "~", "in"} or not is_name(relation.names[0]):
        return None
    return relation.names[0]


def _interval(relation: Relation) -> Bracket | None:
    """a < x < b as an interval, whatever its ends are."""
    if len(relation.signs) != 2 or not is_name(relation.names[1]):
        return None
    low, _, high = relation.sides
    first, second = relation.signs
    if {first, second} <= {">", ">="}:
        low, high, first, second = high, low, second.replace(">", "<"), first.replace(">", "<")
    if not {first, second} <= {"<", "<="}:
        return None
    return Bracket("[" if first == "<=" else "(", (low, high), "]" if second == "<=" else ")")


def _labelled(truth, answer: Relation) -> bool:
    """The truth is without a label; the answer is, say, x = 5."""
    if (interval := _interval(answer)) and _same(truth, interval):
        return True
    if set(answer.signs) <= INEQUALITIES | {"!="}:
        return _same_sets(_set(truth), _set(answer))
    if not set(answer.signs) <= {"=", "~", "in"}:
        return False
    names = answer.names[0]
    if len(names) == 1 and names[0] in answer.names[-1] and len(answer.sides) == 2:
        return False  # x = x^2 says nothing of x
    if answer.signs == ("=",) and is_name(answer.names[1]) and not is_name(names):  # 5 = x
        return _same(truth, answer.sides[0])
    sides = answer.sides if not is_name(names) else answer.sides[1:]
    for one, other, sign in zip(sides, sides[1:], answer.signs[len(answer.sides) - len(sides) :]):
        if sign == "=" and _are_unequal_numbers(one, other):
            return False
    if "~" in answer.signs:
        before = answer.sides[answer.signs.index("~")]
        if not (answer.signs[0] == "~" and is_name(names)):
            if _same(truth, before):
                return True
            if not _is_rounded(before, answer.sides[-1]):
                return False
    return _same(truth, answer.sides[-1])


def _are_unequal_numbers(one, other) -> bool:
    if not (isinstance(one, Value) and isinstance(other, Value)):
        return False
    try:
        numbers = value(one.tokens), value(other.tokens)
    except Unread:
        return False
    if not all(isinstance(number, sympy.Expr) and number.is_number for number in numbers):
        return False
    return not _same_values(one, other)


def _is_rounded(exact, decimal) -> bool:
    if not (isinstance(exact, Value) and isinstance(decimal, Value)):
        return False
    _, place = decimal_digits(decimal.tokens) or (0, sympy.Rational(1, 2))
    difference = sympy.Abs(value(exact.tokens) - value(decimal.tokens)).evalf()
    return bool(difference.is_number and difference < place)  # rounded or cut off


def _unlabelled(truth: Relation, answer) -> bool:
    """The truth is, say, x = 5; the answer is without a label."""
    if (interval := _interval(truth)) and _same(interval, answer):
        return True
    if set(truth.signs) <= INEQUALITIES | {"!="}:
        return _same_sets(_set(truth), _set(answer))
    return _label(truth) is not None and _same(truth.sides[-1], answer)


def _same_relations(truth: Relation, answer: Relation) -> bool:
    if set(truth.signs) <= INEQUALITIES | {"!="} or set(answer.signs) <= INEQUALITIES | {"!="}:
        return _same_inequalities(truth, answer)
    if _label(truth) and _label(answer):
        names = truth.names[0], answer.names[0]
        if _are_same_names(*map("".join, names)):
            if _same(truth.sides[-1], answer.sides[-1]):
                return True
        else:
            renamed = _renamed(truth, answer)
            if renamed is not None:
                return _same(truth.sides[-1], renamed)
    if truth.signs == answer.signs and truth.signs in (("in",), ("==",), ("sub",), ("subeq",), ("->",), ("sim",)):
        return all(map(_same, truth.sides, answer.sides))
    if truth.signs == answer.signs == ("=",):
        return _same_equations(truth, answer)
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
    """One is a multiple of the other by a number that is not zero."""
    factor = _factor(_difference(truth), _difference(answer))
    return factor is not None


def _factor(one, other):
    if one.free_symbols != other.free_symbols or not one.free_symbols:
        return None
    points = [{s: sympy.Rational(17 * n + 5, 7 * n + 11) for n, s in enumerate(sorted(one.free_symbols, key=str))}]
    ratio = sympy.nsimplify((one.xreplace(points[0]) / other.xreplace(points[0])).doit())
    if not ratio.is_number or ratio.is_zero or not ratio.is_finite:
        return None
    return ratio if is_zero(one - ratio * other) else None


def _same_inequalities(truth: Relation, answer: Relation) -> bool:
    one, other = _set(truth), _set(answer)
    if one is not None and other is not None:
        return _variable(truth) == _variable(answer) and _same_sets(one, other)
    if len(truth.signs) != 1 or len(answer.signs) != 1:
        return truth.signs == answer.signs and all(map(_same, truth.sides, answer.sides))
    factor = _factor(_difference(truth), _difference(answer))
    if factor is None or not factor.is_real:
        return False
    flipped = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!="}
    return (truth.signs[0] if factor.is_positive else flipped.get(truth.signs[0])) == answer.signs[0]


def _variable(relation: Relation) -> set:
    found = set()
    for side in relation.sides:
        if isinstance(side, Value):
            found |= value(side.tokens).free_symbols
    return found


# Sets


def _is_set(part) -> bool:
    """It is a set for sure: an interval, a union, an inequality; (1, 2) and {1, 2} are other things as well."""
    match part:
        case Bracket():
            return "[" in part.left + part.right or _is_infinite(part)
        case Operation() | Relation():
            return True
        case Several():
            return any(map(_is_set, part.items)) and part.joined in ("and", "or")
        case Value():
            return isinstance(value(part.tokens), sympy.Set)
    return False


def _is_infinite(part: Bracket) -> bool:
    return any(isinstance(item, Value) and r"\infty" in item.tokens for item in part.items)


def _set(part) -> sympy.Set | None:
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
            return sympy.Interval(ends[0].doit(), ends[1].doit(), part.left == "(", part.right == ")")
        case Operation():
            sets = list(map(_as_set, part.items))
            if None in sets or part.sign == "|":
                return None
            if part.sign == r"\setminus":
                return sympy.Complement(sets[0], sympy.Union(*sets[1:]))
            return sympy.Union(*sets) if part.sign == r"\cup" else sympy.Intersection(*sets)
        case Value():
            found = value(part.tokens)
            if isinstance(found, sympy.Set):
                return found
        case Several():
            if part.joined in ("and", "or") and all(isinstance(item, Relation) for item in part.items):
                sets = list(map(_as_set, part.items))
                if None not in sets and len({frozenset(_variable(item)) for item in part.items}) == 1:
                    return (sympy.Union if part.joined == "or" else sympy.Intersection)(*sets)
                return None
            if all(isinstance(item, Bracket) for item in part.items):
                return None
            if all(isinstance(item, Relation) and item.signs == ("!=",) for item in part.items):
                return sympy.Intersection(*map(_as_set, part.items))
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


def _same_sets(one: sympy.Set | None, other: sympy.Set | None) -> bool:
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


# Lists, points, vectors, ratios


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
    return [_label(item) for item in part.items if isinstance(item, Relation) and _label(item)]


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


def _quotient(ratio: Ratio) -> Value:
    above, below = (item.tokens for item in ratio.items)
    return Value((r"\frac", "{", *above, "}", "{", *below, "}"))


def _is_time(ratio: Ratio) -> bool:
    texts = ["".join(item.tokens) if isinstance(item, Value) else "" for item in ratio.items]
    if len(texts) != 2 or not all(text.isdigit() for text in texts):
        return False
    return len(texts[1]) == 2 and len(texts[0]) <= 2 and (texts[1][0] == "0" or sympy.gcd(*map(int, texts)) != 1)


def _same_ratios(truth: Ratio, answer: Ratio) -> bool:
    if len(truth.items) != len(answer.items):
        return False
    if _is_time(truth) or _is_time(answer):
        return [item.tokens[0].lstrip("0") for item in truth.items] == [
            item.tokens[0].lstrip("0") for item in answer.items
        ]
    sides = [[value(item.tokens) for item in ratio.items] for ratio in (truth, answer)]
    return all(equal(a * sides[1][0], b * sides[0][0]) for a, b in zip(*sides)) and not equal(sides[1][0], sympy.S.Zero)


_BASES = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11,
    "twelve": 12, "sixteen": 16,
}  # fmt: skip


def _base(text: str) -> str:
    text = re.sub(r"\\mathit|[{}()]", "", text)
    return str(_BASES.get(text, text))
