"""The notebook runs from top to bottom on the demo gallery."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "notebooks/search_my_photos.ipynb"


@pytest.mark.timeout(600)
# Of the Jupyter client's own making.
@pytest.mark.filterwarnings("default")
def test_the_notebook_runs(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SPIL_D2_NOTEBOOK", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=500, resources={"metadata": {"path": tmp_path}})
    client.execute()
    hits = json.loads((tmp_path / "hits.json").read_text())
    assert [hit["rank"] for hit in hits] == [1, 2, 3, 4, 5, 6]
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)


def test_it_is_kept_without_outputs() -> None:
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None
