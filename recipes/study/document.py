"""Tables in the study's pages, which the scripts write: no number there is typed.

    <!-- table: area -->
    …
    <!-- end -->
"""

import re
from collections.abc import Sequence
from pathlib import Path

DOCUMENTS = Path("docs/study")


def markdown_table(head: Sequence[str], rows: Sequence[Sequence]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def replace_block(page: Path, name: str, text: str) -> None:
    """Puts text between the page's marks of that name.

    Raises:
        ValueError: the page has no such marks, or several.
    """
    begin, end = f"<!-- table: {name} -->", "<!-- end -->"
    found = page.read_text(encoding="utf-8")
    replaced, count = re.subn(
        f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: f"{begin}\n{text}\n{end}", found, flags=re.DOTALL
    )
    if count != 1:
        raise ValueError(f"{page} has {count} blocks {begin} … {end}, should have one")
    page.write_text(replaced, encoding="utf-8")
