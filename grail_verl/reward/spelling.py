r"""An answer's text in one spelling, before it is cut into tokens.

At the head of the grader's way: *text* → tokens (latex.py) → parts → values → verdict. Unicode's signs become TeX's
names for them, numbers that commas and spaces split one piece, Markdown and dollars nothing. Whoever compares two texts
does so behind this.
"""

import re
import unicodedata

from grail_verl.reward.units import BARE_UNITS

_SIGNS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "‒": "-",
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∗": "*",
    "÷": r"\div ", "°": r"^{\circ}", "º": r"^{\circ}", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ",
    "≈": r"\approx ",
    "∈": r"\in ", "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "∖": r"\setminus ", "±": r"\pm ", "∓": r"\mp ",
    "√": r"\sqrt ", "→": r"\to ", "…": r"\ldots ", "⋯": r"\ldots ", "′": "'", "’": "'", "″": "''", "⟨": r"\langle ",
    "⟩": r"\rangle ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "ℝ": r"\mathbb{R}",
    "ℤ": r"\mathbb{Z}", "ℚ": r"\mathbb{Q}", "ℕ": r"\mathbb{N}", "ℂ": r"\mathbb{C}", "∀": r"\forall ", "≡": r"\equiv ",
    "ℓ": r"\ell ", "ħ": r"\hbar ", "∫": r"\int ", "∑": r"\sum ", "∏": r"\prod ", "∂": r"\partial ", "∇": r"\nabla ",
    "（": "(", "）": ")", "，": ",", "、": ",", "；": ";", "：": ":", "。": ".", "％": "%", "¢": r"\text{ cents}",
    "€": r"\text{ euros}", "£": r"\text{ pounds}", "′′": "''", "\u200b": "", "\ufeff": "", "µ": r"\mu ",
}  # fmt: skip


def _letters() -> dict[str, str]:
    """Greek letters, and digits above and below the line, by their Unicode names."""
    names = "ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE"
    digits = {name: str(n) for n, name in enumerate(names.split())}
    digits |= {"PLUS SIGN": "+", "MINUS": "-", "LATIN SMALL LETTER N": "n", "LATIN SMALL LETTER I": "i"}
    found = {}
    for code in [*range(0x370, 0x400), 0xB2, 0xB3, 0xB9, *range(0x2070, 0x209D)]:
        match unicodedata.name(chr(code), "").split(" ", 3):
            case ["GREEK", "SMALL" | "CAPITAL" as size, "LETTER", name] if " " not in name and name != "OMICRON":
                name = {"LAMDA": "LAMBDA"}.get(name, name).lower()
                found[chr(code)] = rf"\{name.capitalize() if size == 'CAPITAL' else name} "
            case ["SUPERSCRIPT" | "SUBSCRIPT" as place, *rest] if (name := " ".join(rest)) in digits:
                found[chr(code)] = f"{'^' if place == 'SUPERSCRIPT' else '_'}{{{digits[name]}}}"
    return found | {"ϕ": r"\phi ", "ϵ": r"\epsilon ", "ϑ": r"\theta "}


_SIGNS = str.maketrans({sign: text for sign, text in (_letters() | _SIGNS).items() if len(sign) == 1})
_VULGAR = re.compile("[¼-¾⅐-⅞]")
_RAISED = re.compile(r"(?:\^\{[\d+\-in]\}){2,}|(?:_\{\d\}){2,}")

