"""Pictures in verl's loggers, as pixels: those of a run, and what they should be by the report's own hand."""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from grail_verl.look import records
from grail_verl.look.report.figures import figures
from grail_verl.look.report.statistics import numbers


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def in_tensorboard(folder: Path) -> dict[tuple[str, int], np.ndarray]:
    """Of a folder of event files: (name, step) → picture."""
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    named = [(name, picture) for name in events.Tags()["images"] for picture in events.Images(name)]
    found = {(name, picture.step): pixels(picture.encoded_image_string) for name, picture in named}
    assert len(found) == len(named)
    return found


def drawn(folder: Path, step: int) -> dict[tuple[str, int], np.ndarray]:
    """The same of a folder of records."""
    found = records.read(folder)
    of_step = records.Records(found.settings, [one for one in found.responses if one["step"] == step], {})
    return {(f"actor/grail/{figure.name}", step): pixels(figure.light) for figure in figures(numbers(of_step))}


def same(some: dict, others: dict) -> bool:
    return some.keys() == others.keys() and all(np.array_equal(some[key], others[key]) for key in some)
