"""One value with its unit against another: numbers, decimals, percentages, ratios, digits in a base.

On the grader's way: text → tokens → parts → values → *verdict*.
"""

import re

import sympy

from grail_verl.reward.parts import Ratio, Value
from grail_verl.reward.values import Unread, decimal_digits, equal, value

ENOUGH_DIGITS = 6  # of a decimal that is not exact


def same_values(truth: Value, answer: Value) -> bool:
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


def is_rounded(exact, decimal) -> bool:
    if not (isinstance(exact, Value) and isinstance(decimal, Value)):
        return False
    _, place = decimal_digits(decimal.tokens) or (0, sympy.Rational(1, 2))
    difference = sympy.Abs(value(exact.tokens) - value(decimal.tokens)).evalf()
    return bool(difference.is_number and difference < place)  # rounded or cut off


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
    if is_time(truth) or is_time(answer):
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
