"""Profiles of times made up by hand: sums, waits, the table, and the trace's format."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from show.plans import EVIL, Checker, function, schedule

import leptonc
from leptonc.backends.numba_cpu.schedule import Schedule
from leptonc.errors import InputError
from leptonc.passes import pipeline
from leptonc.pipeline import PassManager
from leptonc.show import profile as module
from leptonc.show import trace
from leptonc.show.profile import Limits, Profile, summarize, wait_ns, wall_ns

LIMITS = Limits(gflops=100.0, gbytes=10.0)
BASE = 10**12  # a clock does not start at 0


def times(*steps: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Return i64[steps, threads, 2] from (begin, end) in ns by step and thread; (0, 0): no part."""
    made = np.array(steps, np.int64)
    return np.where(made.any(-1, keepdims=True), made + BASE, 0)


# Two native steps of the first unit on two threads, then a torch step.
RUN = times(
    ((1000, 5000), (2000, 4000)),
    ((5500, 9000), (5600, 9500)),
    ((9600, 20000), (0, 0)),
)


def two_units() -> Schedule:
    return schedule(PassManager(pipeline("cse,partition{max-ops=1}")).run(function()))


def made(runs: np.ndarray) -> Profile:
    plan = replace(two_units(), threads=runs.shape[2])
    return summarize(f"Net{EVIL}", plan, runs, LIMITS)


def test_steps_add_up_to_the_run_and_threads_to_work_and_waits() -> None:
    assert wall_ns(RUN).tolist() == [4000, 4500, 10500]
    # thread 0 works 4000 and 3500, thread 1 works 2000 and 3900; nobody waits for torch
    assert wait_ns(RUN, [False, False, True]).tolist() == [2000, 1600, 0]


@given(
    st.lists(
        st.tuples(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=3,
                           max_size=3)),
        min_size=1, max_size=6,
    )
)  # fmt: skip
def test_wall_times_of_any_run_add_up(gaps: list[tuple[list[tuple[int, int]]]]) -> None:
    at, steps = 1, []
    for (threads,) in gaps:
        steps.append(tuple((at + rest, at + rest + work) for rest, work in threads))
        at = max(end for _, end in steps[-1])
    run = times(*steps)
    whole = run[:, :, 1].max() - run[0, :, 0].min()
    assert wall_ns(run).sum() == whole and (wall_ns(run) >= 0).all()
    busy = (run[:, :, 1] - run[:, :, 0]).sum()
    assert wait_ns(run, [False] * len(run)).sum() == 3 * whole - busy


def test_units_have_medians_rates_and_shares() -> None:
    slow = RUN.copy()
    slow[2, 0, 1] += 100_000
    found = made(np.stack([RUN, slow, RUN]))
    first, second = found.units
    assert (first.us, second.us, found.total_us) == (8.5, 10.5, 19.0)
    assert first.wait_us == 3.6 and first.share == pytest.approx(8.5 / 19)
    assert first.flops == 2 * 2 * 4 * 8
    assert first.gflops == pytest.approx(128 / 8.5e3)
    assert (first.algorithm, second.algorithm) == ("igemm", "torch")
    assert [s.kernel for s in found.steps] == ["igemm[6]", "igemm[6]", "torch"]
    assert found.fastest_us == 19.0 and found.runs == 3
    # the timeline is that of a run of median time
    assert max(s.end_us for s in found.spans) == 19.0


def test_a_program_without_steps_has_a_profile() -> None:
    bare = replace(two_units(), steps=(), units=())
    found = summarize("empty", bare, np.zeros((5, 0, 1, 2), np.int64), LIMITS)
    assert found.total_us == 0 and "empty: 0.000 ms" in str(found)
    assert json.loads(found.to_json())["units"] == []


# --- the trace -----------------------------------------------------------------------------------


