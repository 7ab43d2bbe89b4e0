r"""The parts of an answer: what is listed, bracketed, related, counted in a unit, or said in words.

On the grader's way: text → tokens → *parts* → values → verdict. An answer is cut at the signs that stand outside of all
brackets, from the loosest to the closest: qualifiers ("for all n"), commas and "and", relations, words, brackets. What
is left is one expression, which values.py parses when it is needed.
"""

import itertools

from grail_verl.reward.latex import Word, tokens, words_of
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
    is_name,
)
from grail_verl.reward.spelling import cleaned
from grail_verl.reward.units import CURRENCY, DEGREE, Unit, split_unit

OPENING = {"(": ")", "[": "]", r"\{": r"\}", r"\langle": r"\rangle"}
CLOSING = set(OPENING.values())
_DEPTH = dict.fromkeys([*OPENING, "{", r"\lfloor", r"\lceil", r"\begin"], 1)
_DEPTH |= dict.fromkeys([*CLOSING, "}", r"\rfloor", r"\rceil", r"\end"], -1)

RELATIONS = {"=": "=", "<": "<", ">": ">", r"\le": "<=", r"\ge": ">=", r"\ne": "!=", r"\in": "in", r"\approx": "~",
             r"\equiv": "==", r"\notin": "notin", r"\subset": "sub", r"\subseteq": "subeq", r"\sim": "sim",
             r"\Leftrightarrow": "<=>", r"\to": "->", r"\propto": "prop",
             r"\cong": "cong", r"\perp": "perp", r"\parallel": "par"}  # fmt: skip
_TRIGONOMETRIC = {r"\sin", r"\cos", r"\tan", r"\cot", r"\sec", r"\csc"}
_SCALES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_STOP_WORDS = {"is", "are", "the", "an", "a", "of", "be", "it", "its", "exactly", "only"}
_SETS = {
    ("no", "solution"): r"\emptyset", ("no", "solutions"): r"\emptyset", ("no", "real", "solutions"): r"\emptyset",
    ("no", "real", "solution"): r"\emptyset", ("empty", "set"): r"\emptyset", ("none",): r"\emptyset",
    ("all", "real", "numbers"): "R", ("all", "real"): "R", ("all", "reals"): "R", ("real", "numbers"): "R",
    ("all", "integers"): "Z",
}  # fmt: skip
_NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_ALL = {"all", "any", "every", "each", "some"}


def read(text: str, other: str = ""):
    """The parts of an answer.

    Args:
        text: the answer.
        other: what it will be compared with: words set as text there are words here.

    Raises:
        ValueError: braces or brackets that do not match, or nothing at all.
    """
    return _read(tokens(cleaned(text), words_of(text) | words_of(other)))


def _read(part: list[str]):
    while len(part) > 1 and part[0] == "{" and _matching(part, 0) == len(part) - 1:
        part = part[1:-1]
    while part and part[-1] in (",", ";", "."):
        part = part[:-1]
    if not part:
        raise ValueError("empty")
    if part[0] in ("option", "choice", "answer") and isinstance(part[0], Word) and len(part) > 1:
        letter = [token for token in part[1:] if token not in ("(", ")", "is")]
        part = letter if len(letter) == 1 and letter[0] in LETTERS else part
    if chosen := _chosen(part):
        return Choice(chosen[0], _read(chosen[1]))
    part, qualifiers = _qualifiers(part)
    listed, joined = _split(part, {",", ";", "and", "or", r"\vee", r"\wedge"})
    listed = [item for item in listed if item]
    if len(listed) > 1:
        return _listed(listed, joined, qualifiers)
    element = _element(listed[0] if listed else part)
    return Qualified(element, tuple(map(_read, qualifiers))) if qualifiers else element


def _chosen(part: list[str]) -> tuple[str, list[str]] | None:
    """(B) 27, B. 27, B: 27 or B) 27 as the letter and what it stands for. Of (A) 5 (B) 6 none is chosen."""
    start = int(part[0] == "(")
    letter, sign, content = part[start : start + 1], part[start + 1 : start + 2], part[start + 2 :]
    if not (content and letter[0] in LETTERS and sign[0] in ((")",) if start else _ENDS)):
        return None
    others = any(token in LETTERS and after in _ENDS for token, after in itertools.pairwise(content))
    goes_on = content[0] in _CONTINUING or isinstance(content[0], Word) and content[0] in ("and", "or")
    return None if others or goes_on or (len(content) == 1 and content[0] in LETTERS) else (letter[0], content)


