"""GRAIL for verl: token-level credit from the gradient of a response's own answer.

The public names are loaded when they are asked for: `import grail_verl` needs neither verl nor torch. verl finds the
plugin through its entry point (plugin.py). Rooms, each of which knows those below it alone:

    plugin.py     registers with verl
    evaluation/   the paper's benchmarks: data, evaluate, compare
    hook/         GRAIL in verl's actor worker
    look/         what weights were given: records, report, attribution
    reward/       right or wrong
    credit/       what a token gets: the method
    cpu/          verl without an accelerator

`grail-verl` is the command (__main__.py); docs/house.md walks through the rooms.
"""

import importlib

_HOMES = {
    "AnswerLocator": "grail_verl.credit.answer",
    "GrailConfig": "grail_verl.credit.config",
    "RolloutBatch": "grail_verl.credit.batch",
    "Score": "grail_verl.credit.scores",
    "Weights": "grail_verl.credit.weights",
    "answer_saliency": "grail_verl.credit.scores.saliency",
    "attribute": "grail_verl.look.attribute",
    "register_score": "grail_verl.credit.scores",
    "register_weights": "grail_verl.credit.weights",
    "token_weights": "grail_verl.credit.rule",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
