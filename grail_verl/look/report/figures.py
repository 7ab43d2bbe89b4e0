"""The report's figures, by matplotlib, as PNG for a light and a dark page.

Between statistics.py, whose numbers they draw and nothing else, and page.py. Each is small and has one axes, so that a
page can put them side by side or below each other; as pixels, they stay small however many steps there are.
"""

import io
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from grail_verl.look.report.colours import DARK, LIGHT, Theme
from grail_verl.look.report.statistics import OUTCOMES, THIRDS
from grail_verl.look.words import counted

SIZE, METRIC_SIZE = (4.6, 3.2), (3.4, 2.1)  # inches
DOTS = 200  # an inch
INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
LINES = {"correct": "-", "wrong": "--"}
THIRD_LINES = {"first": ":", "middle": "--", "last": "-"}
TITLE = 52  # characters of a line
STRIPS = 50  # of a figure over steps, at most


@dataclass(frozen=True)
class Point:
    """Where a figure shows a step: x of its axes, the step, its numbers in words."""

    x: float
    step: int
    said: str


@dataclass(frozen=True)
class Strip:
    """The part of a figure that shows some steps, in shares of its width and height from the top left."""

    first: int
    last: int
    said: str
    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class Drawing:
    """A figure.

    Attributes:
        name: of its file.
        title: above it.
        caption: how to read it.
        summary: its main numbers, in place of the picture.
        paint: draws it.
        size: in inches.
        points: of one over steps.
    """

    name: str
    title: str
    caption: str
    summary: str
    paint: Callable[[Axes, Theme], None]
    size: tuple[float, float] = SIZE
    points: Sequence[Point] = ()

    @property
    def light(self) -> bytes:
        """PNG, with its title and a legend below."""
        return self._light[0]

    @cached_property
    def dark(self) -> bytes:
        return self._drawn(DARK)[0]

    @property
    def strips(self) -> list[Strip]:
        """One for each step, or for a few beside each other where they are many."""
        return self._light[1]

    @cached_property
    def _light(self) -> tuple[bytes, list[Strip]]:
        return self._drawn(LIGHT)

    def _drawn(self, theme: Theme) -> tuple[bytes, list[Strip]]:
        style = {
            "text.parse_math": False,
            "font.size": 9,
            "axes.titlesize": 10,
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "figure.facecolor": theme.paper,
            "axes.facecolor": theme.paper,
            "grid.color": theme.grid,
            "grid.linewidth": 0.6,
            "legend.frameon": False,
            **dict.fromkeys(INKED, theme.ink),
        }
        file = io.BytesIO()
        with matplotlib.rc_context(style):
            figure = Figure(figsize=self.size, layout="constrained")
            axes = figure.subplots()
            axes.set_axisbelow(True)
            self.paint(axes, theme)
            axes.set_title(textwrap.fill(self.title, TITLE))
            if axes.get_legend_handles_labels()[0]:
                figure.legend(loc="outside lower center", ncols=3)  # where it hides nothing
            figure.savefig(file, format="png", dpi=DOTS)
        return file.getvalue(), self._strips(axes)

    def _strips(self, axes: Axes) -> list[Strip]:
        if not self.points:
            return []
        width, height = axes.figure.bbox.size
        box = axes.get_window_extent()
        each = -(-len(self.points) // STRIPS)
        groups = [self.points[place : place + each] for place in range(0, len(self.points), each)]
        middles = [axes.transData.transform((np.mean([point.x for point in group]), 0))[0] for group in groups]
        inner = [(one + other) / 2 for one, other in zip(middles, middles[1:])]
        edges = [box.x0, *inner, box.x1]
        return [
            Strip(
                group[0].step, group[-1].step, group[0].said if len(group) == 1 else "",
                left / width, 1 - box.y1 / height, (right - left) / width, box.height / height,
            )
            for group, left, right in zip(groups, edges, edges[1:])
        ]  # fmt: skip


def figures(numbers: Mapping) -> list[Drawing]:
    """The figures that these numbers give, in the order of the page; those over steps need two of them."""
    metrics, passed = numbers["metrics"], numbers["pass_rate"]
    drawings = [_pass_rate(passed)] if len(passed["steps"]) > 1 else []
    drawings += _of_weights(numbers) if "second" not in numbers else _of_both(numbers)
    return drawings + [_metric(name, metrics["steps"], values) for name, values in metrics["values"].items()]


def _of_both(numbers: Mapping) -> list[Drawing]:
    """Each figure by the first rule and by the second, one behind the other."""
    named = {
        (drawing.name, place): replace(drawing, name=prefix + drawing.name, title=f"{drawing.title}, by {rule}")
        for place, (prefix, rule, of) in enumerate(
            zip(("", "second-"), numbers["agreement"]["rules"], (numbers, numbers["second"]), strict=True)
        )
        for drawing in _of_weights(of)
    }
    names = dict.fromkeys(name for name, _ in named)
    return [named[name, place] for name in names for place in (0, 1) if (name, place) in named]


def _of_weights(numbers: Mapping) -> list[Drawing]:
    drawings = []
    known = [outcome for outcome in OUTCOMES if outcome in numbers["position"]]
    if known:
        drawings += [_position(numbers, known), _histogram(numbers, known)]
    for outcome in known:
        if len(numbers["thirds"][outcome]["steps"]) > 1:
            drawings += [_thirds(numbers, outcome), _heatmap(numbers, outcome)]
    return drawings


def _pass_rate(passed: Mapping) -> Drawing:
    steps, rates = passed["steps"], passed["rate"]

    def paint(axes: Axes, theme: Theme) -> None:
        _line(axes, theme, steps, rates)
        axes.set(xlabel="training step", ylabel="pass rate", ylim=(-0.02, 1.02))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1))

    return Drawing(
        "pass-rate",
        "Pass rate",
        f"Share that is correct of {passed['of']}.",
        f"Pass rate over {len(steps):,} steps: from {_ends(rates)}.",
        paint,
        points=[Point(step, step, f"{rate:.0%}") for step, rate in zip(steps, rates) if rate is not None],
    )