_ENDS = (")", ".", ":")
_CONTINUING = {"^", "+", "=", "/", r"\cdot", r"\cup", r"\cap", ",", "_", "!"}


def _qualifiers(part: list[str]) -> tuple[list[str], list[list[str]]]:
    """What stands before "for all …", "where …", "because …", and that."""
    for index, token in enumerate(part):
        after = part[index + 1] if index + 1 < len(part) else ""
        begins = (token == "for" and after in _ALL) or token in ("where", "since", "because", r"\forall")
        if index and begins and _depth(part[:index]) == 0:
            rest = [word for word in part[index + 1 :] if word not in _ALL]
            others = _split(rest, {",", ";", "and", "or"})[0][1:]
            if any({"for", "where"} & set(other[1:]) for other in others):
                break  # 5 for all x > 0, 6 for all x < 0 are two answers
            return _without_comma(part[:index]), [rest] if rest else []
    depths = itertools.accumulate(_DEPTH.get(token, 0) for token in reversed(part))
    start = len(part) - 1 - next((n for n, depth in enumerate(depths) if depth == 0), 0)
    if start and part[start + 2 : start + 4] == [r"\in", r"\mathbb"]:  # 2\pi k (k \in \mathbb{Z})
        return _without_comma(part[:start]), [part[start + 1 : -1]]
    return part, []


def _without_comma(part: list[str]) -> list[str]:
    while part and part[-1] in (",", "and"):
        part = part[:-1]
    return part


def _listed(listed: list[list[str]], joined: list[str], qualifiers: list[list[str]]):
    domains = [item for item in listed if [r"\in", r"\mathbb"] in (item[1:3], item[3:5])]
    others = [item for item in listed if item not in domains]
    if domains and others:  # x = \pi k, k \in \mathbb{Z}
        listed, qualifiers = others, qualifiers + domains
    items = _flattened(listed)
    if isinstance(items[-1], Value) and items[-1].unit:  # 12, 8 cm
        unit = items[-1].unit
        items = [Value(i.tokens, unit) if isinstance(i, Value) and not i.unit else i for i in items]
    words = {sign for sign in joined if sign in ("and", "or", r"\vee", r"\wedge")}
    word = {"and": "and", "or": "or", r"\vee": "or", r"\wedge": "and"}[words.pop()] if len(words) == 1 else ","
    result = items[0] if len(items) == 1 else Several(tuple(items), word)
    return Qualified(result, tuple(map(_read, qualifiers))) if qualifiers else result


def _flattened(listed: list[list[str]]) -> list:
    """The elements of a list; of one with ± both."""
    items: list = []
    for item in listed:
        element = _element(item)
        items += element.items if isinstance(element, Several) and element.joined == r"\pm" else [element]
    return items


def _element(part: list[str]):
    while len(part) > 1 and part[0] == "{" and _matching(part, 0) == len(part) - 1:
        part = part[1:-1]
    is_set = part[0] == r"\{" and _matching(part, 0) == len(part) - 1
    if not is_set and (r"\pm" in part or r"\mp" in part):
        return Several(tuple(_element(signed) for signed in _signed(part)), r"\pm")
    if part[0] == ":":
        part = part[1:]
    part = _split(part, {r"\Rightarrow", r"\implies"})[0][-1]
    if not part:
        raise ValueError("nothing follows")
    sides, signs = _split(part, set(RELATIONS))
    if signs == ["="] and all(sides) and is_name(tuple(sides[1])) and not is_name(tuple(sides[0])):  # 5 = x
        sides.reverse()
    if len(signs) == 1 and signs[0] == r"\approx" and not sides[0]:  # ≈ 3.14
        return _element(sides[1])
    if not signs and len(part) > 2 and isinstance(part[0], Word):  # Area: 5
        label, colon = _split(part, {":"})
        if len(colon) == 1 and all(isinstance(token, Word) for token in label[0]) and label[1]:
            sides, signs = label, ["="]
    words = [index for index, token in enumerate(part) if isinstance(token, Word)]
    said = bool(words) and words[0] == 0 and part[words[-1]] in ("is", "are") and len(part) > len(words)
    if said and not signs:
        sides, signs = [part[: words[-1]], part[words[-1] + 1 :]], ["="]  # the answer is 5
    if signs:
        if all(sides) and not _has_loose_words(sides):
            names = tuple(map(tuple, sides))
            parts = [Phrase(names[0]) if isinstance(sides[0][0], Word) else _side(sides[0]), *map(_side, sides[1:])]
            return Relation(tuple(parts), tuple(RELATIONS[sign] for sign in signs), names)
        if not all(sides):
            raise ValueError("a relation to nothing")
        return _phrase(part)
    return _side(part)


