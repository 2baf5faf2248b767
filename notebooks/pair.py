"""Pairs each notebook with its text: ``python notebooks/pair.py`` writes every .ipynb anew.

The text, a script in jupytext's percent format, is what people edit and what a diff shows. The
notebook is made from it, without outputs.
"""

from __future__ import annotations

from pathlib import Path

import jupytext
import nbformat

FOLDER = Path(__file__).resolve().parent
SCRIPTS = tuple(sorted(FOLDER.glob("[0-9]*.py")))
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def notebook(script: Path) -> nbformat.NotebookNode:
    """Return the notebook of a script; its cells are numbered, so that it is always the same."""
    made = jupytext.read(script, fmt="py:percent")
    made.metadata = nbformat.from_dict(_METADATA)
    made.nbformat, made.nbformat_minor = 4, 5
    for i, cell in enumerate(made.cells):
        cell.id, cell.metadata = f"cell-{i:02}", nbformat.from_dict({})
    return made


def write(script: Path) -> Path:
    """Write the notebook of a script beside it and return its path."""
    path = script.with_suffix(".ipynb")
    path.write_text(nbformat.writes(notebook(script)) + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    for one in SCRIPTS:
        print(write(one).name)
