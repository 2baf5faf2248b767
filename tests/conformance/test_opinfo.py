"""Torch's operator database through the compiler: a part of it always, all of it when asked."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from conformance import opinfo

STRIDE = 6  # every sixth entry with its first sample: about 110 compiles
# Samples (entry, index) that were wrong, failed or crashed once, whatever the stride.
REGRESSIONS: tuple[tuple[str, int], ...] = (
    ("broadcast_shapes", 2),  # a torch.Size came back as a tuple
    ("chalf", 0),  # a dtype that no type of the IR stands for
    ("hash_tensor", 0),
    ("to_sparse", 0),  # not refused before it ran
)
pytestmark = [pytest.mark.numba, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def operators() -> dict[str, object]:
    """Return the entries with float32 samples."""
    return opinfo.database()


def _report(bad: list[opinfo.Outcome]) -> str:
    return "\n".join(f"{o.status}: {o.entry}[{o.index}] {o.why}" for o in bad)


def test_a_part_of_the_operators(operators: dict[str, object]) -> None:
    found: list[opinfo.Outcome] = []
    for name in list(operators)[::STRIDE]:
        for index, sample in opinfo.samples(operators[name], 1):
            found.append(opinfo.run(name, operators[name], index, sample))
    bad = [o for o in found if o.status in opinfo.BAD]
    assert not bad, _report(bad)
    counts = Counter(o.status for o in found)
    assert counts[opinfo.NATIVE] >= len(found) // 3, counts


@pytest.mark.parametrize(("name", "index"), REGRESSIONS)
def test_once_wrong(operators: dict[str, object], name: str, index: int) -> None:
    op = operators[name]
    at, sample = next(opinfo.samples(op, start=index))
    outcome = opinfo.run(name, op, at, sample)
    assert outcome.status not in opinfo.BAD, _report([outcome])


@pytest.mark.slow
def test_every_sample_of_every_operator(tmp_path: Path) -> None:
    from tests.conformance.run import main

    assert main(["--json", str(tmp_path / "opinfo.jsonl")]) == 0
