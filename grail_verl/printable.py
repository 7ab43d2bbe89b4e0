"""Text of a model's, a data set's or a stranger's on its way to a terminal, a log or another process.

A terminal obeys control characters: an escape sequence in a response can write the clipboard, move the cursor over what
was said before, or rename the window. Whatever prints such text prints it as `printable` has it.
"""

import re

# C0 but tab and line feed, DEL, C1; what turns the direction of the text around it, so that it reads as another; and
# halves of characters, which no encoding takes.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""The text with control characters as Python writes them: `\x1b` in place of an escape."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def told(error: BaseException) -> str:
    """An exception's kind and text, printable."""
    try:
        text = str(error)
    except Exception as second:
        text = f"no text, its str raises {type(second).__name__}"
    return printable(f"{type(error).__name__}: {text}")