def test_every_event_has_the_fields_of_the_format(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    made(RUN[None]).chrome_trace(path)
    document = json.loads(path.read_text())
    events = document["traceEvents"]
    for e in events:
        assert set(e) >= {"ph", "ts", "dur", "pid", "tid", "name", "args"}
        assert e["ph"] in ("X", "M") and isinstance(e["name"], str) and e["name"]
        assert e["ts"] >= 0 and e["dur"] >= 0
        assert isinstance(e["pid"], int) and isinstance(e["tid"], int)
    assert [e["ts"] for e in events] == sorted(e["ts"] for e in events)
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert names == {0: "units", 1: "thread 0", 2: "thread 1"}
    assert {e["tid"] for e in events} == set(names)


def test_slices_of_a_track_fill_the_run_without_overlap() -> None:
    events = [e for e in trace.events(made(RUN[None])) if e["ph"] == "X"]
    for tid in range(3):
        track = [e for e in events if e["tid"] == tid]
        assert track[0]["ts"] == 0.0
        assert track[-1]["ts"] + track[-1]["dur"] == pytest.approx(19.0)
        for a, b in itertools.pairwise(track):
            assert a["ts"] + a["dur"] == pytest.approx(b["ts"])
        assert sum(e["dur"] for e in track) == pytest.approx(19.0)


def test_slices_say_what_they_are() -> None:
    events = [e for e in trace.events(made(RUN[None])) if e["ph"] == "X"]
    units = [e for e in events if e["tid"] == 0]
    assert [(e["cat"], e["dur"]) for e in units] == [("unit", 8.5), ("unit", 10.5)]
    assert units[1]["args"]["source"] == "net.py:8" and "GF/s" in units[1]["args"]
    second = [(e["name"], e["ts"], e["dur"]) for e in events if e["tid"] == 2]
    assert second == [
        ("wait", 0.0, 1.0), ("igemm[6]", 1.0, 2.0), ("wait", 3.0, 1.6),
        ("igemm[6]", 4.6, 3.9), ("wait", 8.5, 10.5),
    ]  # fmt: skip


# --- what people see -----------------------------------------------------------------------------


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_the_table_fits_the_terminal(width: int) -> None:
    text = module.profile_view.text(made(RUN[None]), width)
    assert all(len(line) <= width for line in text.splitlines())
    for part in ("igemm", "torch", "8.5", "10.5", "44.7 %", "55.3 %"):
        assert part in text
    assert ("net.py:8" in text) == (width >= 120) and ("of mem" in text) == (width >= 96)
    assert ("waits" in text) == (width >= 70)
    assert "waits" not in module.profile_view.text(made(RUN[None, :, :1]))


def test_html_is_whole_and_escaped() -> None:
    text = made(RUN[None])._repr_html_()
    checker = Checker()
    checker.feed(text)
    assert checker.stack == [] and checker.loads == [] and "script" not in checker.seen
    assert "&lt;script&gt;" in text and "net.py:8" in text


def test_the_clock_bounds_the_runs() -> None:
    class Program:
        schedule = replace(two_units(), outputs=())

        def timed(self, *addresses: int) -> np.ndarray:
            return RUN

    ticks = itertools.count()
    runs = module.measure(Program(), [], 20.0, lambda: float(next(ticks)))  # pyright: ignore
    assert len(runs) >= module.FEWEST and len(runs) < 30
    assert len(module.measure(Program(), [], 0.0, lambda: 0.0)) == module.FEWEST  # pyright: ignore


# --- a real net ----------------------------------------------------------------------------------


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(8, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.matrix_norm(torch.relu(self.fc(x)))


@pytest.mark.numba
@pytest.mark.parametrize("threads", [1, 2])
def test_profile_of_a_net_with_a_torch_step_and_changing_sizes(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST", 6)
    monkeypatch.setattr(module.peak, "gflops", lambda t: 50.0 * t)
    monkeypatch.setattr(module.peak, "gbytes", lambda t: 10.0)
    net = leptonc.compile(
        Net().eval(), torch.randn(4, 3, 8), dynamic={"x": {0: leptonc.Dim("n", max=64)}},
        threads=threads, cache=False,
    )  # fmt: skip
    with torch.no_grad():
        small, large = net.profile(torch.randn(4, 3, 8)), net.profile(torch.randn(40, 3, 8))
    assert (small.inputs, large.inputs) == (("f32[4,3,8]",), ("f32[40,3,8]",))
    assert small.flops < large.flops
    assert {u.runs for u in large.units} >= {"torch"}
    assert all(u.us > 0 for u in large.units) and sum(u.share for u in large.units) > 0.999
    walls = trace.events(large)
    unit_us = sum(e["dur"] for e in walls if e["tid"] == 0)
    assert unit_us == pytest.approx(max(s.end_us for s in large.spans), abs=0.01)
    with pytest.raises(InputError):
        net.profile(torch.randn(4, 3, 9))


def test_repr_is_one_line() -> None:
    text = repr(made(RUN[None]))
    assert text.startswith("<Profile of ") and text.endswith("GF/s, 2 units>")
    assert "\n" not in text
