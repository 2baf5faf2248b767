"""Text tests: ``tests/lir/<pass>/<case>.lir`` holds a pipeline, an input and the expected output.

::

    // pipeline: simplify,dce
    func @f(...) { ... }
    // -----
    func @f(...) { ... }

``pytest tests/lir --update-lir`` rewrites the expected outputs.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from leptonc import passes
from leptonc.ir.text import dump, parse
from leptonc.pipeline import PassManager

HERE = Path(__file__).parent
CASES = sorted(HERE.glob("*/*.lir"))
SPLIT = "// -----"
HEAD = "// pipeline: "


@pytest.mark.parametrize("path", CASES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_case(path: Path, request: pytest.FixtureRequest) -> None:
    text = path.read_text()
    head, _, rest = text.partition("\n")
    assert head.startswith(HEAD), f"{path}: the first line must be '{HEAD}...'"
    before, _, want = rest.partition(f"\n{SPLIT}\n")
    manager = PassManager(passes.pipeline(head.removeprefix(HEAD)))
    got = dump(manager.run(parse(before)))
    if request.config.getoption("--update-lir"):
        path.write_text(f"{head}\n{before.strip()}\n{SPLIT}\n{got}\n")
        return
    assert got == want.strip()


def test_there_are_cases_for_every_text_pass() -> None:
    assert {p.parent.name for p in CASES} >= {"simplify", "recognize", "cse", "dce"}
