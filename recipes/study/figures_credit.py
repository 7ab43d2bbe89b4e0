"""Draws the credit benchmark and writes its tables, from recipes/study/results/credit/*.json:

    python -m recipes.study.figures_credit

Figures go to docs/study/credit_*.png, tables into docs/study/credit.md, each between its markers. Nothing is computed
here: a number stands in a file as credit.py found it.
"""

import json
import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

from grail_verl.credit.config import CHOICES  # noqa: E402
from recipes.study.document import DOCUMENTS, markdown_table, replace_block  # noqa: E402

RESULTS = Path("recipes/study/results/credit")
STAGES = ("half", "imitation", "rl")
FEWEST = 20  # responses that a comparison needs to be shown
LEAVES, ALIGNMENTS = CHOICES["leaf"], CHOICES["alignment"]
SHORT = {  # the scores that tables over cells show
    "grail/embeddings/predictor": "GRAIL, default",
    "grail/embeddings/token": "GRAIL, `token`",
    "gradient/embeddings/predictor": "gradient norm",
    "gradient/embeddings/token": "gradient norm, `token`",
    "support/embeddings/predictor": "signed product",
    "support/embeddings/token": "signed product, `token`",
    "gradient/last/token": "gradient norm, `last`, `token`",
    "activation/last/token": "−norm of `last`, `token`, no gradient",
    "oar_g": "OAR-G",
    "entropy": "entropy",
    "surprise": "−log p",
    "position": "position",
    "random": "random",
}
CARRIED = {
    "carried": "carried",
    "surprise × carried": "−log p × carried",
    "grail/embeddings/token": "GRAIL, `token`",
    "surprise": "−log p",
}
WEIGHTINGS = {
    "weight/embeddings/predictor/response": "default",
    "weight/embeddings/predictor/reasoning": "`reasoning`",
    "weight/embeddings/token/response": "`token`",
    "weight/embeddings/token/reasoning": "`token`, `reasoning`",
    "weight/oar_g": "OAR-G",
}


def read_cells() -> dict[str, dict]:
    """By name, sizes of a task beside one another, each from stage to stage."""
    cells = {file.stem: json.loads(file.read_text()) for file in RESULTS.glob("*.json")}

    def order(name: str):
        cell = cells[name]
        return cell["task"], cell["policy"]["parameters"], STAGES.index(cell["stage"])

    return {name: cells[name] for name in sorted(cells, key=order)}


def reference(cells: dict[str, dict], task: str) -> tuple[str, dict]:
    """The cell that single-cell tables and figures show: the middle size, imitation."""
    name = f"{task}-96-imitation"
    return name, cells[name]


def interval(value: list[float] | None) -> str:
    return "–" if value is None or value[0] is None else "{:.2f} [{:.2f}, {:.2f}]".format(*value)


def of_cells(cells: dict[str, dict], chosen, measure: str = "auc") -> str:
    """Scores down, cells across; `chosen` finds a comparison in a cell, None where it has none."""
    found = {name: comparison for name, cell in cells.items() if (comparison := chosen(cell))}
    found = {name: comparison for name, comparison in found.items() if comparison["responses"] >= FEWEST}
    rows = [
        [label, *(interval(comparison["scores"][score][measure]) for comparison in found.values())]
        for score, label in SHORT.items()
    ]
    counted = ["*responses*", *(str(comparison["responses"]) for comparison in found.values())]
    return markdown_table(["", *found], [counted, *rows])


def cells_table(cells: dict[str, dict]) -> str:
    rows = []
    for name, cell in cells.items():
        drawn, counts = cell["responses"]["drawn"], cell["responses"]
        shares = [f"{counts[which] / drawn:.0%}" for which in ("in form", "correct")]
        used = f"{counts['wrong, used']} + {counts['correct, used']}"
        parameters = f"{cell['policy']['parameters']:,}"
        rows.append([name, parameters, str(drawn), *shares, used, str(cell["seconds"])])
    return markdown_table(["cell", "parameters", "drawn", "in form", "correct", "wrong + correct used", "s"], rows)


