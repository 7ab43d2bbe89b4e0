"""What `python -m grail_verl.evaluate` and `python -m grail_verl.compare` are made of.

    problems → settings → model → validation (verl's, offline) or server (vLLM's, running) → results → bootstrap

Nothing here is imported by training.
"""


class EvaluationError(Exception):
    """What a user has to know and can act on: the commands print it without a traceback."""
