"""The text report and the card of a program laid out by hand: no kernel is compiled."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from show.plans import EVIL, Checker, function, schedule

from leptonc.backends.numba_cpu.emit import emit
from leptonc.check import UnitError
from leptonc.ir.core import Origin
from leptonc.passes import pipeline
from leptonc.pipeline import PassManager, Recorder
from leptonc.rewrite.trace import Remark, RemarkKind
from leptonc.show import amounts, card, summary
from leptonc.show.report import describe


def _net(stages: bool = True, specializations: int = 1) -> Any:
    recorder = Recorder()
    manager = PassManager(pipeline("cse,partition{max-ops=1}"), (recorder,))
    fn = manager.run(function())
    plan = schedule(fn)
    spec = SimpleNamespace(
        bindings=True,
        remarks=[Remark("fuse", RemarkKind.MISSED, "linear %y", "a & b", Origin("fc"), "r1")] * 2,
    )
    return SimpleNamespace(
        name=f"Net{EVIL}",
        specializations=(spec,) * specializations,
        stats={"governor": "1 thread: tests", "capture_s": 0.5, "total_s": 1.5},
        errors={"fc": UnitError(3e-6, 1e-5, "zeros"), "act": UnitError(1.0, 0.5, "NaN")},
        stages=tuple(recorder.steps) if stages else (),
        schedule=plan,
        ir=fn,
        source=emit(plan).text,
    )


def test_rows_count_what_the_schedule_holds() -> None:
    net = _net()
    first, second = summary.units(net.schedule)
    assert (first.runs, first.steps, first.kernels) == ("native", 2, {"igemm[6]": 2})
    assert (second.runs, second.steps, second.kernels) == ("torch", 1, {})
    assert first.flops == 2 * 2 * 4 * 8 and second.flops == 2 * 4
    work = summary.work(net.schedule)
    assert (work.ops, work.ops_torch, work.flops_torch) == (2, 1, 8)
    assert work.flops_native_share == pytest.approx(128 / 136)
    assert [(b.first, b.last, b.offset) for b in summary.lives(net.schedule)] == [
        (0, 1, 0), (1, 1, 64),
    ]  # fmt: skip


def test_equal_remarks_are_shown_once() -> None:
    row, _ = summary.remarks(_net(specializations=2))  # and the unit through torch
    assert row.count == 4 and row.by == "fuse/r1" and row.says == "missed"


def test_text_report() -> None:
    text = describe(_net(), remarks=True)
    for part in ("2 units, 3 steps, 1 thread", "1 native, 1 through torch (50.0 % native)",
                 "94.1 % of it native", "arena 128 B", "capture 500.0 ms", "partition{max-ops=1}",
                 "no kernel", "fuse/r1: linear %y at fc: a & b", "most work"):  # fmt: skip
        assert part in text, part
    assert "came from the compile cache" in describe(_net(stages=False))
    assert "first call compiles it" in describe(_net(specializations=0))


def test_card_is_whole_self_contained_and_escaped() -> None:
    text = card.html(_net())
    checker = Checker()
    checker.feed(text)
    assert checker.stack == [] and checker.loads == [] and "script" not in checker.seen
    assert "http" not in text and "&lt;script&gt;" in text
    for part in ("50.0 %</b> of 2 ops native", "igemm[6]", "through torch", "prefers-color-scheme"):
        assert part in text, part


def test_card_and_line_of_a_net_not_compiled() -> None:
    net = _net(specializations=0)
    assert "compiled at its first call" in card.line(net)
    assert card.html(net).startswith("<p><code>&lt;leptonc.CompiledModel")
    assert "2 units, 50.0 % native, 1 thread>" in card.line(_net())


def test_coloured_report_says_the_same_words() -> None:
    report = describe(_net(), remarks=True)
    text = card.coloured(report)
    assert text.plain == report and text.spans
    console = Console(width=40, color_system=None)
    with console.capture() as plain:
        console.print(text, soft_wrap=True, end="")
    assert plain.get() == report, "without a terminal: no escapes, no line broken"


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (amounts.nbytes(0), "0 B"),
        (amounts.nbytes(1536), "1.5 KiB"),
        (amounts.nbytes(3 << 40), "3.0 TiB"),
        (amounts.flops(2e9), "2.0 GFLOP"),
        (amounts.seconds(0.0025), "2.5 ms"),
        (amounts.seconds(2.5), "2.50 s"),
        (amounts.share(0.99999), "99.9 %"),
        (amounts.share(1.0), "100.0 %"),
        (amounts.share(1e-9), "0.1 %"),
        (amounts.share(0.0), "0.0 %"),
    ],
)
def test_amounts(text: str, want: str) -> None:
    assert text == want


def test_report_tells_what_the_check_of_every_unit_found() -> None:
    net = _net()
    line = next(t for t in describe(net).splitlines() if t.startswith("  check "))
    assert "2 units compared one by one, 1 missed" in line
    assert "act on NaN, error 1 of 0.5" in line
    net.errors.clear()
    assert "  check " not in describe(net), "a net whose units were not compared says nothing"