def _has_loose_words(sides: list[list[str]]) -> bool:
    """Words that are neither a unit nor the name of what is equal to the rest."""
    rest = sides[1:] if _is_label(sides[0]) else sides
    return any(isinstance(token, Word) for side in rest for token in _unscaled(split_unit(side, _is_word)[0]))


def _unscaled(part: list[str]) -> list[str]:
    return part[:-1] if part and part[-1] in _SCALES else part


def _is_label(side: list[str]) -> bool:
    event = side[1:2] == ["("] and _matching(side, 1) == len(side) - 1  # P(the sum is even)
    return isinstance(side[0], Word) or event or not any(isinstance(token, Word) for token in side)


def _is_word(token: str) -> bool:
    return isinstance(token, Word)


def _side(part: list[str]):
    """A part without lists and relations."""
    if all(isinstance(token, Word) and len(token) > 1 for token in part):
        return _phrase(part)
    whole, unit = part, ()
    if DEGREE in part and _TRIGONOMETRIC & set(part):
        part = _radians(part)
    if part[0] in (CURRENCY, "-") and CURRENCY in part[:2] and len(part) > 1:
        part, unit = [token for token in part if token != CURRENCY], (("dollar", 1),)
    else:
        part, unit = split_unit(part, _is_word)
        if unit and any(isinstance(token, Word) for token in _unscaled(part)):  # n is prime
            return _phrase(whole)
        letters = [token for token in part if token.isalpha()]
        if unit and letters and any(len(name) == 1 for name, _ in unit):  # v \mathrm{t} is a product
            part, unit = part + _as_letters(unit), ()
    if len(part) > 1 and part[-1] in _SCALES and isinstance(part[-1], Word):
        part = [*part[:-1], r"\cdot", "10", "^", "{", str(_SCALES[part[-1]]), "}"]
    if any(isinstance(token, Word) for token in part):
        if all(isinstance(token, Word) and len(token) == 1 for token in part) or (
            not unit and not any(isinstance(token, Word) and len(token) > 1 for token in part)
        ):
            return _side([str(token) for token in part])
        return _phrase(part)
    while len(part) > 1 and part[0] == "{" and _matching(part, 0) == len(part) - 1:
        part = part[1:-1]
    if part[0] == "+" and len(part) > 1:
        part = part[1:]
    for sign in (r"\setminus", r"\cup", r"\cap"):
        items, signs = _split(part, {sign})
        if signs and all(items):
            return Operation(sign, tuple(map(_side, items)))
    items, colons = _split(part, {":"})
    if colons and all(items):
        return Ratio(tuple(_side(item) for item in items))
    if len(part) > 3 and part[1] == "_" and part[0].isdigit() and _matching(part, 2) == len(part) - 1:
        return Based(part[0].lstrip("0"), "".join(part[3:-1]))
    if part[0] in OPENING and _matching(part, 0) == len(part) - 1:
        return _bracketed(part, unit)
    return Value(tuple(part), unit)


def _radians(part: list[str]) -> list[str]:
    """Degrees behind a number within a function are part of the value."""
    out: list[str] = []
    for token in part:
        if token == DEGREE and out and out[-1][0].isdigit():
            out[-1:] = ["{", r"\frac", "{", out[-1], r"\pi", "}", "{", "180", "}", "}"]
        else:
            out.append(token)
    return out


