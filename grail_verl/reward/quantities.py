"""One value with its unit against another: numbers, decimals, percentages, ratios, digits in a base.

On the grader's way: text → tokens → parts → values → *verdict*.
"""

import re

import sympy

from grail_verl.reward.parts import Ratio, Value
from grail_verl.reward.values import Unread, decimal_digits, equal, value

ENOUGH_DIGITS = 6  # of a decimal that is not exact
PERCENT = (("percent", 1),)
_HUNDREDTH = sympy.Rational(1, 100)


def same_values(truth: Value, answer: Value) -> bool:
    if truth.tokens == answer.tokens and truth.unit == answer.unit:
        return True
    if truth.unit == (("degree", 1),) and not answer.unit and r"\pi" in answer.tokens:
        try:
            return equal(value(truth.tokens) * sympy.pi / 180, value(answer.tokens))
        except Unread:
            return False
    if truth.unit and answer.unit and truth.unit != answer.unit:
        return False
    try:
        one, other = value(truth.tokens), value(answer.tokens)
    except Unread:
        return truth.tokens == answer.tokens
    return any(
        _same_numbers(truth.tokens, one, in_truth, answer.tokens, other, in_answer)
        for in_truth, in_answer in _percents(truth.unit == PERCENT, answer.unit == PERCENT, one)
    )


def _percents(in_truth: bool, in_answer: bool, truth) -> list[tuple]:
    """What truth and answer count in: where one alone is said in percent, 50 % is 0.5 and 50; but 0.5 % is not 0.5."""
    if in_truth == in_answer:
        return [(1, 1)]
    if in_truth:
        return [(1, 1), (_HUNDREDTH, 1)]
    is_fraction = isinstance(truth, sympy.Expr) and truth.is_number and bool(sympy.Abs(truth) < 1)
    return [(1, _HUNDREDTH)] if is_fraction else [(1, 1), (1, _HUNDREDTH)]


def _same_numbers(truth: tuple[str, ...], one, in_truth, answer: tuple[str, ...], other, in_answer) -> bool:
    if not all(isinstance(number, sympy.Expr) and number.is_number for number in (one, other)):
        return (in_truth, in_answer) == (1, 1) and equal(one, other)
    one, other = one * in_truth, other * in_answer
    return (
        equal(one, other)
        or _is_decimal_of(one, answer, other, in_answer)
        or _is_decimal_of(other, truth, one, in_truth)
    )


def _is_decimal_of(exact, tokens: tuple[str, ...], decimal, unit) -> bool:
    """The decimal has digits enough, and is the number rounded to the last of them, or cut off there."""
    digits, place = decimal_digits(tokens) or (0, 1)
    if digits < ENOUGH_DIGITS or decimal == 0:
        return False
    beyond = (exact - decimal) / (place * unit)
    if not beyond.is_Rational:
        beyond = beyond.evalf()
    return bool(beyond.is_real and (abs(beyond) <= sympy.Rational(1, 2) or 0 < beyond * sympy.sign(decimal) < 1))


_TO_COMPUTE = {r"\int", r"\sum", r"\prod", r"\lim", r"\det", r"\gcd", "vmatrix"}


def is_computed(part: Value) -> bool:
    """No integral, sum, limit or determinant is left to be computed: that would be the question."""
    return not _TO_COMPUTE & set(part.tokens)


def is_remainder(rest: Value, modulus: Value) -> bool:
    """5 mod 7 is 5 whether it is meant as a class or as a number; 5 mod 3 is not. Of symbols nothing is known."""
    try:
        numbers = value(rest.tokens), value(modulus.tokens)
    except Unread:
        return False
    return not all(isinstance(number, sympy.Integer) for number in numbers) or 0 <= numbers[0] < abs(numbers[1])


def are_unequal_numbers(one, other) -> bool:
    if not (isinstance(one, Value) and isinstance(other, Value)):
        return False
    try:
        numbers = value(one.tokens), value(other.tokens)
    except Unread:
        return False
    if not all(isinstance(number, sympy.Expr) and number.is_number for number in numbers):
        return False
    return not same_values(one, other)


def is_rounded(exact, decimal) -> bool | None:
    """The number is the other one, less than one of its last digit away. None: they are not two numbers."""
    numbers = [part for part in (exact, decimal) if isinstance(part, Value)]
    try:
        one, other = (value(part.tokens) * (_HUNDREDTH if part.unit == PERCENT else 1) for part in numbers)
    except ValueError:  # Unread is one
        return None
    if not all(isinstance(number, sympy.Expr) and number.is_number for number in (one, other)):
        return None
    _, place = decimal_digits(decimal.tokens) or (0, sympy.Rational(1, 2))
    difference = sympy.Abs(one - other).evalf() / (_HUNDREDTH if decimal.unit == PERCENT else 1)
    return bool(difference.is_number and difference < place)


def quotient(ratio: Ratio) -> Value:
    above, below = (item.tokens for item in ratio.items)
    return Value((r"\frac", "{", *above, "}", "{", *below, "}"))


def is_time(ratio: Ratio) -> bool:
    texts = ["".join(item.tokens) if isinstance(item, Value) else "" for item in ratio.items]
    if len(texts) != 2 or not all(text.isdigit() for text in texts):
        return False
    return len(texts[1]) == 2 and len(texts[0]) <= 2 and (texts[1][0] == "0" or sympy.gcd(*map(int, texts)) != 1)


def same_ratios(truth: Ratio, answer: Ratio) -> bool:
    if len(truth.items) != len(answer.items):
        return False
    if not all(isinstance(item, Value) for item in (*truth.items, *answer.items)):
        return False
    two_digits = len("".join(truth.items[-1].tokens)) == 2  # 4:9 is no time of day, and so 8:18 is none
    if is_time(truth) or (two_digits and is_time(answer)):
        return [item.tokens[0].lstrip("0") for item in truth.items] == [
            item.tokens[0].lstrip("0") for item in answer.items
        ]
    sides = [[value(item.tokens) for item in ratio.items] for ratio in (truth, answer)]
    return all(equal(a * sides[1][0], b * sides[0][0]) for a, b in zip(*sides)) and not equal(sides[1][0], sympy.S.Zero)


_BASES = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11,
    "twelve": 12, "sixteen": 16,
}  # fmt: skip


def base_of(text: str) -> str:
    text = re.sub(r"\\mathit|[{}()]", "", text)
    return str(_BASES.get(text, text))
