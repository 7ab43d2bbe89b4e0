"""Colours of the report, light and dark: the same in figures.py and, as custom properties of CSS, in page.py.

Weights are blue below, orange above; outcomes green and purple, and never told apart by colour alone. Text has a
contrast of at least 4.5 on paper and on every colour of the weights, lines 3 on paper (WCAG 2.2, level AA).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Theme:
    """Attributes:
    paper: behind everything.
    ink, muted: text; less of it.
    grid: hairlines.
    control: edges of what can be operated.
    correct, wrong: outcomes.
    low, middle, high: weights below, at and above `mean`, the middle of the colours.
    missing: where there is no number.
    """

    paper: str
    ink: str
    muted: str
    grid: str
    control: str
    correct: str
    wrong: str
    low: str
    middle: str
    high: str
    missing: str


LIGHT = Theme(
    paper="#ffffff",
    ink="#1b1e23",
    muted="#565c66",
    grid="#d9dce1",
    control="#737a85",
    correct="#00735a",
    wrong="#a3297a",
    low="#6aa9e6",
    middle="#f4f4f2",
    high="#f39a3e",
    missing="#c3c7cd",
)
DARK = Theme(
    paper="#16191e",
    ink="#e6e8eb",
    muted="#a4abb5",
    grid="#363b43",
    control="#7d8590",
    correct="#45d6ab",
    wrong="#f08cc8",
    low="#1f62b0",
    middle="#262a31",
    high="#8f4d00",
    missing="#4a5058",
)
