"""One response and what its tokens got, for a terminal, a notebook or a record: what attribute.py gives."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from rich.color import Color
from rich.console import Console, Group
from rich.style import Style
from rich.text import Text

from grail_verl.credit.answer import AnswerSpan
from grail_verl.look.agreement import rank_correlation, top_in_common
from grail_verl.look.records import OF_THE_POLICY, response_record
from grail_verl.look.report.colours import LIGHT
from grail_verl.look.rollouts import Rollout
from grail_verl.look.words import counted
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
        channels: what else is known of each token, name → (T,): "surprise" and "entropy"; of a product each factor;
            of saliency with hops what each found, "hop 0" …, of which the score is the sum.
        factors: of the score, where it is a product: names of channels.
    """

    prompt: str
    tokens: list[str]
    score: list[float] | None
    weight: list[float]
    answer: AnswerSpan | None
    weighted: bool
    rollout: Rollout = field(repr=False)
    channels: dict[str, list[float]] = field(default_factory=dict, repr=False)
    factors: Sequence[str] = field(default=(), repr=False)

    def record(self, second: "Attribution | None" = None) -> dict:
        """As records.py writes it; with what another rule gives the same response."""
        given, channels = self.rollout, self.channels
        if second is not None:
            shared = {name: values for name, values in second.channels.items() if name in OF_THE_POLICY}
            own = {name: values for name, values in second.channels.items() if name not in shared}
            channels = {**shared, **channels}
            second = {"score": second.score, "weight": second.weight, "weighted": second.weighted, "channels": own}
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
            channels=channels,
            second=second,
        )

    def show(self) -> None:
        """Prints the response in the colours of its weights; in a notebook as HTML."""
        Console().print(self)

    def __rich__(self) -> Group:
        """Blue below a weight of 1, orange above, in full at half and at twice as much; the answer underlined. Below
        it, with hops, what each found and their sum, and of a product its other factors, in full where each is largest
        before the answer. Above each stands what it is."""
        weights = self._coloured([_of_weight(each) for each in self.weight])
        parts = [Text(printable(self.prompt), style="dim"), Text(self._caption(), style="italic"), weights]
        hops = {name: values for name, values in self.channels.items() if name.startswith("hop ")}
        if hops:
            hops["their sum"] = [sum(values) for values in zip(*hops.values(), strict=True)]
        for name, values in hops.items():
            parts += self._titled(f"{name}, {sum(self._before_answer(values)):.2f} of it before the answer", values)
        for name in self.factors:
            if not (hops and name == "saliency"):  # their sum
                values = self.channels[name]
                top = max(self._before_answer(values), default=0.0)
                parts += self._titled(f"{name}, a factor, up to {top:.2f}{self._place}", values)
        return Group(*parts)

    def _titled(self, title: str, values: Sequence[float]) -> tuple[Text, Text]:
        top = max(self._before_answer(values), default=0.0)
        return Text(title, style="italic"), self._coloured([_mixed(value / top if top else 0.0) for value in values])

    def _coloured(self, colours: Sequence[Color]) -> Text:
        response = Text()
        for place, (token, colour) in enumerate(zip(self.tokens, colours, strict=True)):
            answer = self.answer is not None and self.answer.start <= place < self.answer.end
            response.append(printable(token), Style(bgcolor=colour, color=LIGHT.ink, underline=answer))
        return response

    @property
    def _place(self) -> str:
        return "" if self.answer is None else " before the answer"

    def _before_answer(self, values: Sequence[float]) -> Sequence[float]:
        return values if self.answer is None else values[: self.answer.start]

    def _repr_html_(self) -> str:
        console = Console(record=True, file=io.StringIO(), width=100, color_system="truecolor", force_jupyter=False)
        console.print(self)
        return console.export_html(inline_styles=True, code_format='<pre style="white-space: pre-wrap">{code}</pre>')

    def _caption(self) -> str:
        said = counted(len(self.tokens), "token") + " without a complete \\boxed{}" * (self.answer is None)
        if not self.weighted:
            return said + ", not weighted by their scores"
        before = self._before_answer(self.weight) or [1.0]
        return f"{said}; weights{self._place} {min(before):.2f} to {max(before):.2f}"


def told_agreement(one: Attribution, other: Attribution) -> str:
    """In words: of two rules on one response."""
    if not (one.weighted and other.weighted):
        return "not both weigh this response by their scores"
    weights = [np.array(each._before_answer(each.weight)) for each in (one, other)]
    length = min(map(len, weights))
    weights = [weight_R[:length] for weight_R in weights]
    correlation, common = rank_correlation(*weights), top_in_common(*weights)
    if common is None:
        return "no token before the answer"
    said = "none, as one of them gives all tokens the same" if correlation is None else f"{correlation:.2f}"
    return f"rank correlation of their weights before the answer {said}; of the top fifth {common:.0%} in common"


def _of_weight(weight: float) -> Color:
    """By its logarithm."""
    return _mixed(math.log2(weight) if weight > 0 else -1.0)


def _mixed(share: float) -> Color:
    """Of the report: from its middle to low at -1, to high at 1."""
    share = max(-1.0, min(1.0, share))
    middle, end = (Color.parse(c).get_truecolor() for c in (LIGHT.middle, LIGHT.low if share < 0 else LIGHT.high))
    return Color.from_rgb(*(from_ + (to - from_) * abs(share) for from_, to in zip(middle, end, strict=True)))
