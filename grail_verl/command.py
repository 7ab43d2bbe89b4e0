"""What every command of `grail-verl` shares: the error that a user can do something about."""

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
