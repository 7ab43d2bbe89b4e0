"""Strangers' text: nothing in it that a terminal obeys or an encoding refuses, and all that can be read."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grail_verl.printable import printable, told

pytestmark = pytest.mark.fast


def is_obeyed(char: str) -> bool:
    """By a terminal, or by whatever sets text from right to left."""
    controls = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    category = unicodedata.category(char)
    return category == "Cs" or category == "Cc" and char not in "\n\t" or unicodedata.bidirectional(char) in controls


@given(st.lists(st.characters(exclude_categories=[]) | st.sampled_from("\x1b\u202e\u2066\u200b")).map("".join))
def test_no_control_character_is_left_and_nothing_else_is_changed(text):
    shown = printable(text)
    assert not any(map(is_obeyed, shown))
    shown.encode()
    if not any(map(is_obeyed, text)):
        assert shown == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]52;c;aGk=\x07", r"\x1b]52;c;aGk=\x07"),
        ("7\r8\x08\x7f", r"7\r8\x08\x7f"),
        ("\x9b2J\x85 \ud83d", r"\x9b2J\x85 \ud83d"),
        ("8 \u202e= 4 + 3\u202c, \u2067x\u2069", r"8 \u202e= 4 + 3\u202c, \u2067x\u2069"),
        ("é 漢字 🙂\n\t☃ \\x1b", "é 漢字 🙂\n\t☃ \\x1b"),
    ],
)
def test_by_hand(text, shown):
    assert printable(text) == shown
    assert told(ValueError(text)) == f"ValueError: {shown}"
