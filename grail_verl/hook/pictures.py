"""The report's figures of a step in verl's logger, once in `algorithm.grail.log_pictures` steps.

Behind dump.py, at the other end of a run: in the trainer's process, around verl's Tracking (patches.py), whose backends
a trainer hands numbers alone. What a step is drawn from are its records, which are written when its metrics are logged.
"""

import io
import logging
from collections.abc import Callable, Mapping
from typing import Any

from grail_verl.hook.launch import ESTIMATOR, METRICS
from grail_verl.look.records import read_last
from grail_verl.printable import told

logger = logging.getLogger(__name__)


def _to_tensorboard(adapter) -> Callable:
    import numpy as np

    add = adapter.writer.add_image
    return lambda name, picture, step: add(name, np.asarray(picture), step, dataformats="HWC")


def _to_wandb(wandb) -> Callable:
    return lambda name, picture, step: wandb.log({name: wandb.Image(picture)}, step=step)


TAKERS = {"tensorboard": _to_tensorboard, "wandb": _to_wandb}  # by verl's names of its backends


class Pictures:
    """Draws and hands over.

    Args:
        folder: of the records.
        every: so many steps.
        backends: name → verl's, of which some take pictures.

    Raises:
        ImportError: no matplotlib here.
    """

    def __init__(self, folder: str, every: int, backends: Mapping[str, Any]):
        import matplotlib  # noqa: F401  now, and not in the step that is first drawn

        self._folder, self._every = folder, every
        self._take = [take(backends[name]) for name, take in TAKERS.items() if name in backends]

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Where it is a step's turn and its actor was updated. Whatever fails, as without records here, where workers
        write on another machine, there is a line in the log and no picture: none is worth a run."""
        if step % self._every or not any(name.startswith(METRICS) for name in metrics):
            return
        try:
            self._draw(step)
        except Exception as error:
            logger.warning("no pictures of step %d: %s", step, told(error))

    def _draw(self, step: int) -> None:
        from PIL import Image  # comes with matplotlib

        from grail_verl.look.report.figures import figures
        from grail_verl.look.report.statistics import numbers

        for figure in figures(numbers(read_last(self._folder))):
            picture = Image.open(io.BytesIO(figure.light)).convert("RGB")
            for take in self._take:
                take(METRICS + figure.name, picture, step)


def pictures_of(config: Any, backends: Mapping[str, Any]) -> Pictures | None:
    """Those that a run's options ask for.

    Args:
        config: verl's whole one, as its trainers hand it to their logger; others may hand over anything. One that
            `prepare` has not seen is require_prepared's to refuse.
        backends: see `Pictures`.
    """
    match config:
        case {"algorithm": {"adv_estimator": str(name), "grail": {"dump_dir": folder, "log_pictures": every}}}:
            return Pictures(folder, every, backends) if name == ESTIMATOR and every else None
    return None