def grid_table(cell: dict) -> str:
    """Every gradient score of one cell."""
    columns = {
        "used / unused results": cell["relevance"]["wrong"]["results"],
        "first mistake / all": cell["mistake"]["all"],
        "first mistake / results": cell["mistake"]["results"],
        "moves the answer, finished": cell["intervention"]["auc"]["finished"]["all"],
        "moves the answer, kept": cell["intervention"]["auc"]["kept"]["all"],
    }
    names = [
        f"{kind}/{leaf}/{alignment}"
        for kind in ("grail", "gradient", "support", "product", "activation")
        for leaf in LEAVES
        for alignment in ALIGNMENTS
    ]
    names += ["oar_g", "surprise × grail/embeddings/predictor", "surprise × grail/embeddings/token"]
    names += ["surprise", "entropy", "position", "random"]
    rows = [[name, *(interval(column["scores"][name]["auc"]) for column in columns.values())] for name in names]
    return markdown_table(["score", *columns], rows)


def carried_table(cells: dict[str, dict]) -> str:
    rows = []
    for name, cell in cells.items():
        found = cell["carried"]
        questions = {
            "used / unused results": found["relevance"].get("results"),
            "first mistake / all": found["mistake"].get("all"),
            "first mistake / results": found["mistake"].get("results"),
            "first mistake / wrong side results": found["mistake"].get("wrong side results"),
        }
        for question, comparison in questions.items():
            if comparison and comparison["responses"] >= FEWEST:
                values = [interval(comparison["scores"][score]["auc"]) for score in CARRIED]
                rows.append([name, question, str(comparison["responses"]), *values])
    return markdown_table(["cell", "question", "responses", *CARRIED.values()], rows)


def moved_table(cells: dict[str, dict]) -> str:
    groups = ("used results", "side results", "filler", "first mistake", "wrong side results")
    rows = [
        [group, way, *(interval(cell["intervention"]["moved"][way].get(group)) for cell in cells.values())]
        for group in groups
        for way in ("finished", "kept")
    ]
    return markdown_table(["changed token", "", *cells], rows)


def weights_table(cell: dict) -> str:
    groups = ("reasoning", "used", "side", "filler", "first mistake", "wrong side results", "at the lower bound")
    rows = [
        [label, which, *(interval(of[name].get(group)) for group in groups)]
        for name, label in WEIGHTINGS.items()
        for which, of in cell["weights"].items()
    ]
    return markdown_table(["weights", "responses", *groups], rows)


def clipping_table(cells: dict[str, dict]) -> str:
    """AUC of scores and of the weights made of them."""
    rows = []
    for name, cell in cells.items():
        comparison = cell["mistake"]["all"]["scores"]
        for alignment in ALIGNMENTS:
            score = f"embeddings/{alignment}"
            variants = [f"grail/{score}", f"weight/{score}/response", f"weight/{score}/reasoning"]
            rows.append([name, alignment, *(interval(comparison[variant]["auc"]) for variant in variants)])
    return markdown_table(["cell", "alignment", "score", "weights, `response`", "weights, `reasoning`"], rows)


def draw_scores(cells: dict[str, dict]) -> None:
    chains, legs = reference(cells, "chains")[1], reference(cells, "legs")[1]
    panels = {
        "used or unused token\nchains": chains["relevance"]["wrong"]["all"],
        "used or unused result\nchains": chains["relevance"]["wrong"]["results"],
        "first mistake\namong all, chains": chains["mistake"]["all"],
        "first mistake\namong results, chains": chains["mistake"]["results"],
        "first mistake or\nwrong side result, chains": chains["mistake"]["wrong side results"],
        "first mistake\namong all, legs": legs["mistake"]["all"],
    }
    figure, axes = plt.subplots(1, len(panels), figsize=(16, 4), sharey=True, layout="constrained")
    for axis, (title, comparison) in zip(axes, panels.items(), strict=True):
        for row, score in enumerate(SHORT):
            mean, low, high = comparison["scores"][score]["auc"]
            axis.plot([low, high], [row, row], color=f"C{row // 8}", lw=2)
            axis.plot(mean, row, "o", color=f"C{row // 8}")
        axis.axvline(0.5, color="grey", lw=0.8)
        axis.set(title=title, xlim=(0, 1), xlabel="AUC")
    axes[0].set_yticks(range(len(SHORT)), [label.replace("`", "") for label in SHORT.values()])
    axes[0].invert_yaxis()
    finish(figure, "credit_scores.png")


