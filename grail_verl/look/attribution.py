"""One response and what its tokens got, for a terminal, a notebook or a record: what attribute.py gives."""

import io
import math
from dataclasses import dataclass, field

from rich.color import Color
from rich.console import Console, Group
from rich.style import Style
from rich.text import Text

from grail_verl.credit.answer import AnswerSpan
from grail_verl.look.records import response_record
from grail_verl.look.report.colours import LIGHT
from grail_verl.look.rollouts import Rollout
from grail_verl.printable import printable


@dataclass(frozen=True)
class Attribution:
    """What a rule of credit gives the tokens of a response.

    Attributes:
        prompt: text that the model saw.
        tokens: texts of the T response tokens; joined, the response.
        score: (T,), 0 behind the answer where it is about the answer; None where none were computed.
        weight: (T,) that multiply the response's advantage.
        answer: its tokens, None without a complete `\\boxed{…}`.
        weighted: tokens got weights from their scores.
        rollout: what it was made of.
    """

    prompt: str
    tokens: list[str]
    score: list[float] | None
    weight: list[float]
    answer: AnswerSpan | None
    weighted: bool
    rollout: Rollout = field(repr=False)

    def record(self) -> dict:
        """As records.py writes it."""
        given = self.rollout
        return response_record(
            step=given.step,
            row=given.row,
            prompt=self.prompt,
            tokens=self.tokens,
            mask=[1] * len(self.tokens),
            score=self.score,
            weight=self.weight,
            advantage=given.advantage,
            answer=self.answer,
            reward=given.reward,
            weighted=self.weighted,
        )

    def show(self) -> None:
        """Prints the response in the colours of its weights; in a notebook as HTML."""
        Console().print(self)

    def __rich__(self) -> Group:
        """Blue below a weight of 1, orange above, in full at half and at twice as much; the answer underlined."""
        response = Text()
        for place, (token, weight) in enumerate(zip(self.tokens, self.weight, strict=True)):
            answer = self.answer is not None and self.answer.start <= place < self.answer.end
            response.append(printable(token), Style(bgcolor=_colour(weight), color=LIGHT.ink, underline=answer))
        return Group(Text(printable(self.prompt), style="dim"), response, Text(self._caption(), style="italic"))

    def _repr_html_(self) -> str:
        console = Console(record=True, file=io.StringIO(), width=100, color_system="truecolor", force_jupyter=False)
        console.print(self)
        return console.export_html(inline_styles=True, code_format='<pre style="white-space: pre-wrap">{code}</pre>')

    def _caption(self) -> str:
        said = f"{len(self.tokens)} tokens" + " without a complete \\boxed{}" * (self.answer is None)
        if not self.weighted:
            return said + ", not weighted by their scores"
        before = (self.weight if self.answer is None else self.weight[: self.answer.start]) or [1.0]
        place = "" if self.answer is None else " before the answer"
        return f"{said}; weights{place} {min(before):.2f} to {max(before):.2f}"


def _colour(weight: float) -> Color:
    """Of the report: from its middle to low or high, by the weight's logarithm."""
    share = max(-1.0, min(1.0, math.log2(weight))) if weight > 0 else -1.0
    middle, end = (Color.parse(c).get_truecolor() for c in (LIGHT.middle, LIGHT.low if share < 0 else LIGHT.high))
    return Color.from_rgb(*(from_ + (to - from_) * abs(share) for from_, to in zip(middle, end, strict=True)))
