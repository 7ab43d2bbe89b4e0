"""docs/matrix.md and docs/upstream.md name tests that exist, and leave none of theirs out."""

import importlib
import re
from pathlib import Path

import pytest
import test_gpu
import test_matrix
import test_upstream
import test_veomni
from strategies import strategies

pytestmark = pytest.mark.fast


def rows(page: str) -> list[list[str]]:
    lines = (Path(__file__).parents[2] / "docs" / page).read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return [row for row in cells if row[-1] != "tested by" and set(row[0]) != {"-"}]


ROWS, UPSTREAM = rows("matrix.md"), rows("upstream.md")


def named(cell: str) -> list[tuple[str, str]]:
    """(module, test or case) of "test_module: `one` · `another`; test_other: `third`"."""
    return [
        (module, name)
        for module, names in re.findall(r"(test_\w+): ((?:`[^`]+`(?: · )?)+)", cell)
        for name in re.findall(r"`([^`]+)`", names)
    ]


def known(module: str) -> set[str]:
    contents = vars(importlib.import_module(module))
    tables = (contents.get(table, {}) for table in ("CASES", "RUNS", "AROUND", "IN_SOURCE"))
    return {name for name in contents if name.startswith("test_")}.union(*tables)


def test_every_row_that_works_names_tests_that_exist():
    assert len(ROWS) > 40
    for way, status, tests in ROWS:
        assert status == "not run" or named(tests) or "every case" in tests, way
        for module, name in named(tests):
            assert name in known(module), (way, module, name)


@pytest.mark.parametrize("module", [test_matrix, test_veomni])
def test_every_case_of_the_matrix_has_a_row(module):
    in_rows = {name for *_, tests in ROWS for where, name in named(tests) if where == module.__name__}
    assert set(module.CASES) == {name for name in in_rows if not name.startswith("test_")}


def test_every_case_that_is_the_gpu_lanes_own_has_a_row():
    in_rows = {name for *_, tests in ROWS for module, name in named(tests) if module == "test_gpu"}
    assert in_rows == test_gpu.CASES.keys() - test_matrix.CASES.keys() | {"test_main_ppo"}


def test_every_strategy_of_verl_has_a_row():
    in_rows = {name for way, *_ in ROWS for name in re.findall(r"`([^`]+)`", way)}
    assert strategies() <= in_rows


def test_every_fault_of_verls_has_a_row_and_a_test_that_exists():
    named_there = {pair for *_, tests in UPSTREAM for pair in named(tests)}
    assert named_there == {
        ("test_upstream", name) for name in known("test_upstream") - {"test_it_is_still_in_verls_source"}
    }
    assert len(test_upstream.IN_SOURCE) > 10