def draw_depth(cells: dict[str, dict]) -> None:
    """What a result is worth by the number of results behind it: to the answer, and to the weights."""
    cell = reference(cells, "chains")[1]
    moved, weights = cell["intervention"]["moved"], cell["weights"]["wrong"]
    depths = [name for name in moved["finished"] if name.startswith("result, ")]
    groups = sorted(depths, key=lambda name: -int(re.search(r"\d+", name)[0])) + ["side results"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
    for number, way in enumerate(moved):
        curve(left, [moved[way][group] for group in groups], f"C{number}", way)
    left.set(title="A changed result moves the answer", ylabel="share of changes", ylim=(0, 1.02))
    for number, (name, label) in enumerate(WEIGHTINGS.items()):
        if name.endswith(("/response", "oar_g")):
            curve(right, [weights[name][group] for group in groups], f"C{number}", label.replace("`", ""))
    right.set(title="Its weight, wrong responses", ylabel="mean weight", ylim=(0, None))
    for axis in (left, right):
        axis.set_xticks(range(len(groups)), [*(re.search(r"\d+", name)[0] for name in groups[:-1]), "side"])
        axis.set_xlabel("results of steps behind it")
        axis.legend(frameon=False)
    finish(figure, "credit_depth.png")


def draw_cells(cells: dict[str, dict]) -> None:
    questions = {
        "used or unused result": lambda cell: cell["relevance"]["wrong"]["results"],
        "first mistake among all": lambda cell: cell["mistake"]["all"],
        "first mistake among results": lambda cell: cell["mistake"]["results"],
    }
    scores = ("grail/embeddings/predictor", "grail/embeddings/token", "oar_g", "entropy", "surprise", "position")
    figure, axes = plt.subplots(1, len(questions), figsize=(15, 4.2), sharey=True, layout="constrained")
    for axis, (title, chosen) in zip(axes, questions.items(), strict=True):
        known = {name: chosen(cell) for name, cell in cells.items() if chosen(cell)["responses"] >= FEWEST}
        for number, score in enumerate(scores):
            values = [comparison["scores"][score]["auc"] for comparison in known.values()]
            curve(axis, values, f"C{number}", SHORT[score].replace("`", ""), "o")
        axis.axhline(0.5, color="grey", lw=0.8)
        axis.set(title=title, ylim=(0, 1.02))
        axis.set_xticks(range(len(known)), known, rotation=60, ha="right", fontsize="small")
    axes[0].set_ylabel("AUC, wrong responses")
    axes[-1].legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    finish(figure, "credit_cells.png")


def curve(axis, values: list[list[float]], colour: str, label: str, line: str = "o-") -> None:
    means = [value[0] for value in values]
    errors = [[mean - low for mean, low, _ in values], [high - mean for mean, _, high in values]]
    axis.errorbar(range(len(values)), means, errors, fmt=line, color=colour, label=label, capsize=2)


def finish(figure, name: str) -> None:
    for axis in figure.axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(DOCUMENTS / name, dpi=110, metadata={"Software": None})
    plt.close(figure)


def tables(cells: dict[str, dict]) -> dict[str, str]:
    chains = {name: cell for name, cell in cells.items() if cell["task"] == "chains"}
    by_name = {
        "cells": cells_table(cells),
        "mistake all": of_cells(cells, lambda cell: cell["mistake"].get("all")),
        "mistake rank": of_cells(cells, lambda cell: cell["mistake"].get("all"), "mean_rank"),
        "mistake top": of_cells(cells, lambda cell: cell["mistake"].get("all"), "top"),
        "mistake results": of_cells(cells, lambda cell: cell["mistake"].get("results")),
        "right results": of_cells(cells, lambda cell: cell["mistake"].get("right results")),
        "mistake side": of_cells(cells, lambda cell: cell["mistake"].get("wrong side results")),
        "grid": grid_table(reference(cells, "chains")[1]),
        "moved": moved_table(cells),
        "carried": carried_table(cells),
        "weights": weights_table(reference(cells, "chains")[1]),
        "clipping": clipping_table(cells),
    }
    for which in ("wrong", "correct"):
        for name in ("all", "results", "earlier results"):
            by_name[f"relevance {which} {name}"] = of_cells(
                chains, lambda cell, which=which, name=name: cell["relevance"][which].get(name)
            )
    for way in ("finished", "kept"):
        for name in ("all", "results"):
            by_name[f"{way} {name}"] = of_cells(
                cells, lambda cell, way=way, name=name: cell["intervention"]["auc"][way].get(name)
            )
    return by_name


if __name__ == "__main__":
    cells = read_cells()
    draw_scores(cells)
    draw_depth(cells)
    draw_cells(cells)
    for name, text in tables(cells).items():
        replace_block(DOCUMENTS / "credit.md", name, text)
