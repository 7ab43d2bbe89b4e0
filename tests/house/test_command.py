"""`grail-verl`: the commands that there are, how each is started, and how what goes wrong is said."""

import argparse
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from grail_verl.__main__ import COMMANDS, Command, main
from grail_verl.command import CommandError

HEAVY = {"torch", "pyarrow", "pandas", "numpy", "matplotlib", "transformers", "verl", "omegaconf", "hydra", "rich"}
STARTED = {"script": [shutil.which("grail-verl", path=Path(sys.executable).parent)], "module": ["-m", "grail_verl"]}


def started(way: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *STARTED[way], *arguments], capture_output=True, text=True, timeout=120,
        env={**os.environ, "COLUMNS": "100"},
    )  # fmt: skip


@pytest.mark.parametrize("arguments", [["--help"], [], *([name, "--help"] for name in COMMANDS)])
def test_both_ways_to_start_give_the_same_help(arguments):
    script, module = started("script", *arguments), started("module", *arguments)
    assert script.returncode == module.returncode == 0
    assert script.stdout == module.stdout and script.stderr == module.stderr == ""
    name = arguments[0] if len(arguments) > 1 else None
    assert script.stdout.startswith(f"usage: grail-verl {name} [-h] " if name else "usage: grail-verl [-h] COMMAND")
    if name is None:
        lines = [line.split(maxsplit=1) for line in script.stdout.splitlines()]
        for name, command in COMMANDS.items():
            assert lines.count([name, command.about]) == 1


def run_after(preparation: str, *arguments: str) -> tuple[subprocess.CompletedProcess, set[str]]:
    """`main` in a new process, and the modules that are imported at its end."""
    script = f"""
import sys
{preparation}
from grail_verl.__main__ import main
try:
    main(sys.argv[1:])
finally:
    sys.stderr.flush()
    print("\\nimported", *(name for name, module in sys.modules.items() if module), flush=True)
"""
    run = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=120)
    return run, set(run.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("arguments", [["--help"], [], ["nonsense"]])
def test_help_imports_nothing_but_python(arguments):
    run, imported = run_after("", *arguments)
    assert run.returncode == (2 if arguments == ["nonsense"] else 0)
    tops = {name.partition(".")[0] for name in imported}
    assert "grail_verl" in tops and HEAVY.isdisjoint(tops)
    own = {name for name in imported if name.startswith("grail_verl.")}
    assert own == {"grail_verl.__main__", "grail_verl.command", "grail_verl.printable"}


def test_only_the_chosen_command_is_imported():
    run, imported = run_after("", "compare", "--help")
    assert run.returncode == 0
    assert imported & {command.module for command in COMMANDS.values()} == {COMMANDS["compare"].module}
    assert imported.isdisjoint({"torch", "matplotlib", "verl", "transformers"})


@pytest.mark.parametrize(
    ("name", "package"),
    [("report", "matplotlib"), ("attribute", "torch"), ("data", "pyarrow"), ("compare", "pandas")],
)
def test_a_missing_package_is_named_with_what_installs_it(name, package):
    run, _ = run_after(f"sys.modules[{package!r}] = None", name, "x")
    says = f"grail-verl {name}: {package} is not installed: pip install {COMMANDS[name].packages}\n"
    assert (run.returncode, run.stderr) == (1, says)


@pytest.mark.parametrize("way", STARTED)
def test_an_unknown_command_is_told_which_there_are(way):
    run = started(way, "nonsense", "--out", "x")
    assert run.returncode == 2 and run.stdout == ""
    *_, last = run.stderr.splitlines()
    assert last.startswith("grail-verl: error: argument COMMAND: invalid choice: 'nonsense'")
    assert all(name in last for name in COMMANDS)


def test_wrong_arguments_show_the_commands_own_usage(capsys):
    with pytest.raises(SystemExit) as end:
        main(["data", "math500"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("usage: grail-verl data [-h] ")
    assert said.endswith("grail-verl data: error: the following arguments are required: --out\n")


@pytest.mark.parametrize("way", STARTED)
def test_what_a_user_can_mend_ends_in_one_line(way, tmp_path):
    for arguments, says in {
        ("report", f"{tmp_path}/none"): f"report: {tmp_path}/none holds no records of responses",
        ("compare", f"{tmp_path}/a", f"{tmp_path}/b"): f"compare: {tmp_path}/a holds no finished evaluation",
        (
            "data", "aime24", "--out", f"{tmp_path}/out", "--source", f"{tmp_path}/none",
        ): f"data: {tmp_path}/none does not exist",
        (
            "evaluate", "policy", "--data", f"{tmp_path}/none", "--out", f"{tmp_path}/out",
        ): f"evaluate: {tmp_path}/none does not exist; write the benchmarks by grail-verl data",
        (
            "attribute", "policy", "--prompt", "a", "--response", "b", "lef=last",
        ): "attribute: unknown option algorithm.grail.lef='last'; did you mean leaf?",
    }.items():
        run = started(way, *arguments)
        assert run.returncode == 1 and run.stdout == ""
        assert run.stderr.startswith(f"grail-verl {says}") and run.stderr.count("\n") == 1


@pytest.fixture
def command(monkeypatch):
    """raising(error): a command of that name that does."""

    def raising(error: Exception) -> None:
        def run(options):
            raise error

        module = SimpleNamespace(add_arguments=lambda parser: None, run=run)
        monkeypatch.setitem(sys.modules, "a_command", module)
        monkeypatch.setitem(COMMANDS, "mine", Command("a_command", "Mine.", "cpu"))

    return raising


def test_errors_of_a_command(command, capsys):
    command(CommandError("mend this"))
    with pytest.raises(SystemExit) as end:
        main(["mine"])
    assert end.value.code == "grail-verl mine: mend this"

    command(argparse.ArgumentError(None, "one or the other"))
    with pytest.raises(SystemExit) as end:
        main(["mine"])
    assert end.value.code == 2
    assert capsys.readouterr().err == "usage: grail-verl mine [-h]\ngrail-verl mine: error: one or the other\n"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"), OSError("a bug"), KeyError("a bug"), ImportError("a bug"),
        # of a package that is there: nothing that could be installed would help
        ModuleNotFoundError("a bug", name="grail_verl.nowhere"), ModuleNotFoundError("a bug", name="verl.nowhere"),
    ],
)  # fmt: skip
def test_a_bug_keeps_its_traceback(command, error):
    command(error)
    with pytest.raises(type(error), match="a bug"):
        main(["mine"])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_the_same_two_functions(name):
    module = importlib.import_module(COMMANDS[name].module)
    assert {"add_arguments", "run"} <= vars(module).keys() and "main" not in vars(module)
