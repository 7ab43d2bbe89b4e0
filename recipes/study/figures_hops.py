"""Writes the tables of docs/hops.md, each between its markers:

    python -m recipes.study.figures_hops

Out of recipes/study/results/credit (credit_cells.py) and recipes/study/results/hops (hop_variants.py). Nothing is
computed here: a number stands in a file as it was found.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from grail_verl.credit.config import HOPS
from recipes.study.document import markdown_table, replace_block
from recipes.study.figures_credit import FEWEST, read_cells
from recipes.study.hop_variants import PLAIN

PAGE, RESULTS = Path("docs/hops.md"), Path("recipes/study/results/hops")
FIRST_MISTAKE = "first mistake / all other tokens"
QUESTIONS = {
    "used / side results, wrong responses": ("relevance", "wrong", "results"),
    "used / side results, right responses": ("relevance", "correct", "results"),
    "used tokens / side and filler, wrong responses": ("relevance", "wrong", "all"),
    "used tokens / side and filler, right responses": ("relevance", "correct", "all"),
    FIRST_MISTAKE: ("mistake", "all"),
    "first mistake / wrong side results": ("mistake", "wrong side results"),
    "first mistake / right results": ("mistake", "results"),
}
OF_SIGNS = ("used / side results, wrong responses", "used tokens / side and filler, wrong responses", FIRST_MISTAKE)
OF_VARIANTS = {
    "used / side results": ("relevance", "results"),
    "used tokens / side and filler": ("relevance", "all"),
    FIRST_MISTAKE: ("mistake", "all"),
}
CONTROLS = {"surprise": "−log p", f"surprise × {PLAIN}/3": "× 3 hops"}


def found(results: dict, keys: tuple[str, ...]) -> dict | None:
    """The comparison; None where too few responses allow it, or where the cell is older than hops."""
    for key in keys:
        results = results.get(key, {})
    shown = results.get("responses", 0) >= FEWEST and f"{PLAIN}/{HOPS}" in results["scores"]
    return results if shown else None


def table(rows: Mapping[tuple[str, str], dict], scores: Mapping[str, str]) -> str:
    """AUC, means over responses; in the last column the largest distance of a row's means from the ends of their 95 %
    intervals. Rows by two labels; scores down to their labels."""
    lines = []
    for labels, comparison in rows.items():
        values = [comparison["scores"][score]["auc"] for score in scores]
        widest = max(abs(mean - end) for mean, *ends in values for end in ends)
        means = (f"{mean:.2f}" for mean, *_ in values)
        lines.append([*labels, comparison["responses"], *means, f"{widest:.2f}"])
    return markdown_table(["", "", "responses", *scores.values(), "±"], lines)


def of_cells(cells: dict[str, dict], questions: Mapping[str, tuple[str, ...]]) -> dict[tuple[str, str], dict]:
    rows = {(question, name): found(cell, keys) for question, keys in questions.items() for name, cell in cells.items()}
    return {labels: comparison for labels, comparison in rows.items() if comparison}


def hops_of(variant: str, first: int = 0) -> dict[str, str]:
    return {f"{variant}/{hops}": str(hops) for hops in range(first, HOPS + 1)}


def tables(cells: dict[str, dict], variants: dict[str, dict]) -> dict[str, str]:
    none = {"grail/embeddings/token": "0"}
    of_signs = {question: QUESTIONS[question] for question in OF_SIGNS}
    by_name = {
        "cells": table(of_cells(cells, QUESTIONS), none | hops_of(PLAIN, first=1) | CONTROLS),
        "signs": table(of_cells(cells, of_signs), none | hops_of("hops±", first=1)),
    }
    for name, result in variants.items():
        rows = {question: comparison for question, keys in OF_VARIANTS.items() if (comparison := found(result, keys))}
        scores = next(iter(rows.values()))["scores"]
        of_name = [score.removesuffix("/0") for score in scores if score.endswith("/0") and " × " not in score]
        lines = [
            table({(question, variant): comparison}, hops_of(variant)).splitlines()
            for question, comparison in rows.items()
            for variant in of_name
        ]
        by_name[name] = "\n".join(lines[0][:2] + [of_row[2] for of_row in lines])
    return by_name


def read_variants() -> dict[str, dict]:
    return {file.stem: json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))}


if __name__ == "__main__":
    for name, text in tables(read_cells(), read_variants()).items():
        replace_block(PAGE, name, text)
