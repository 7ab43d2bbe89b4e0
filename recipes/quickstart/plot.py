"""What a run did, as a table and a picture:

    python -m recipes.quickstart.plot outputs/quickstart/grail

reads metrics/*.jsonl in the run's folder, as verl's `file` logger writes them, one file for each time the run
was started; where two know the same step, the later one counts. Writes curves.png beside them. Given several
folders, it draws them into one picture, kept in the last. Runs without GRAIL's metrics have fewer curves.
"""

import json
import sys
from pathlib import Path

import matplotlib
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

SCORE = "critic/score/mean"
MEAN, STD = "actor/grail/weight_mean", "actor/grail/weight_std"
RATES = {"actor/grail/answer_found_rate": "answer found", "actor/grail/reweighted_rate": "reweighted"}
SECONDS = "timing_s/step"


def read_metrics(folder):
    """{step: {metric: value}} by step; the validation accuracy, whatever the data's name, as "validation"."""
    steps = {}
    for file in sorted(Path(folder, "metrics").glob("*.jsonl")):
        for line in file.read_text().splitlines():
            if not line.endswith("}"):  # cut off by an interruption
                continue
            entry = json.loads(line)
            metrics = steps.setdefault(entry["step"], {})
            for name, value in entry["data"].items():
                validation = name.startswith("val-core/") and name.endswith("/mean@1")
                metrics["validation" if validation else name] = value
    if not steps:
        sys.exit(f"no metrics in {folder}/metrics: has a run started there?")
    return dict(sorted(steps.items()))


def series(steps, name):
    known = [step for step, metrics in steps.items() if name in metrics]
    return known, [steps[step][name] for step in known]


def table(title, steps):
    """One row per validation; beside it the means over the training steps since the one before."""
    columns = {SCORE: "score", MEAN: "weight mean", STD: "weight std", **RATES, SECONDS: "s/step"}
    columns = {name: label for name, label in columns.items() if series(steps, name)[0]}
    rich_table = Table(title=title, box=SIMPLE, padding=0)
    for label in ("step", "validation", *columns.values()):
        rich_table.add_column(label, justify="right")
    since = []
    for step, metrics in steps.items():
        since.append(metrics)
        if "validation" in metrics:
            cells = []
            for name in columns:
                values = [earlier[name] for earlier in since if name in earlier]
                cells.append(f"{sum(values) / len(values):.2f}" if values else "")
            rich_table.add_row(str(step), f"{metrics['validation']:.2f}", *cells)
            since = []
    return rich_table


def draw(runs, path):
    with_weights = any(series(steps, MEAN)[0] for steps in runs.values())
    columns, width = (3, 13) if with_weights else (1, 5)
    figure, axes = plt.subplots(1, columns, figsize=(width, 3.8), squeeze=False, layout="constrained")
    accuracy, *rest = axes[0]
    for number, (name, steps) in enumerate(runs.items()):
        colour = f"C{number}"
        accuracy.plot(*series(steps, SCORE), color=colour, alpha=0.45, label=f"{name}, training, sampled")
        accuracy.plot(*series(steps, "validation"), "o-", color=colour, label=f"{name}, validation, greedy")
        if not series(steps, MEAN)[0]:
            continue
        weights, rates = rest
        known, mean = series(steps, MEAN)
        std = series(steps, STD)[1]
        weights.plot(known, mean, color=colour, label=name)
        low, high = [m - s for m, s in zip(mean, std)], [m + s for m, s in zip(mean, std)]
        weights.fill_between(known, low, high, color=colour, alpha=0.2, lw=0)
        for (rate, label), line in zip(RATES.items(), ("-", "--")):
            rates.plot(*series(steps, rate), line, color=colour, label=f"{name}, {label}")
    accuracy.set(title="Right answers", ylabel="share", ylim=(0, 1.02))
    if with_weights:
        weights.set(title="Token weights", ylabel="mean ± standard deviation", ylim=(0, None))
        rates.set(title="Responses", ylabel="share", ylim=(0, 1.02))
    for axis in axes[0]:
        axis.set_xlabel("training step")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        # Below the axis: within it, a band would lie under it.
        axis.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.18))
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    folders = [Path(folder) for folder in sys.argv[1:]]
    runs = {folder.name: read_metrics(folder) for folder in folders}
    console = Console()
    for name, steps in runs.items():
        console.print(table(name, steps))
    picture = folders[-1] / "curves.png"
    draw(runs, picture)
    console.print(f"picture: {picture}")
