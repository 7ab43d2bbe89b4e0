"""Draws the records in a folder: `python -m grail_verl.look.report DIR`.

Writes DIR/report/: report.html, which needs no network, numbers.json with every number that a figure draws, and each
figure as PNG. DIR is a folder that records.py reads.
"""

import argparse
import json
import sys
from pathlib import Path

from grail_verl.look import records
from grail_verl.look.report.figures import figures
from grail_verl.look.report.page import page
from grail_verl.look.report.statistics import numbers


def main(arguments: list[str] | None = None) -> None:
    """Runs the command; ends it with a message where a user can do something about it."""
    parser = argparse.ArgumentParser(
        prog="python -m grail_verl.look.report", description="A page that shows what weights a run's tokens got."
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="records of training or of grail_verl.attribute")
    folder = parser.parse_args(arguments).folder
    try:
        found = records.read(folder)
        if not found.responses:
            raise ValueError(f"{folder} holds settings but no responses yet: was the run ended in its first step?")
    except ValueError as error:
        sys.exit(f"grail_verl.look.report: {error}")
    print(write(folder / "report", found))


def write(folder: Path, found: records.Records) -> Path:
    """Writes the report on these records.

    Returns:
        The page.

    Raises:
        OSError: the folder cannot be written to.
    """
    folder.mkdir(exist_ok=True)
    drawn = numbers(found)
    (folder / "numbers.json").write_text(json.dumps(drawn, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    shown = figures(drawn)
    for figure in shown:
        (folder / f"{figure.name}.png").write_bytes(figure.light)
    path = folder / "report.html"
    path.write_bytes(page(found, drawn, shown))
    return path


if __name__ == "__main__":
    main()