def _position(numbers: Mapping, known: Sequence[str]) -> Drawing:
    position = numbers["position"]
    centres = (np.array(position["edges"][1:]) + position["edges"][:-1]) / 2

    def paint(axes: Axes, theme: Theme) -> None:
        for outcome in known:
            of = position[outcome]
            _band(axes, centres, of, LINES[outcome], getattr(theme, outcome), f"{outcome} ({of['responses']:,})")
        axes.axhline(numbers["mean"], color=theme.ink, lw=0.8, ls=":")
        axes.set(xlabel="position on the way to the answer", ylabel="mean weight", xlim=(0, 1))
        axes.xaxis.set_major_formatter(PercentFormatter(1))

    said = "; ".join(
        f"{outcome} responses ({position[outcome]['responses']:,}): from {_ends(position[outcome]['mean'])}"
        for outcome in known
    )
    return Drawing(
        "position",
        "Weight on the way to the answer",
        "Mean over responses, band: ± its standard error. 0% is the first token, 100% the answer, or the end without "
        f"one. Dotted: a weight of {numbers['mean']:g}.",
        f"Mean weight from the first token to the answer. {said}.",
        paint,
    )


def _histogram(numbers: Mapping, known: Sequence[str]) -> Drawing:
    histogram, bounds = numbers["histogram"], numbers["bounds"]
    edges = np.array(histogram["edges"])

    def paint(axes: Axes, theme: Theme) -> None:
        for outcome in known:
            of, colour = histogram[outcome], getattr(theme, outcome)
            axes.stairs(of["share"], edges, fill=True, color=colour, alpha=0.2)
            axes.stairs(of["share"], edges, color=colour, ls=LINES[outcome], lw=1.4, label=outcome)
        room = 4 * (edges[-1] - edges[0])  # further off, a bound would leave none for the weights
        drawn = [bound for bound in bounds or () if edges[0] - room < bound < edges[-1] + room]
        for number, bound in enumerate(drawn):
            axes.axvline(bound, color=theme.ink, lw=1.2, ls="-.", label=None if number else "clipping bounds")
        axes.set(xlabel="weight", ylabel="share of the tokens", ylim=(0, None))
        axes.yaxis.set_major_formatter(PercentFormatter(1))

    if bounds is None:
        clipping = "These weights are not clipped."
    else:
        shares = ", ".join(
            f"{outcome} {histogram[outcome]['at_low']:.1%} and {histogram[outcome]['at_high']:.1%}" for outcome in known
        )
        clipping = f"Clipped at {bounds[0]:g} and {bounds[1]:g}; share of the tokens there: {shares}."
    counts = {outcome: counted(histogram[outcome]["tokens"], "token") for outcome in known}
    tokens = " and ".join(f"{count} of {outcome} responses" for outcome, count in counts.items())
    return Drawing(
        "histogram",
        "Weights before the answer",
        clipping,
        f"Histogram of the weights of {tokens}, from {edges[0]:.2f} to {edges[-1]:.2f}. {clipping}",
        paint,
    )


