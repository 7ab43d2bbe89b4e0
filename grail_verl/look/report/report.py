"""`grail-verl report DIR`: draws the records in a folder, from records.py to the last room, page.py.

Writes DIR/report/: report.html, which needs no network, numbers.json with every number that a figure draws, and each
figure as PNG.
"""

import argparse
import contextlib
import json
import os
from pathlib import Path

from grail_verl.command import CommandError, mendable
from grail_verl.look import records
from grail_verl.look.report.figures import figures
from grail_verl.look.report.page import page
from grail_verl.look.report.statistics import numbers
from grail_verl.look.report.watch import watch
from grail_verl.printable import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=Path, help="records of training or of grail-verl attribute")
    parser.add_argument(
        "--watch", action="store_true", help="go on, and write the report anew as the records of a run grow"
    )


def run(options: argparse.Namespace) -> None:
    """Raises CommandError: the folder holds no responses, or others than records.py writes, or cannot be written to.
    A run that is watched may have written nothing yet: then that is said, and waited for."""
    if not options.watch:
        print(_written(options.folder))
        return
    said = None

    def written() -> None:
        nonlocal said
        try:
            now = str(_written(options.folder, watched=True))
        except CommandError as error:
            now = f"waiting: {error}"
        if now != said:
            print(printable(now), flush=True)
        said = now

    with contextlib.suppress(KeyboardInterrupt):
        watch(options.folder, written)


def _written(folder: Path, watched: bool = False) -> Path:
    with mendable(ValueError, OSError):
        found = records.read(folder)
    if not found.responses:
        raise CommandError(f"{folder} holds settings but no responses yet: was the run ended in its first step?")
    with mendable(OSError):
        return write(folder / "report", found, watched)


def write(folder: Path, found: records.Records, watched: bool = False) -> Path:
    """Writes the report on these records; whoever opens the page meanwhile sees the old one or the new one whole.

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
    whole = path.with_suffix(".new")
    whole.write_bytes(page(found, drawn, shown, watched=watched))
    os.replace(whole, path)
    return path
