"""The documents name files and code that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ("README.md", "CONTRIBUTING.md")
_PATH = re.compile(r"`((?:leptonc|passes|backends|tests|notebooks)/[\w/.\-]*)`")
_CODE = re.compile(r"^( *)```python\n(.*?)^ *```", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_named_files_exist(name: str) -> None:
    named = set(_PATH.findall((ROOT / name).read_text()))
    assert named
    assert not [p for p in named if not (ROOT / p).exists()]


def test_python_of_the_readme_is_python() -> None:
    blocks = [code for _, code in _CODE.findall((ROOT / "README.md").read_text())]
    assert len(blocks) >= 4
    for code in blocks:
        ast.parse(code)


def test_examples_of_contributing_stand_in_the_repository() -> None:
    code = [p for d in ("leptonc", "passes", "backends") for p in (ROOT / d).rglob("*.py")]
    lines = {line.strip() for path in code for line in path.read_text().splitlines()}
    for _, block in _CODE.findall((ROOT / "CONTRIBUTING.md").read_text()):
        missing = [s for s in map(str.strip, block.splitlines()) if s and s not in lines]
        assert not missing, f"CONTRIBUTING.md shows what the code no longer says: {missing}"
