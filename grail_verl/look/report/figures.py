"""The report's figures, by matplotlib, as PNG for a light and a dark page.

Between statistics.py, whose numbers they draw and nothing else, and page.py. Each is small and has one axes, so that a
page can put them side by side or below each other; as pixels, they stay small however many steps there are.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from grail_verl.look.report.colours import DARK, LIGHT, Theme
from grail_verl.look.report.statistics import OUTCOMES, THIRDS

SIZE, METRIC_SIZE = (4.6, 3.2), (3.4, 2.1)  # inches
DOTS = 200  # an inch
INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
LINES = {"correct": "-", "wrong": "--"}
THIRD_LINES = {"first": ":", "middle": "--", "last": "-"}


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
    """

    name: str
    title: str
    caption: str
    summary: str
    paint: Callable[[Axes, Theme], None]
    size: tuple[float, float] = SIZE

    @cached_property
    def light(self) -> bytes:
        """PNG, with its title and a legend below."""
        return self._png(LIGHT)

    @cached_property
    def dark(self) -> bytes:
        return self._png(DARK)

    def _png(self, theme: Theme) -> bytes:
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
            axes.set_title(self.title)
            if axes.get_legend_handles_labels()[0]:
                figure.legend(loc="outside lower center", ncols=3)  # where it hides nothing
            figure.savefig(file, format="png", dpi=DOTS)
        return file.getvalue()


def figures(numbers: Mapping) -> list[Drawing]:
    """The figures that these numbers give, in the order of the page; those over steps need two of them."""
    drawings = []
    known = [outcome for outcome in OUTCOMES if outcome in numbers["position"]]
    if known:
        drawings += [_position(numbers, known), _histogram(numbers, known)]
    for outcome in known:
        if len(numbers["thirds"][outcome]["steps"]) > 1:
            drawings += [_thirds(numbers, outcome), _heatmap(numbers, outcome)]
    metrics = numbers["metrics"]
    drawings += [_metric(name, metrics["steps"], values) for name, values in metrics["values"].items()]
    return drawings


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
    tokens = " and ".join(f"{histogram[outcome]['tokens']:,} tokens of {outcome} responses" for outcome in known)
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
    )


def _metric(name: str, steps: Sequence[int], values: Sequence[float | None]) -> Drawing:
    def paint(axes: Axes, theme: Theme) -> None:
        known = np.array(values, dtype=float)
        axes.plot(steps, known, color=theme.ink, lw=1.4, marker="o" if len(steps) < 30 else None, ms=3)
        axes.set_xlabel("training step")
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))

    return Drawing(
        "metric-" + re.sub(r"\W", "_", name),
        name,
        "",
        f"{name} over {len(steps):,} steps: from {_ends(values)}.",
        paint,
        METRIC_SIZE,
    )


def _band(axes: Axes, x: Sequence[float], of: Mapping, line: str, colour: str, label: str) -> None:
    mean, error = np.array(of["mean"], dtype=float), np.array(of["standard_error"], dtype=float)
    axes.plot(x, mean, line, color=colour, lw=1.6, label=label)
    axes.fill_between(x, mean - error, mean + error, color=colour, alpha=0.18, lw=0)


def _ends(values: Sequence[float | None]) -> str:
    """"0.91 to 1.40": the first and the last that there is."""
    known = [value for value in values if value is not None]
    return f"{known[0]:.3g} to {known[-1]:.3g}" if known else "nothing to nothing"
