"""Strangers' text: nothing in it that a terminal obeys or an encoding refuses, and all that can be read."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grail_verl.printable import printable, told

pytestmark = pytest.mark.fast


@given(st.text(st.characters(exclude_categories=[]), max_size=30))
def test_no_control_character_is_left_and_nothing_else_is_changed(text):
    shown = printable(text)
    assert all(char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cs") for char in shown)
    shown.encode()
    if not any(char not in "\n\t" and unicodedata.category(char) in ("Cc", "Cs") for char in text):
        assert shown == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]52;c;aGk=\x07", r"\x1b]52;c;aGk=\x07"),
        ("7\r8\x08\x7f", r"7\r8\x08\x7f"),
        ("\x9b2J\x85 \ud83d", r"\x9b2J\x85 \ud83d"),
        ("é 漢字 🙂\n\t☃ \\x1b", "é 漢字 🙂\n\t☃ \\x1b"),
    ],
)
def test_by_hand(text, shown):
    assert printable(text) == shown
    assert told(ValueError(text)) == f"ValueError: {shown}"