_SPACE = re.compile(
    r"(?<!\\)\\[,;:! ]|~|\\(?:quad|qquad|thinspace|enspace|hfill|hskip|space)(?![a-zA-Z])|\\hspace\{[^{}]*\}"
)
_DIGIT_GROUPS = re.compile(r"(?<![\d.,])\d{1,3}(?:(?:(?:\{,\}|\\,| )\d{3})+|(?:,\d{3})+)(?![\d,])")
_MIXED = re.compile(r"(?<![\d./^_{])(\d+) +(\d+)/(\d+)(?![\d.])", re.ASCII)
# 7.9e5, 1e-07 and 2E-1, but 2e-1 is 2·e − 1.
_SCIENTIFIC = re.compile(r"(?<![\w.])(\d+\.\d+|\d+(?=E|e\d|e[+-]\d\d))[eE]([+-]?\d+)(?!\w|\.\d)", re.ASCII)
_DEGREES = re.compile(r"\^\s*(?:\{\s*\\(?:circ|degree)\s*\}|\\(?:circ|degree)(?![a-zA-Z]))|\\degree(?![a-zA-Z])")
_BARE_UNIT = re.compile(rf"(?<=[\d}}])(?:\s*(cm|mm|km|kg|ft)|\s+({BARE_UNITS}))(?![a-zA-Z])(\^\d|\^\{{\d\}})?")
# **73**, but 2**3 is a power.
_MARKDOWN = re.compile(r"(?<![\w)}\]])(\*\*|__|`)([^*`]{1,80}?)\1(?![\w(\\])")
_THIN = re.compile(r"(?<=\d)\\!\s*(?=\d)|(?<=\d,)\\!\s*(?=\d)")


_CYCLIC = re.compile(r"\\mathbb ?(?:\{Z\}|Z) ?/ ?(\d+) ?\\mathbb ?(?:\{Z\}|Z)")  # Z/6Z is Z_6
_REPEATING = re.compile(r"(?<!\d)(\d{0,30})\.(\d{0,30})\\(?:overline|bar|dot)\s*(?:\{(\d{1,30})\}|(\d))")


def _repeating(match: re.Match) -> str:
    """0.1\\overline{6} as a fraction."""
    whole, start, period = match[1] or "0", match[2], match[3] or match[4]
    below = (10 ** len(period) - 1) * 10 ** len(start)
    return rf"\frac{{{int(whole + start + period) - int(whole + start)}}}{{{below}}}"


def _vulgar(match: re.Match) -> str:
    above, below = unicodedata.normalize("NFKC", match[0]).split("⁄")
    return rf"\frac{{{above}}}{{{below}}}"


def cleaned(text: str) -> str:
    """The text in ASCII where there is a way to say it so, and numbers that commas and spaces split in one piece."""
    text = _VULGAR.sub(_vulgar, text)
    text = text.translate(_SIGNS)
    text = _RAISED.sub(lambda match: f"{match[0][0]}{{{re.sub(r'[{}^_]', '', match[0])}}}", text)
    text = unicodedata.normalize("NFKC", text).replace("\\\\%", r"\%")
    text = _MARKDOWN.sub(r"\2", text).replace("**", "^")
    text = re.sub(r"\\checkmark(?![a-zA-Z])", " ", text)
    text = re.sub(r"\b([ap])\. ?m\.", r"\1m", text, flags=re.IGNORECASE)
    text = re.sub(r"\\\[|\\\]|\\\(|\\\)|(?<!\\)\$", " ", text)
    text = _THIN.sub("", text)
    text = re.sub(r"(?<!\d)(\d{1,9})⁄(\d{1,9})(?!\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"(?<=\d)(?:\\[,;: ]|~)(?=\d{3}(?!\d))", " ", text)
    text = re.sub(r"(?<=\d)\{,\}(?=\d{3}(?!\d))", ",", text)
    text = _REPEATING.sub(_repeating, text)
    text = _DEGREES.sub(r"\\circdegree ", text)
    text = _SPACE.sub(" ", text)
    text = _CYCLIC.sub(r"\\mathbb{Z}_{\1}", text)
    text = " ".join(text.split()).removesuffix(".").rstrip()
    if not text.endswith((")", "]")) or not text.startswith(("(", "[")):
        text = _DIGIT_GROUPS.sub(lambda match: re.sub(r"[^\d]", "", match[0]), text)
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", text)
    text = _SCIENTIFIC.sub(lambda match: rf"{match[1]} \times 10^{{{match[2]}}}", text)
    return _BARE_UNIT.sub(lambda match: rf"\text{{ {match[1] or match[2]}}}{match[3] or ''}", text)
