"""What came out of the runs: numbers, figures and tables.

    python -m recipes.study.curves

Behind sweep.py and main_ppo.py, whose results it reads. Writes results/training.json (every number below), the pictures
docs/study/training-*.png, and the tables of docs/study/training.md.

A run counts as two numbers for each accuracy: the area under its curve over the number of steps, and its last value.
Intervals are 95 % bootstrap intervals over seeds (percentile). A method is compared with GRPO and with its shuffled
weights seed by seed, since both had the same problems and random numbers: mean difference, its interval, and p of the
exact two-sided permutation test, in which the sign of each seed's difference may turn (2⁸ ways: p is at least 0.008).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from scipy import stats

from recipes.study.document import DOCUMENTS, markdown_table, replace_block
from recipes.study.sweep import FIRST_METHODS, PLANS, RESULTS, chosen_rate, tuned_areas
from recipes.study.tasks import FIRST
from recipes.study.train import TRIES, area

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

MEASURES = {"sampled": "sampled accuracy", "greedy": "greedy accuracy", "pass@3": "Pass@3"}
LABELS = {"grpo": "GRPO", "grail": "GRAIL", "oar_g": "OAR-G", "shuffled": "GRAIL, shuffled", "surprise": "−log p"}
COLOURS = {"grpo": "#1b1e23", "grail": "#b35806", "oar_g": "#2166ac", "shuffled": "#8c8f94", "surprise": "#00735a"}
AGAINST = ("grpo", "shuffled")


def load(task: str, method: str) -> list[dict]:
    """The runs that are there, by seed."""
    files = [RESULTS / "runs" / task / f"{method}-{seed}.json" for seed in PLANS[task].seeds]
    return [json.loads(file.read_text()) for file in files if file.exists()]


def interval(values: Sequence[float]) -> list[float]:
    """95 % bootstrap interval of a mean; of equal values, these."""
    if np.ptp(values) == 0:
        return [float(values[0])] * 2
    drawn = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=10_000, rng=np.random.default_rng(0))
    return [float(end) for end in drawn.confidence_interval]


def summarised(values: Sequence[float]) -> dict:
    return {"mean": float(np.mean(values)), "interval": interval(values), "values": [float(v) for v in values]}


def compared(values: Sequence[float], others: Sequence[float]) -> dict:
    """Paired by seed."""
    difference = np.subtract(values, others)
    test = stats.permutation_test((difference,), np.mean, permutation_type="samples", n_resamples=np.inf)
    return {"difference": float(difference.mean()), "interval": interval(difference), "p": float(test.pvalue)}


def numbers() -> dict:
    """{task: {measure: {"area" | "final": {method: summary and comparisons}}}}, of the seeds that every method has."""
    found = {}
    for task in FIRST:
        runs = {method: {run["run"]["seed"]: run for run in load(task, method)} for method in FIRST_METHODS}
        seeds = sorted(set.intersection(*map(set, runs.values())))
        if not seeds:
            continue
        rates = {method: runs[method][seeds[0]]["run"]["lr"] for method in FIRST_METHODS}
        found[task] = {"seeds": seeds, "rates": rates, "measures": {}}
        for measure in MEASURES:
            of_runs = {
                kind: {m: [take(runs[m][seed]["evaluation"], measure) for seed in seeds] for m in FIRST_METHODS}
                for kind, take in (("area", area), ("final", last))
            }
            found[task]["measures"][measure] = {
                kind: {
                    method: {
                        **summarised(values[method]),
                        **{f"against_{other}": compared(values[method], values[other])
                           for other in AGAINST if other != method},
                    }
                    for method in FIRST_METHODS
                }
                for kind, values in of_runs.items()
            }
    return found


def last(evaluation: Sequence[Mapping], measure: str) -> float:
    return evaluation[-1][measure]


def curve(runs: Sequence[Mapping], measure: str) -> tuple[list[int], np.ndarray]:
    """Steps, and (runs, steps) values."""
    steps = [point["step"] for point in runs[0]["evaluation"]]
    return steps, np.array([[point[measure] for point in run["evaluation"]] for run in runs])


def draw_curves(task: str, path: Path) -> None:
    figure, axes = plt.subplots(1, len(MEASURES), figsize=(12, 3.6), layout="constrained")
    for axis, (measure, label) in zip(axes, MEASURES.items()):
        for method in FIRST_METHODS:
            steps, values = curve(load(task, method), measure)
            ends = np.array([interval(column) for column in values.T])
            axis.plot(steps, values.mean(axis=0), color=COLOURS[method], label=LABELS[method], lw=1.6)
            axis.fill_between(steps, *ends.T, color=COLOURS[method], alpha=0.12, lw=0)
        finish(axis, f"{task}: {label}", "training step")
    axes[0].legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw_differences(found: Mapping, path: Path) -> None:
    """Area under the sampled accuracy, less GRPO's, seed by seed."""
    figure, axes = plt.subplots(1, len(found), figsize=(5 * len(found), 3.2), squeeze=False, layout="constrained")
    for axis, (task, results) in zip(axes[0], found.items()):
        areas = results["measures"]["sampled"]["area"]
        others = [method for method in FIRST_METHODS if method != "grpo"]
        for place, method in enumerate(others):
            of, against = areas[method], areas[method]["against_grpo"]
            difference = np.subtract(of["values"], areas["grpo"]["values"])
            axis.plot(difference, np.full(len(difference), place) + 0.18, "o", ms=4, alpha=0.5, color=COLOURS[method])
            axis.plot(against["interval"], [place, place], color=COLOURS[method], lw=3)
            axis.plot(against["difference"], place, "D", color=COLOURS[method], ms=6)
        axis.axvline(0, color="#1b1e23", lw=0.8, ls=":")
        axis.set_yticks(range(len(others)), [LABELS[method] for method in others])
        finish(axis, f"{task}: less GRPO, {len(results['seeds'])} seeds", "difference in mean sampled accuracy")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def by_main_ppo() -> list[tuple[dict, dict]]:
    """main_ppo's runs, each with that of one process."""
    found = []
    for file in sorted((RESULTS / "main_ppo").glob("*.json")):
        theirs = json.loads(file.read_text())
        [ours] = [run for run in load(theirs["run"]["task"], theirs["run"]["method"]) if run["run"] == theirs["run"]]
        found.append((theirs, ours))
    return found