def _as_letters(unit: Unit) -> list[str]:
    letters: list[str] = []
    for name, power in unit:
        letters += [name] if power == 1 else [name, "^", "{", str(power), "}"]
    return letters


def _bracketed(part: list[str], unit: Unit):
    inside = part[1:-1]
    if not inside and part[0] == r"\{":
        return Value((r"\emptyset",))
    if not inside:
        raise ValueError("nothing in brackets")
    items, commas = _split(inside, {",", ";"})
    if part[0] == r"\{":
        if part[-1] != r"\}":
            raise ValueError("a set that does not end")
        condition, bars = _split(inside, {"|", ":"})
        if len(bars) == 1 and all(condition):
            if len(condition[0]) == 1 or "".join(condition[0][1:]) == r"\in\mathbb{R}":  # {x | x > 3}
                return _read(condition[1])
            return Operation("|", tuple(map(_read, condition)))
        return Several(tuple(_flattened(items)))
    if not commas:
        if part[0] == "(" and part[-1] == ")":
            return _read(inside) if not unit else Value(tuple(part), unit)
        return Value(tuple(part), unit)
    if not all(items):
        raise ValueError("a comma without what it divides")
    return Bracket(part[0], tuple(map(_element, items)), part[-1])


def _phrase(part: list[str]):
    """Words as they are, and what is between them read as parts."""
    parts, run = [], []
    for token in [*part, Word("")]:
        if not isinstance(token, Word):
            run.append(token)
            continue
        if run:
            parts.append(_element(run))
            run = []
        if token and token not in _STOP_WORDS:
            parts.append(token)
    if len(parts) == 1 and parts[0] in _NUMBERS:
        return Value((str(_NUMBERS.index(parts[0])),))
    if tuple(parts) == ("dne",):
        parts = ["does", "not", "exist"]
    if len(parts) > 1 and isinstance(parts[-1], Value) and is_name(parts[-1].tokens) and tuple(parts[:-1]) in _SETS:
        parts = parts[:-1]  # all real x
    if found := _SETS.get(tuple(parts)):
        return Value((found,) if found[0] == "\\" else (r"\mathbb", "{", found, "}"))
    return parts[0] if len(parts) == 1 and not isinstance(parts[0], str) else Phrase(tuple(parts))


def _signed(part: list[str]) -> list[list[str]]:
    """A part with + and − for ±: all combinations, or two if there is a ∓."""
    places = [index for index, token in enumerate(part) if token in (r"\pm", r"\mp")]
    if len(places) > 4:
        raise ValueError("more than four signs to choose")
    tied = r"\mp" in part
    found = []
    for choice in range(2 if tied else 2 ** len(places)):
        signed = list(part)
        for n, index in enumerate(places):
            negative = bool(choice) if tied else bool(choice >> n & 1)
            signed[index] = "-" if negative != (part[index] == r"\mp") else "+"
        found.append(signed)
    return found


def _split(part: list[str], signs: set[str]) -> tuple[list[list[str]], list[str]]:
    """Cut at the signs that stand outside of all brackets. Words divide only where they are words."""
    pieces, found, depth, bars = [[]], [], 0, False
    bars_close = "|" not in signs and part.count("|") % 2 == 0
    for token in part:
        depth += _DEPTH.get(token, 0)
        if token == "|" and depth == 0 and bars_close:
            bars = not bars
        is_sign = token in signs and (not token.isalpha() or isinstance(token, Word))
        if is_sign and depth == 0 and not bars:
            pieces.append([])
            found.append(str(token))
        else:
            pieces[-1].append(token)
    return pieces, found


def _depth(part: list[str]) -> int:
    return sum(_DEPTH.get(token, 0) for token in part)


def _matching(part: list[str], start: int) -> int:
    """Where the bracket at `start` closes."""
    depth = 0
    for index in range(start, len(part)):
        depth += _DEPTH.get(part[index], 0)
        if depth == 0:
            return index
    raise ValueError(f"a {part[start]} that does not close")
