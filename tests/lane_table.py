"""The table that the GPU lane ends with (docs/gpu.md): on the terminal, and into the file of `--table FILE`, both in
Markdown. Of each case the verdict, the seconds, and the largest departure from the plain model; what of them a test
knows it has recorded as its properties. An interrupt leaves the table of what was done until then."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ASKED = pytest.StashKey[list[str]]()  # of this lane's tests, those that were collected
PACKAGES = ("torch", "triton", "transformers", "verl", "flash-attn", "liger-kernel", "vllm", "sglang")


def pytest_addoption(parser):
    parser.addoption("--table", type=Path, metavar="FILE", help="the GPU lane's table goes there, too")


def pytest_collection_finish(session):
    session.config.stash[ASKED] = [item.nodeid for item in session.items if "test_gpu.py::" in item.nodeid]


def pytest_terminal_summary(terminalreporter, config):
    outcomes = ("failed", "error", "passed", "skipped")
    reports = [(outcome, report) for outcome in outcomes for report in terminalreporter.getreports(outcome)]
    asked = config.stash.get(ASKED, [])
    if not asked:
        return
    done = {report.nodeid: _row(outcome, report) for outcome, report in reports if report.nodeid in asked}
    rows = [done.get(nodeid, f"| {_name(nodeid)} | not run | | |") for nodeid in asked]
    table = "\n".join(["| case | | seconds | largest departure |", "| --- | --- | --- | --- |", *rows])
    text = f"{machine()}\n\n{table}\n"
    terminalreporter.section("the GPU lane")
    terminalreporter.write_line(text)
    if config.option.table is not None:
        config.option.table.write_text(text, encoding="utf-8")


def machine() -> str:
    """The devices and what is installed, in one line."""
    from verl.utils.device import get_torch_device

    device, installed = get_torch_device(), []
    for package in PACKAGES:
        try:
            installed.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            installed.append(f"no {package}")
    return f"{device.device_count()} × {device.get_device_name()}; {', '.join(installed)}"


def _name(nodeid: str) -> str:
    return nodeid.partition("::")[2].removeprefix("test_case[").removesuffix("]")


def _row(outcome: str, report) -> str:
    known = dict(report.user_properties)
    verdict = {"passed": "works", "skipped": "skipped", "failed": "FAILED", "error": "FAILED"}[outcome]
    if outcome == "skipped":
        verdict += f": {report.longrepr[2].removeprefix('Skipped: ')}"
    seconds, departure = known.get("seconds"), known.get("departure")
    return (
        f"| {_name(report.nodeid)} | {verdict} | {'' if seconds is None else f'{seconds:.1f}'} | "
        f"{'' if departure is None else f'{departure:.1g}'} |"
    )