def _thirds(numbers: Mapping, outcome: str) -> Drawing:
    thirds = numbers["thirds"][outcome]

    def paint(axes: Axes, theme: Theme) -> None:
        for third in THIRDS:
            _band(axes, thirds["steps"], thirds[third], THIRD_LINES[third], getattr(theme, outcome), f"{third} third")
        axes.axhline(numbers["mean"], color=theme.ink, lw=0.8, ls=":")
        axes.set(xlabel="training step", ylabel="mean weight")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    said = "; ".join(f"{third} third from {_ends(thirds[third]['mean'])}" for third in THIRDS)
    return Drawing(
        f"thirds-{outcome}",
        f"Over training, {outcome} responses",
        "Mean weight in each third of the way to the answer, a step at a time, ± standard error over responses.",
        f"Mean weight before the answer of {outcome} responses, first to last step: {said}.",
        paint,
        points=[
            Point(step, step, ", ".join(f"{third} third {_said(thirds[third]['mean'][place])}" for third in THIRDS))
            for place, step in enumerate(thirds["steps"])
        ],
    )


def _heatmap(numbers: Mapping, outcome: str) -> Drawing:
    steps, means = numbers["heatmap"][outcome]["steps"], numbers["heatmap"][outcome]["mean"]
    values_SP, mean = np.array(means, dtype=float), numbers["mean"]
    maps = [np.array(numbers["heatmap"][each]["mean"], dtype=float) for each in OUTCOMES if each in numbers["heatmap"]]
    spread = max(*(np.nanmax(np.abs(each_SP - mean)) for each_SP in maps), 1e-6)  # one scale for both outcomes

    def paint(axes: Axes, theme: Theme) -> None:
        colours = LinearSegmentedColormap.from_list("", [theme.low, theme.middle, theme.high])
        image = axes.imshow(
            np.ma.masked_invalid(values_SP.T),
            aspect="auto",
            origin="lower",
            interpolation="none",
            extent=(-0.5, len(steps) - 0.5, 0, 1),
            cmap=colours.with_extremes(bad=theme.missing),
            norm=TwoSlopeNorm(mean, mean - spread, mean + spread),
        )
        axes.grid(False)
        axes.set(xlabel="training step", ylabel="position")
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda place, _: str(steps[round(place)]) if 0 <= round(place) < len(steps) else "")
        )
        bar = axes.figure.colorbar(image, ax=axes, label="mean weight")
        bar.outline.set_visible(False)

    low, high = (np.unravel_index(find(values_SP), values_SP.shape) for find in (np.nanargmin, np.nanargmax))
    edges = numbers["heatmap"]["edges"]
    said = ", ".join(
        f"{word} {values_SP[place]:.2f} at step {steps[place[0]]}, from {edges[place[1]]:.0%} of the way on"
        for word, place in (("lowest", low), ("highest", high))
    )
    return Drawing(
        f"heatmap-{outcome}",
        f"Step by position, {outcome} responses",
        "Mean weight by training step and position on the way to the answer, at the top. Grey: no token there.",
        f"Heat map of the mean weight of {outcome} responses by training step and position: {said}.",
        paint,
        points=[Point(place, step, "") for place, step in enumerate(steps)],
    )


def _metric(name: str, steps: Sequence[int], values: Sequence[float | None]) -> Drawing:
    def paint(axes: Axes, theme: Theme) -> None:
        _line(axes, theme, steps, values)
        axes.set_xlabel("training step")
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))

    return Drawing(
        "metric-" + re.sub(r"\W", "_", name),
        name,
        "",
        f"{name} over {counted(len(steps), 'step')}: from {_ends(values)}.",
        paint,
        METRIC_SIZE,
        [Point(step, step, _said(value)) for step, value in zip(steps, values)] if len(steps) > 1 else (),
    )


def _line(axes: Axes, theme: Theme, steps: Sequence[int], values: Sequence[float | None]) -> None:
    marker = "o" if len(steps) < 30 else None
    axes.plot(steps, np.array(values, dtype=float), color=theme.ink, lw=1.4, marker=marker, ms=3)


def _band(axes: Axes, x: Sequence[float], of: Mapping, line: str, colour: str, label: str) -> None:
    mean, error = np.array(of["mean"], dtype=float), np.array(of["standard_error"], dtype=float)
    axes.plot(x, mean, line, color=colour, lw=1.6, label=label)
    axes.fill_between(x, mean - error, mean + error, color=colour, alpha=0.18, lw=0)


def _said(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def _ends(values: Sequence[float | None]) -> str:
    """"0.91 to 1.40": the first and the last that there is."""
    known = [value for value in values if value is not None]
    return f"{known[0]:.3g} to {known[-1]:.3g}" if known else "nothing to nothing"
