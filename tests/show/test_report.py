"""The text report and the HTML page of a program laid out by hand: no kernel is compiled."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from show.plans import EVIL, Checker, function, schedule

from leptonc.backends.numba_cpu.emit import emit
from leptonc.errors import InputError
from leptonc.ir.core import Origin
from leptonc.passes import pipeline
from leptonc.pipeline import PassManager, Recorder
from leptonc.rewrite.trace import Remark, RemarkKind
from leptonc.show import amounts, html, summary
from leptonc.show.report import describe


def _net(stages: bool = True, specializations: int = 1) -> Any:
    recorder = Recorder()
    manager = PassManager(pipeline("cse,partition{max-ops=1}"), (recorder,))
    fn = manager.run(function())
    plan = schedule(fn)
    spec = SimpleNamespace(
        remarks=[Remark("fuse", RemarkKind.MISSED, "linear %y", "a & b", Origin("fc"), "r1")] * 2
    )
    return SimpleNamespace(
        name=f"Net{EVIL}",
        specializations=(spec,) * specializations,
        stats={"governor": "1 thread: tests", "capture_s": 0.5, "total_s": 1.5},
        stages=tuple(recorder.steps) if stages else (),
        schedule=plan,
        ir=fn,
        source=emit(plan).text,
    )


def test_page_is_whole_self_contained_and_escaped() -> None:
    text = html.page(_net())
    checker = Checker()
    checker.feed(text)
    assert checker.stack == [] and checker.loads == []
    assert "http" not in text and "@import" not in text
    assert checker.seen.count("script") == 1, "only our own script"
    assert "&lt;script&gt;" in text
    assert "prefers-color-scheme: dark" in text


def test_page_shows_units_stages_arena_remarks_and_programs() -> None:
    text = html.page(_net())
    for part in ("2 x igemm[6]", "net.py:8", 'class="torch"', 'class="native"', "partition",
                 "128 B", "steps 0 to 1, 32 B at 0 between", "fuse/r1", "a &amp; b",
                 "IR as captured", "IR as optimized", "def build(p, k, torch_step)"):  # fmt: skip
        assert part in text, part


def test_page_of_a_net_from_the_cache_and_of_one_not_compiled() -> None:
    assert "came from the compile cache" in html.page(_net(stages=False))
    with pytest.raises(InputError, match="call it once first"):
        html.page(_net(specializations=0))


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
    (row,) = summary.remarks(_net(specializations=2))
    assert row.count == 4 and row.by == "fuse/r1" and row.says == "missed"


def test_text_report() -> None:
    text = describe(_net(), remarks=True)
    for part in ("2 units, 3 steps, 1 thread", "1 native, 1 through torch (50.0 % native)",
                 "94.1 % of it native", "arena 128 B", "capture 500.0 ms", "partition{max-ops=1}",
                 "no kernel", "(2 times)", "most work"):  # fmt: skip
        assert part in text, part
    assert "came from the compile cache" in describe(_net(stages=False))
    assert "first call compiles it" in describe(_net(specializations=0))


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
