"""`grail-verl COMMAND …`, or `python -m grail_verl COMMAND …`: what there is beside training.

A command is a module with `add_arguments(parser)` and `run(options)`. Only the chosen one is imported: help comes at
once, and what another command needs may be missing. `run` raises CommandError for what a user can mend, which ends in a
line without a traceback, and argparse.ArgumentError for arguments that do not go together, which argparse reports.
"""

import argparse
import importlib
import sys
from typing import NamedTuple

from grail_verl.command import CommandError
from grail_verl.printable import printable


class Command(NamedTuple):
    """One of `grail-verl`.

    Attributes:
        module: where it is.
        about: a sentence for the help.
        packages: what pip is asked for where a package is missing; never a torch of another build than is there.
    """

    module: str
    about: str
    packages: str


COMMANDS = {
    "data": Command("grail_verl.evaluation.data", "A published data set as verl reads it.", "pyarrow tqdm"),
    "evaluate": Command(
        "grail_verl.evaluation.evaluate",
        "Accuracy and Pass@3 on the benchmarks of arXiv 2606.04889.",
        'verl==0.9.1 "grail-verl[math]"',
    ),
    "compare": Command(
        "grail_verl.evaluation.compare",
        "Differences between evaluations, with bootstrap intervals.",
        "pandas pyarrow rich",
    ),
    "attribute": Command(
        "grail_verl.look.attribute",
        "One response in the colours of its weights, or records of many.",
        "torch transformers rich",
    ),
    "report": Command(
        "grail_verl.look.report.report", "A page that shows what weights a run's tokens got.", '"grail-verl[report]"'
    ),
}


def main(arguments: list[str] | None = None) -> None:
    """Runs a command.

    Args:
        arguments: its name and its own arguments; those of the process if None.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    chooser = argparse.ArgumentParser(
        prog="grail-verl",
        usage="grail-verl [-h] COMMAND ...",
        description="GRAIL for verl, beside training.",
        epilog="\n".join(["commands:", *(f"  {name:11}{command.about}" for name, command in COMMANDS.items())]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    chooser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below, each with a --help")
    name = chooser.parse_args(arguments[:1] or ["--help"]).command

    command = COMMANDS[name]
    parser = argparse.ArgumentParser(prog=f"grail-verl {name}", description=command.about)
    try:
        module = importlib.import_module(command.module)
        module.add_arguments(parser)
        module.run(parser.parse_intermixed_args(arguments[1:]))
    except argparse.ArgumentError as error:
        parser.error(printable(str(error)))
    except CommandError as error:
        sys.exit(printable(f"{parser.prog}: {error}"))  # it may quote a file, a model or a server
    except ModuleNotFoundError as error:
        if not error.name or "." in error.name:  # a package that is there lacks a part: no installation mends that
            raise
        sys.exit(f"{parser.prog}: {error.name} is not installed: pip install {command.packages}")


if __name__ == "__main__":
    main()
