"""The measuring protocol on a clock of its own: blocks, rounds, ratios, differences."""

from __future__ import annotations

import mmap
import os

import numpy as np
import pytest
import torch

from leptonc.bench import protocol
from leptonc.bench.protocol import Clock, Times, measure, ratio, worst_error

BLOCK = 64 << 20  # bytes


class FakeTime:
    """A clock that only sleeping and the contestants move."""

    def __init__(self) -> None:
        self.t = 0.0
        self.log: list[str] = []

    def clock(self) -> Clock:
        return Clock(lambda: self.t, self.sleep)

    def sleep(self, seconds: float) -> None:
        self.log.append("rest")
        self.t += seconds

    def contestant(self, name: str, seconds: float, first: float = 0.0):
        def call() -> None:
            slow = first if self.log[-1] == "rest" else 0.0
            self.log.append(name)
            self.t += seconds + slow

        return call


def test_blocks_rest_discard_and_count() -> None:
    fake = FakeTime()
    calls = {"a": fake.contestant("a", 1.0, first=50.0), "b": fake.contestant("b", 2.0)}
    times = measure(calls, 0.0, rest_s=0.5, clock=fake.clock())
    assert fake.log[:12] == ["rest", *["a"] * 5, "rest", *["b"] * 5]
    assert fake.log[12] == "rest" and fake.log[13] == "b", "the one who begins changes"
    assert len(times["a"].rounds) == protocol.MIN_ROUNDS
    counted = protocol.COUNTED * protocol.MIN_ROUNDS
    assert times["a"].calls == pytest.approx([1.0] * counted), "the cold first call does not count"
    assert times["b"].median == pytest.approx(2.0)


def test_rounds_go_on_until_the_time_is_up() -> None:
    fake = FakeTime()
    times = measure({"a": fake.contestant("a", 1.0)}, 30.0, rest_s=1.0, clock=fake.clock())
    assert len(times["a"].rounds) == 5  # 6 s each
    assert measure({}, 1.0) == {}


def test_statistics() -> None:
    times = Times([[3.0, 1.0, 2.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    assert (times.min, times.median, times.best) == (1.0, 4.5, [1.0, 5.0])
    assert times.p90 == pytest.approx(np.percentile(range(1, 9), 90))


def _times(seed: int, centre: float, drift: np.ndarray) -> Times:
    noise = np.random.default_rng(seed).uniform(1.0, 1.1, (len(drift), 4))
    return Times((centre * noise * drift[:, None]).tolist())


def test_ratio_is_to_the_best_peer_and_survives_drift() -> None:
    drift = np.linspace(1.0, 3.0, 40)  # the machine gets three times slower
    ours = _times(0, 1.0, drift)
    peers = {"slow": _times(1, 4.0, drift), "fast": _times(2, 2.0, drift)}
    found = ratio(ours, peers)
    assert found is not None and found.peer == "fast"
    assert found.low <= found.value <= found.high
    assert found.low > 1.8 and found.high < 2.2
    assert ratio(ours, peers) == found, "seeded"
    assert ratio(ours, {}) is None


def test_worst_error_looks_at_everything() -> None:
    x = torch.tensor([1.0, -4.0])
    assert worst_error(x, x) == 0.0
    assert worst_error(x + torch.tensor([0.4, 0.0]), x) == pytest.approx(0.1)
    assert worst_error({"a": x.numpy()}, (x,)) == 0.0
    assert worst_error([x, x], [x]) == float("inf")
    assert worst_error(x[None], x) == float("inf")
    nan = torch.tensor([float("nan"), 1.0])
    assert worst_error(nan, nan) == 0.0
    assert worst_error(torch.tensor([2.0, 1.0]), nan) == float("inf")
    assert worst_error(torch.tensor([0.0, 1.0]), nan) == float("inf"), "zero is not NaN"
    assert worst_error(nan, torch.ones(2)) == float("inf"), "NaN where eager has none"
    assert worst_error(torch.zeros(0), torch.zeros(0)) == 0.0


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_pinned_puts_the_cores_back() -> None:
    before = os.sched_getaffinity(0)
    with protocol.pinned(1):
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


def _peak(write) -> int | None:
    """Return by how much the process grew while ``write`` ran, the most of three tries.

    A system short of memory may take pages away meanwhile from a process as large as this one.
    """
    tries = [protocol.Footprint() for _ in range(3)]
    for i in range(len(tries)):
        with protocol.footprint() as tries[i]:
            write()
    assert all(found.seconds > 0 for found in tries)
    peaks = [found.peak_bytes for found in tries]
    return None if None in peaks else max(p or 0 for p in peaks)


def _write_new_pages() -> None:
    # Straight from the system. An array of this size may come out of a hole in the heap that
    # earlier tests have left, whose pages are resident already: the process does not grow then.
    with mmap.mmap(-1, BLOCK) as block:
        for at in range(0, BLOCK, mmap.PAGESIZE):
            block[at] = 1


def test_footprint_sees_growth() -> None:
    grown = _peak(_write_new_pages)
    assert grown is None or BLOCK // 2 <= grown <= 2 * BLOCK


def test_footprint_of_pages_that_were_there_is_nothing() -> None:
    with mmap.mmap(-1, BLOCK) as block:
        block.write(bytes(BLOCK))

        def write_again() -> None:
            for at in range(0, BLOCK, mmap.PAGESIZE):
                block[at] = 1

        grown = _peak(write_again)
    assert grown is None or grown < BLOCK // 2
