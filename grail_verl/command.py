"""What every command of `grail-verl` shares: the error that a user can do something about."""


class CommandError(Exception):
    """What a user has to know and can act on: `grail-verl` prints it without a traceback."""
