"""What commands of `grail-verl` share: the error that a user can do something about, and the trust in a checkpoint."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager


class CommandError(Exception):
    """What a user has to know and can act on: `grail-verl` prints it without a traceback."""


@contextmanager
def mendable(*kinds: type[Exception]) -> Iterator[None]:
    """Errors of these kinds, raised within, are the user's to mend: CommandErrors in the same words."""
    try:
        yield
    except kinds as error:
        raise CommandError(str(error)) from error


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """For `find_model` in model.py."""
    parser.add_argument(
        "--trust-checkpoint",
        action="store_true",
        help="a checkpoint's files may run code: they are pickled, and without this only weights are read from them",
    )
