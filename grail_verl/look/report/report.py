"""`grail-verl report DIR`: draws the records in a folder, from records.py to the last room, page.py.

Writes DIR/report/: report.html, which needs no network, numbers.json with every number that a figure draws, and each
figure as PNG.
"""

import argparse
import json
from pathlib import Path

from grail_verl.command import CommandError, mendable
from grail_verl.look import records
from grail_verl.look.report.figures import figures
from grail_verl.look.report.page import page
from grail_verl.look.report.statistics import numbers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=Path, help="records of training or of grail-verl attribute")


def run(options: argparse.Namespace) -> None:
    """Raises CommandError: the folder holds no responses, or others than records.py writes, or cannot be written to."""
    with mendable(ValueError, OSError):
        found = records.read(options.folder)
    if not found.responses:
        raise CommandError(
            f"{options.folder} holds settings but no responses yet: was the run ended in its first step?"
        )
    with mendable(OSError):
        print(write(options.folder / "report", found))


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
