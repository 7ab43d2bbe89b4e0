"""docs/matrix.md names tests that exist, and leaves none of the matrix out."""

import importlib
import re
from pathlib import Path

import pytest
import test_matrix

pytestmark = pytest.mark.fast

ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (Path(__file__).parents[2] / "docs" / "matrix.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith(("| | |", "| ---"))
]


def named(cell: str) -> list[tuple[str, str]]:
    """(module, test or case) of "test_module: `one` · `another`; test_other: `third`"."""
    return [
        (module, name)
        for module, names in re.findall(r"(test_\w+): ((?:`[^`]+`(?: · )?)+)", cell)
        for name in re.findall(r"`([^`]+)`", names)
    ]


def known(module: str) -> set[str]:
    contents = vars(importlib.import_module(module))
    tables = (contents.get(table, {}) for table in ("CASES", "RUNS", "AROUND"))
    return {name for name in contents if name.startswith("test_")}.union(*tables)


def test_every_row_that_works_names_tests_that_exist():
    assert len(ROWS) > 40
    for way, status, tests in ROWS:
        assert status == "not run" or named(tests) or "every case" in tests, way
        for module, name in named(tests):
            assert name in known(module), (way, module, name)


def test_every_case_of_the_matrix_has_a_row():
    in_rows = {name for *_, tests in ROWS for module, name in named(tests) if module == "test_matrix"}
    assert in_rows == set(test_matrix.CASES)
