"""The house rules that no linter knows: sizes, names of modules, bare imports, lazy import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = sorted(
    p for d in ("leptonc", "passes", "backends") for p in (ROOT / d).rglob("*.py")
    if p.relative_to(ROOT).parts[1:2] not in (("passes",), ("backends",)) or d != "leptonc"
)  # fmt: skip
MAX_LINES, MAX_FUNCTION, MAX_WIDTH = 400, 50, 100


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of code of a function: its docstring does not count."""
    body = node.body
    has_doc = isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
    start = (body[0].end_lineno or 0) + 1 if has_doc else node.lineno
    return (node.end_lineno or 0) - start + 1


@pytest.mark.parametrize("path", CODE, ids=_name)
def test_sizes(path: Path) -> None:
    text = path.read_text()
    lines = text.splitlines()
    assert len(lines) <= MAX_LINES, f"{len(lines)} lines: split by what a reader looks for"
    wide = [i for i, line in enumerate(lines, 1) if len(line) > MAX_WIDTH]
    assert not wide, f"lines longer than {MAX_WIDTH}: {wide}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert _length(node) <= MAX_FUNCTION, f"{node.name} has {_length(node)} lines"


@pytest.mark.parametrize("path", CODE, ids=_name)
def test_module_has_a_docstring_and_a_telling_name(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the first line says where the reader is"
    assert path.stem not in {"utils", "helpers", "misc", "common"}


def test_nothing_imports_the_bare_folders() -> None:
    for path in [*CODE, *(ROOT / "tests").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            )
            names += [a.name for a in node.names] if isinstance(node, ast.Import) else []
            bare = [n for n in names if n.split(".")[0] in ("passes", "backends")]
            assert not bare, f"{_name(path)} imports {bare}: use leptonc.passes, leptonc.backends"


def test_environment_is_read_in_one_place() -> None:
    allowed = ("leptonc/settings.py", "leptonc/cli/")
    for path in CODE:
        text = path.read_text()
        if "os.environ" in text or "getenv" in text:
            assert _name(path).startswith(allowed), f"{_name(path)} reads the environment"


def test_import_is_light() -> None:
    code = (
        "import sys, leptonc; print([m for m in ('torch', 'numba', 'numpy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