def draw_main_ppo(path: Path) -> None:
    """main_ppo's rewards over those of one process."""
    runs = by_main_ppo()
    figure, axes = plt.subplots(1, len(runs), figsize=(6 * len(runs), 3.4), squeeze=False, layout="constrained")
    for axis, (theirs, ours) in zip(axes[0], runs):
        steps = [int(step) for step in theirs["reward"]]
        axis.plot(steps, ours["training"]["reward"], color="#b35806", lw=3, alpha=0.5, label="one process")
        axis.plot(steps, list(theirs["reward"].values()), color="#1b1e23", lw=1, label="main_ppo")
        run = theirs["run"]
        finish(axis, f"{run['task']}, {LABELS[run['method']]}, seed {run['seed']}: reward", "training step")
        axis.legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main_ppo_table() -> str:
    """How far main_ppo and one process lie apart."""
    rows = []
    for theirs, ours in by_main_ppo():
        run = theirs["run"]
        apart = np.abs(np.subtract(list(theirs["reward"].values()), ours["training"]["reward"]))
        same = int(np.argmax(apart > 1e-5)) if (apart > 1e-5).any() else len(apart)  # ours are rounded to 1e-5
        greedy = [abs(theirs["greedy"][str(point["step"])] - point["greedy"]) for point in ours["evaluation"]]
        rows.append(
            [
                run["task"], LABELS[run["method"]], run["seed"], f"{same} of {len(apart)}", f"{apart.mean():.4f}",
                f"{apart.max():.3f}", f"{max(greedy):.3f}",
            ]
        )
    head = ["task", "method", "seed", "first steps with the same reward", "distance of the rewards, mean", "largest",
            "largest of greedy accuracy"]
    return markdown_table(head, rows)


def finish(axis, title: str, label: str) -> None:
    axis.set_title(title, loc="left", fontsize=10)
    axis.set_xlabel(label)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def accuracy_table(found: Mapping, kind: str) -> str:
    def cell(of: Mapping) -> str:
        return f"{of['mean']:.3f} ({of['interval'][0]:.3f}–{of['interval'][1]:.3f})"

    rows = [
        [task, LABELS[method], f"{results['rates'][method]:g}",
         *[cell(results["measures"][measure][kind][method]) for measure in MEASURES]]
        for task, results in found.items()
        for method in FIRST_METHODS
    ]
    return markdown_table(["task", "method", "learning rate", *MEASURES.values()], rows)


