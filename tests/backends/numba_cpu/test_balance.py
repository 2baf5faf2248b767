"""Shares of threads follow the speed of their cores, and no result depends on them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leptonc.backends.numba_cpu import balance
from leptonc.backends.numba_cpu.atomics import load, pause, store
from leptonc.backends.numba_cpu.executor import Program
from leptonc.backends.numba_cpu.kernels.base import kernel
from leptonc.backends.numba_cpu.kernels.shares import ONE, boundary, part, share
from leptonc.backends.numba_cpu.pool import pauses_per_us, ticks_per_us, usable_cores

pytestmark = pytest.mark.numba

LINE = 24  # bytes between the times of two threads here
FEWEST = 1000


@kernel
def adjust(args, tid, nt):
    """Slots: cuts, threads, times, fewest, where to write whether cuts moved."""
    cuts, threads, took, fewest = load(args), load(args + 8), load(args + 16), load(args + 24)
    moved = 1 if balance.adjust(cuts, threads, took, LINE, fewest) else 0
    store(load(args + 32), moved)


@kernel
def bounds(args, tid, nt, cuts):
    """Write the bounds of a share of ``n``, of a part of ``n`` and of that part's own parts."""
    n, out = load(args), load(args + 8)
    outer, inner = load(args + 16), load(args + 24)
    low, high = share(n, tid, nt, cuts)
    store(out + 32 * tid, low)
    store(out + 32 * tid + 8, high)
    if outer * inner == nt:
        i, j = tid // inner, tid % inner
        low, high = part(n, i, outer, 0, inner, cuts)
        store(out + 32 * tid + 16, boundary(n, j, inner, i * inner, 1, cuts))
        store(out + 32 * tid + 24, high - low)


@kernel
def uneven(args, tid, nt, cuts):
    """Pause for each of a thousand things, for those of thread 1 three times; note its share."""
    out, pauses = load(args), load(args + 8)
    begin, end = share(1000, tid, nt, cuts)
    for _ in range((end - begin) * (3 if tid == 1 else 1) * pauses):
        pause()
    store(out + 8 * tid, end - begin)


def adjusted(cuts: np.ndarray, took: np.ndarray, fewest: int = FEWEST) -> bool:
    """Adjust ``cuts`` in place; return whether they moved."""
    times, moved = np.zeros(len(took) * LINE // 8, np.int64), np.zeros(1, np.int64)
    times[:: LINE // 8] = took
    slots = [cuts.ctypes.data, len(took), times.ctypes.data, fewest, moved.ctypes.data]
    adjust(np.array(slots, np.int64))
    return bool(moved[0])


TOOK = st.lists(st.integers(1, 2**38), min_size=1, max_size=9)


@given(TOOK, st.integers(0, 5))
def test_cuts_stay_in_order_and_no_share_vanishes(took, rounds):
    n = len(took)
    cuts = np.array(balance.words(n), np.int64)
    for _ in range(rounds):
        old = cuts.copy()
        moved = adjusted(cuts, np.array(took))
        assert moved or (old == cuts).all()
        assert (cuts[0], cuts[-1]) == (0, ONE)
        assert np.diff(cuts).min() >= ONE // (balance.LEAST * n)
        took = took[1:] + took[:1]


@given(st.lists(st.floats(0.3, 3.0), min_size=2, max_size=5), st.integers(10**5, 10**9))
def test_shares_become_as_large_as_cores_are_fast(speeds, whole):
    pace = np.array(speeds) / sum(speeds)
    cuts = np.array(balance.words(len(speeds)), np.int64)
    for _ in range(200):
        took = whole * np.diff(cuts) / ONE / pace
        if not adjusted(cuts, took.astype(np.int64)):
            break
    took = np.diff(cuts) / ONE / pace
    least = np.diff(cuts) <= ONE // (balance.LEAST * len(speeds)) + 1  # can get no smaller
    assert took.max() <= (1 + 1.01 / balance.SLACK) * took[~least].min()


@pytest.mark.parametrize(
    "took", [(4000, 4200), (500, 900), (0, 5000), (5000, 0), (2**39, 2**38)],
    ids=["even", "short", "not its own", "not its own either", "asleep"],
)  # fmt: skip
def test_what_tells_nothing_moves_nothing(took):
    cuts = np.array(balance.words(2), np.int64)
    assert not adjusted(cuts, np.array(took))
    assert cuts.tolist() == balance.words(2)
    assert adjusted(cuts, np.array([4000, 5000]))


@given(
    n=st.integers(0, 300), sizes=st.lists(st.integers(1, 50), min_size=1, max_size=6),
    even=st.booleans(),
)  # fmt: skip
@example(n=10, sizes=[1, 50, 50, 1], even=False)
@example(n=3, sizes=[1, 1, 50], even=False)
def test_shares_cover_everything_once(n, sizes, even):
    nt = len(sizes)
    cuts = np.array([0, *(ONE * np.cumsum(sizes) // sum(sizes))], np.int64)
    for outer in (d for d in range(1, nt + 1) if nt % d == 0):
        out = np.full((nt, 4), -1, np.int64)
        slots = np.array([n, out.ctypes.data, outer, nt // outer], np.int64)
        bounds.run_all(slots, nt, 0 if even else cuts)
        assert (out[0, 0], out[-1, 1]) == (0, n)
        assert (out[1:, 0] == out[:-1, 1]).all()
        assert (out[:, 1] > out[:, 0]).all() or n < nt
        assert out[:: nt // outer, 3].sum() == n  # the outer parts
        inner = nt // outer
        if even or n < nt:
            assert out[:, 0].tolist() == [n * t // nt for t in range(nt)]
            assert out[:, 2].tolist() == [n * (t % inner) // inner for t in range(nt)]
            continue
        assert np.abs(out[1:, 0] - n * cuts[1:-1] / ONE).max(initial=0) <= nt
        for group in range(0, nt, inner):
            own = cuts[group : group + inner + 1] - cuts[group]
            want = n * own[:-1] / own[-1]
            assert np.abs(out[group : group + inner, 2] - want).max() <= inner


@pytest.mark.skipif(usable_cores() < 2, reason="one core has one speed")
def test_a_slow_thread_gets_less_to_do():
    if ticks_per_us() == 0:
        pytest.skip("this machine counts no ticks")
    out = np.zeros(2, np.int64)
    p = Program(threads=2, inputs=0, outputs=1)
    p.step(uneven, p.output(0), max(1, int(0.05 * pauses_per_us())))
    shares = []
    for _ in range(60):
        p.run(out.ctypes.data)
        assert out.sum() == 1000
        shares.append(out[1])
    assert shares[0] == 500
    assert min(shares) < 400  # a quarter of it, where nobody else wants the cores
