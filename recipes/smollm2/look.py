r"""A response of SmolLM2-135M-Instruct in the colours of GRAIL's weights:

    source recipes/smollm2/policy.sh
    python -m recipes.smollm2.look
    python -m recipes.smollm2.look --picture docs     # the README's: docs/response-light.svg, docs/response-dark.svg

It was sampled by that policy from the prompt below, at temperature 0.8 and top_k 50, the second of four; the answer is
8. The policy is no further trained, so that this is what GRAIL would see in its first step.
"""

import argparse
import math
from pathlib import Path
from xml.sax.saxutils import escape

from grail_verl import attribute
from grail_verl.look.report.colours import DARK, LIGHT, Theme

EXAMPLES = {
    "Tom has 5 apples and buys 4 more. He eats 2. How many are left?":
        r"He buys 4 more: 5 + 4 = 9. He eats 2: 9 - 2 = 7. The answer is \boxed{7}.",
    "A bus holds 8 people. 3 get off and 6 get on. How many are on the bus?":
        r"3 get off: 8 - 3 = 5. 6 get on: 5 + 6 = 11. The answer is \boxed{11}.",
}  # fmt: skip
QUESTION = "A farmer has 6 hens. Each lays 2 eggs, and 4 eggs break. How many eggs are left?"
RESPONSE = (
    "There are 6 hens: 6 hens * 2 = 12 eggs. The farmer has 12 eggs: 12 hens * 2 eggs = 24 eggs. "
    r"The answer is \boxed{24}."
)
WIDTH, MARGIN, LINE, ADVANCE = 760, 16, 46, 9.0  # of the picture, in pixels; a letter's advance


def messages() -> list[dict]:
    turns = [turn for example in EXAMPLES.items() for turn in zip(("user", "assistant"), example)]
    return [{"role": role, "content": content} for role, content in [*turns, ("user", QUESTION)]]


def mixed(theme: Theme, weight: float) -> str:
    """A colour: from the middle, at 1, to low at a half and to high at 2."""
    share = max(-1.0, min(1.0, math.log2(weight)))
    ends = theme.middle, theme.low if share < 0 else theme.high
    from_, to = ([int(end[place : place + 2], 16) for place in (1, 3, 5)] for end in ends)
    return "#" + "".join(f"{round(f + (t - f) * abs(share)):02x}" for f, t in zip(from_, to))


def svg(shown, theme: Theme) -> str:
    """Tokens on their colours, each with its weight below it; the answer underlined."""
    parts, x, y = [], MARGIN, 72
    for place, (token, weight) in enumerate(zip(shown.tokens, shown.weight, strict=True)):
        width = max(len(token), 3) * ADVANCE + 2
        if x + width > WIDTH - MARGIN:
            x, y = MARGIN, y + LINE
        middle, fill = x + width / 2, mixed(theme, weight)
        parts.append(f'<rect x="{x:.1f}" y="{y - 17}" width="{width - 1:.1f}" height="24" fill="{fill}"/>')
        parts.append(f'<text x="{middle:.1f}" y="{y}" class="token">{escape(token.strip())}</text>')
        parts.append(f'<text x="{middle:.1f}" y="{y + 19}" class="weight">{weight:.1f}</text>')
        if shown.answer.start <= place < shown.answer.end:
            parts.append(f'<path d="M{x:.1f} {y + 5}h{width - 1:.1f}" class="answer"/>')
        x += width
    text = "".join(shown.tokens)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 36}" role="img">
<title>{escape(text)}</title>
<style>
text {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: {theme.ink}; }}
.token {{ font-size: 15px; text-anchor: middle; }}
.weight {{ font-size: 10px; text-anchor: middle; fill: {theme.muted}; }}
.question {{ font-size: 13px; fill: {theme.muted}; }}
.answer {{ stroke: {theme.ink}; stroke-width: 1.5; }}
</style>
<rect width="100%" height="100%" rx="8" fill="{theme.paper}"/>
<text x="{MARGIN}" y="30" class="question">{escape(QUESTION)}</text>
{chr(10).join(parts)}
</svg>
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A response of SmolLM2's in the colours of its weights")
    parser.add_argument("--policy", default="outputs/smollm2/policy", help="as recipes/smollm2/policy.sh leaves it")
    parser.add_argument("--picture", type=Path, metavar="DIR", help="for response-light.svg and response-dark.svg")
    options = parser.parse_args()
    shown = attribute(messages(), RESPONSE, options.policy)
    shown.show()
    if options.picture:
        for name, theme in (("light", LIGHT), ("dark", DARK)):
            (options.picture / f"response-{name}.svg").write_text(svg(shown, theme), encoding="utf-8")