def comparison_table(found: Mapping, other: str) -> str:
    def cell(of: Mapping) -> str:
        low, high = of["interval"]
        return f"{of['difference']:+.3f} ({low:+.3f} to {high:+.3f}), p {of['p']:.3f}"

    rows = [
        [task, LABELS[method],
         *[cell(results["measures"][measure][kind][method][f"against_{other}"])
           for measure in ("sampled", "greedy", "pass@3") for kind in ("area", "final")]]
        for task, results in found.items()
        for method in FIRST_METHODS
        if method != other
    ]
    head = [f"{MEASURES[measure]}, {kind}" for measure in MEASURES for kind in ("area", "final")]
    return markdown_table(["task", "method", *head], rows)


def tuned_cell(task: str, method: str) -> str:
    """Every rate that was tried with its area, the best in bold."""
    best = chosen_rate(task, method)
    cells = {lr: f"{lr:g}: {value:.3f}" for lr, value in tuned_areas(task, method).items()}
    cells[best] = f"**{cells[best]}**"
    return " · ".join(cells.values())


def rate_table() -> str:
    """Area under the sampled accuracy at each rate that was tried."""
    rows = []
    for task in FIRST:
        for method in FIRST_METHODS:
            rows.append([task, LABELS[method], tuned_cell(task, method)])
    return markdown_table(["task", "method", "mean sampled accuracy at each rate"], rows)


def language_table(task: str) -> str:
    """A language model before and after its runs, those that chose the rate first; all seeds of a rate in a row.
    Intervals are over the held-out problems."""
    rows = []
    for kind in ("tuning", "runs"):
        of_rates: dict[tuple, list[dict]] = {}
        for file in sorted((RESULTS / kind / task).glob("*.json")):
            run = json.loads(file.read_text())
            of_rates.setdefault((run["run"]["method"], run["run"]["lr"]), []).append(run)
        for (method, lr), runs in sorted(of_rates.items()):
            before, after = ([run["evaluation"][place] for run in runs] for place in (0, -1))
            moved = [
                " → ".join(f"{np.mean([point[measure] for point in points]):.3f}" for points in (before, after))
                for measure in MEASURES
            ]
            right_SP = np.subtract(*([point["right"] for point in points] for points in (after, before)))
            gain_P = right_SP.mean(axis=0) / TRIES  # of seeds S and held-out problems P
            rewards = np.array_split(np.mean([run["training"]["reward"] for run in runs], axis=0), 2)
            rows.append(
                [
                    f"`{method}`",
                    f"{lr:g}",
                    ", ".join(str(run["run"]["seed"]) for run in runs),
                    *moved,
                    "{:+.3f} ({:+.3f} to {:+.3f})".format(gain_P.mean(), *interval(gain_P)),
                    *[f"{half.mean():.3f}" for half in rewards],
                    f"{np.mean([run['seconds'] for run in runs]) / 60:.0f}",
                ]
            )
    halves = ["reward, first half of the steps", "second half"]
    head = ["method", "rate", "seeds", *MEASURES.values(), "sampled, after less before", *halves, "minutes a run"]
    return markdown_table(head, rows)


def tables(found: Mapping) -> dict[str, str]:
    """The blocks of the page."""
    return {
        "rates": rate_table(),
        "area": accuracy_table(found, "area"),
        "final": accuracy_table(found, "final"),
        "against-grpo": comparison_table(found, "grpo"),
        "against-shuffled": comparison_table(found, "shuffled"),
        "main_ppo": main_ppo_table(),
        "word_problems": language_table("word_problems"),
    }


def main() -> None:
    DOCUMENTS.mkdir(exist_ok=True)
    found = numbers()
    (RESULTS / "training.json").write_text(json.dumps(found, indent=1) + "\n")
    for task in found:
        draw_curves(task, DOCUMENTS / f"training-{task}.png")
    draw_differences(found, DOCUMENTS / "training-differences.png")
    draw_main_ppo(DOCUMENTS / "training-main_ppo.png")
    for name, text in tables(found).items():
        replace_block(DOCUMENTS / "training.md", name, text)


if __name__ == "__main__":
    main()
