"""The seeded faults are what they claim to be: they apply, differ, and name what exists."""

from __future__ import annotations

import ast
import os
import re
import time
from collections import Counter
from pathlib import Path

import pytest

from mutation.catalogue import BROADER, FAULTS
from mutation.fault import Fault, StaleFault
from mutation.models import MODELS
from mutation.run import _prepare
from mutation.table import totals
from mutation.worker import MACHINE_CODE, PINNED, forked

ROOT = Path(__file__).resolve().parents[2]
each_fault = pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.name)


@each_fault
def test_every_fault_still_applies(fault: Fault) -> None:
    text = (ROOT / fault.file).read_text()
    after = fault.mutated(text)
    assert after != text
    assert ast.dump(ast.parse(after)) != ast.dump(ast.parse(text)), "only text or comments differ"


@each_fault
def test_what_a_fault_names_exists(fault: Fault) -> None:
    assert fault.layer in BROADER
    assert set(fault.models) <= MODELS.keys()
    paths = [t for t in fault.tests if t.startswith("tests/")]
    assert paths, "a fault has tests of its own"
    assert all((ROOT / t).exists() for t in (*paths, *BROADER[fault.layer]))
    for pattern in fault.names:
        re.compile(pattern)
    assert fault.models or not fault.names, "without a model no self-check can name anything"


def test_there_are_many_kinds_in_every_layer() -> None:
    assert len(FAULTS) >= 60
    assert len({f.name for f in FAULTS}) == len(FAULTS)
    assert len({(f.file, f.before, f.after) for f in FAULTS}) == len(FAULTS)
    layers = Counter(f.layer for f in FAULTS)
    assert layers.keys() == BROADER.keys() and min(layers.values()) >= 8
    assert len({f.category for f in FAULTS}) >= 24


def test_a_fault_whose_text_is_gone_or_doubled_says_so() -> None:
    fault = FAULTS[0]
    for text in ("", 2 * f"{fault.before}\n"):
        with pytest.raises(StaleFault, match=fault.name):
            fault.mutated(text)


def test_the_fingerprint_can_be_pinned() -> None:
    assert (ROOT / MACHINE_CODE).read_text().count(PINNED) == 1


def test_models_are_the_same_for_the_same_seed() -> None:
    for name in ("conv_bn", "embedding", "row_maxima"):
        (net, args), (again, others) = MODELS[name].build(), MODELS[name].build()
        for a, b in zip(args, others, strict=True):
            assert a.equal(b) or (a.isnan() == b.isnan()).all()
        for p, q in zip(net.parameters(), again.parameters(), strict=True):
            assert p.equal(q)


def test_a_forked_process_gives_its_result_or_how_it_ended() -> None:
    def fall() -> None:
        raise ValueError

    assert forked(lambda: {"a": 1}, 30.0) == ({"a": 1}, "")
    assert forked(fall, 30.0) == (None, "crashes")
    assert forked(lambda: os.kill(os.getpid(), 9), 30.0)[1] == "crashes: signal 9"
    assert forked(lambda: time.sleep(60), 0.2)[1].startswith("hangs")


def test_a_fault_never_touches_the_checkout(tmp_path: Path) -> None:
    fault = FAULTS[0]
    before = (ROOT / fault.file).read_bytes()
    _prepare(tmp_path, tmp_path / "nothing")
    fault.apply(tmp_path / "tree")
    assert (ROOT / fault.file).read_bytes() == before
    assert (tmp_path / "tree" / fault.file).read_bytes() != before
    # packages that are links in the checkout must be links in the copy, not back into it
    assert (tmp_path / "tree" / "leptonc" / "passes").resolve().is_relative_to(tmp_path.resolve())


def test_totals_count_what_either_caught() -> None:
    row = {"tests": "", "noticed": "", "named": False}
    rows = [{**row, "tests": "t"}, {**row, "noticed": "n", "named": True}, row]
    text = totals(rows)
    assert text.startswith(f"3 of {len(FAULTS)} faults judged: 2 caught, 1 of them by tests and 1")
    assert text.endswith("of 1.")
