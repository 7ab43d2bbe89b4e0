"""Rules in modules of one's own (`algorithm.grail.modules`), imported so that they register themselves.

At the start of the data's way: *options* → responses → answers → scores → weights → advantages. A module is imported
in the driver, before the options are checked, and in every worker.
"""

import importlib
import importlib.util
import os
import socket
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from grail_verl.credit.config import SECTION
from grail_verl.credit.scores import SCORES
from grail_verl.credit.weights import WEIGHTS

PACKAGE = "pkg://"


def absolute(module: str) -> str:
    """A file by its absolute path, since Ray's workers run elsewhere; a pkg:// name as it is."""
    return module if module.startswith(PACKAGE) else os.path.abspath(os.path.expanduser(module))


def load_modules(modules: Sequence[str]) -> None:
    """Imports each, once in a process.

    Args:
        modules: files, and names of modules behind `pkg://`.

    Raises:
        ValueError: one is missing, or raises, or registers a name that is taken; names it and this host.
    """
    for module in modules:
        before = [(registry, dict(registry.rules)) for registry in (SCORES, WEIGHTS)]
        try:
            if module.startswith(PACKAGE):
                importlib.import_module(module.removeprefix(PACKAGE))
            else:
                _load_file(Path(absolute(module)))
        except (Exception, SystemExit) as error:  # one that exits would end the command without a word
            for registry, rules in before:  # as if it had never been: mended, it can be loaded again
                registry.rules = rules
            last = traceback.extract_tb(error.__traceback__)[-1]
            raise ValueError(
                f"{SECTION}.modules: {module} cannot be used on {socket.gethostname()}: "
                f"{type(error).__name__}: {error} ({last.filename}, line {last.lineno}); allowed: a file of Python, or "
                f"{PACKAGE} and the name of a module"
            ) from error


def _load_file(path: Path) -> None:
    name = "grail_verl.modules:" + str(path)  # no name that an import statement could mean
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise ImportError("it does not end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there for the module that they are in
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
