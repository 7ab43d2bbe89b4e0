r"""What an answer may consist of.

On the grader's way: text → tokens → *parts* → values → verdict. reading.py makes these of tokens, verdict.py compares
them.
"""

import re
from dataclasses import dataclass

from grail_verl.reward.latex import Word
from grail_verl.reward.units import Unit

LETTERS = frozenset("ABCDEFGH")  # of a multiple choice
INEQUALITIES = {"<", ">", "<=", ">="}


@dataclass(frozen=True)
class Value:
    """One expression, perhaps with a unit."""

    tokens: tuple[str, ...]
    unit: Unit = ()


@dataclass(frozen=True)
class Several:
    """Answers whose order does not matter: a list, or a set in braces. `joined` is "," or the word between them."""

    items: tuple
    joined: str = ","


@dataclass(frozen=True)
class Bracket:
    """A point, vector or interval."""

    left: str
    items: tuple
    right: str


@dataclass(frozen=True)
class Relation:
    """Sides and the relations between them; `names` are the tokens of each side."""

    sides: tuple
    signs: tuple[str, ...]
    names: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Phrase:
    """Words and the parts between them."""

    parts: tuple


@dataclass(frozen=True)
class Choice:
    """The letter of a multiple choice and what it stands for."""

    letter: str
    content: object


@dataclass(frozen=True)
class Operation:
    """Sets joined or taken away."""

    sign: str
    items: tuple


@dataclass(frozen=True)
class Ratio:
    """Two numbers or more with colons between; two may be a time of day."""

    items: tuple


@dataclass(frozen=True)
class Based:
    """Digits in a base."""

    digits: str
    base: str


@dataclass(frozen=True)
class Qualified:
    """A part, and for which values it is meant."""

    part: object
    qualifiers: tuple


def is_name(name: tuple[str, ...]) -> bool:
    """A symbol, a function of symbols, capitals (AB, the segment), or words: what an answer is the value of."""
    if isinstance(name[0], Word):
        return True
    text = re.sub(r"[_^]\{[^{}]*(\{[^{}]*\})?[^{}]*\}|'", "", "".join(name))
    text = re.sub(r"\\(?:mathit|mathcal|vec|hat|overline|tilde|dot|mathbb)\{(\\?\w+)\}", "x", text)
    text = re.sub(r"\\[a-zA-Z]+", "x", text)
    return bool(_NAME.fullmatch(text))


_NAME = re.compile(r"[a-zA-Z](\([\w,+\-]+\)|\[[\w,+\-]+\])?|x?[A-Z]{2,4}|\[[A-Z]{3,}\]|\([a-zA-Z](,[a-zA-Z])*\)")
