"""docs/first_look.ipynb runs from its first cell to its last in a kernel of Jupyter's, and shows what it says."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "docs" / "first_look.ipynb"


def shown(notebook) -> list[tuple[str, set[str]]]:
    """Text and kinds of what each cell gave; the kinds of what it printed are none."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    data = [output.get("data", {}) for output in outputs]
    texts = [output.get("text") or of.get("text/html") or of["text/plain"] for output, of in zip(outputs, data)]
    return list(zip(texts, map(set, data)))


@pytest.mark.fast
def test_the_notebook_is_stored_with_what_it_gave():
    kinds = [kinds for _, kinds in shown(nbformat.read(NOTEBOOK, as_version=4))]
    assert kinds == [{"text/plain"}, set(), *3 * [{"text/html", "text/plain"}]]


def test_the_notebook_runs_and_ends_with_coloured_responses():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": NOTEBOOK.parent}}).execute()
    sampled, table, *coloured = (text for text, _ in shown(notebook))
    assert r"\\boxed{" in sampled and "AnswerSpan(" in sampled
    assert len([line for line in table.splitlines() if "weight" in line]) > 5 and " 5.00" in table
    assert len(coloured) == 3
    for html in coloured:
        assert html.count("background-color: #") > 3 and "weights before the answer" in html
