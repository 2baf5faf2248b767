"""The notebooks run from top to bottom and are stored without their outputs."""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
_CLIENT = ("nbclient", "nbformat", "ipykernel")


def _code(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [c for c in cells if c["cell_type"] == "code"]


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_outputs_are_stripped(path: Path) -> None:
    for cell in _code(path):
        assert cell["outputs"] == [] and cell["execution_count"] is None


@pytest.mark.numba
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if all(importlib.util.find_spec(name) for name in _CLIENT):
        nbformat = importlib.import_module("nbformat")
        notebook = nbformat.read(path, as_version=4)
        importlib.import_module("nbclient").NotebookClient(notebook, timeout=120).execute()
        return
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in _code(path):
        text = "".join(cell["source"])
        exec(compile(text, f"{path.name}[{cell['id']}]", "exec"), names)
