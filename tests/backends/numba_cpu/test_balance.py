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
from leptonc.backends.numba_cpu.pool import TEAMS, Team, pauses_per_us, ticks_per_us, usable_cores

pytestmark = pytest.mark.numba

LINE = 24  # bytes between the times of two threads here
FEWEST = 1000


@kernel
def adjust(args, tid, nt):
    """Slots: words, threads, times, fewest, ticks of the call before, where to write what was done.

    1: measured, 2: cuts moved. Behind them: the ticks of this call.
    """
    words, threads, took, fewest = load(args), load(args + 8), load(args + 16), load(args + 24)
    balance.note_call(words, threads, load(args + 32))
    if balance.wants_ticks(words, threads, fewest):
        balance.note_call(words, threads, load(args + 48))
        store(load(args + 40), 2 if balance.adjust(words, threads, took, LINE) else 1)


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


def adjusted(
    words: np.ndarray, took: np.ndarray, before: int = FEWEST, call: int | None = None
) -> bool:
    """Adjust a program's ``words`` in place after a try; return whether its cuts moved.

    ``before``: the ticks that the call before took; ``call``: those of each call, if not as many as
    its slowest thread.
    """
    times, done = np.zeros(len(took) * LINE // 8, np.int64), np.zeros(1, np.int64)
    times[:: LINE // 8] = took
    call = int(max(took)) if call is None else call
    slots = [
        words.ctypes.data,
        len(took),
        times.ctypes.data,
        FEWEST,
        before,
        done.ctypes.data,
        call,
    ]
    for _ in range(balance.CALLS):
        adjust(np.array(slots, np.int64))
        if done[0] != 1:
            break
    return bool(done[0] == 2)


def program(threads: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the words of a new program, and its cuts."""
    words = np.array(balance.words(threads), np.int64)
    return words, words[1 : threads + 2]


def tiles_of(cuts: np.ndarray, n: int) -> np.ndarray:
    """Return how many of ``n`` whole tiles each thread has."""
    nt = len(cuts) - 1
    out = np.zeros((nt, 4), np.int64)
    bounds.run_all(np.array([n, out.ctypes.data, 0, 0], np.int64), nt, cuts)
    return out[:, 1] - out[:, 0]


TOOK = st.lists(st.integers(1, 2**38), min_size=1, max_size=9)


@given(TOOK, st.integers(0, 40))
def test_cuts_stay_in_order_and_no_share_vanishes(took, rounds):
    n = len(took)
    words, cuts = program(n)
    for _ in range(rounds):
        old = cuts.copy()
        moved = adjusted(words, np.array(took))
        assert moved or (old == cuts).all()
        assert (cuts[0], cuts[-1]) == (0, ONE)
        assert np.diff(cuts).min() >= ONE // (balance.LEAST * n)
        took = took[1:] + took[:1]


@given(st.lists(st.floats(0.3, 3.0), min_size=2, max_size=5), st.integers(10**5, 10**9))
@example(speeds=[1.75, 1.25, 1.25, 1.25, 1.25], whole=10**5)  # a first move that gains 1/32 less
def test_shares_become_as_large_as_cores_are_fast(speeds, whole):
    pace = np.array(speeds) / sum(speeds)
    words, cuts = program(len(speeds))
    best = np.inf
    for _ in range(900):
        took = np.diff(cuts) / ONE / pace
        best = min(best, took.max())
        adjusted(words, (whole * took).astype(np.int64))
    took = np.diff(cuts) / ONE / pace
    least = np.diff(cuts) <= ONE // (balance.LEAST * len(speeds)) + 1  # can get no smaller
    near = (1 + 1.01 / balance.SLACK) * took[~least].min(initial=np.inf)
    # Threads take as long, or shares with which they do were no gain and the ones before came back.
    assert took.max() <= max(near, best / (1 - 1.01 / balance.GAIN))


def test_one_move_is_half_way_to_where_all_would_end_together():
    words, cuts = program(4)
    assert adjusted(words, np.array([10**6, 10**6, 10**6, 1_300_000]))
    # 1, 1, 1 and 10/13 of the work in the same time; half-way to there.
    want = [ONE * (t / 4 + 13 * t / 49) / 2 for t in range(4)]
    np.testing.assert_allclose(cuts[:4], want, atol=20)
    words, cuts = program(128)
    assert adjusted(words, np.array([3 * 10**9] * 64 + [3_900_000_000] * 64))
    assert cuts[64] > ONE // 2


@pytest.mark.parametrize(
    ("took", "before"),
    [((4000, 4200), FEWEST), ((500, 900), FEWEST - 1), ((-(2**62), 5000), FEWEST),
     ((5000, -(2**62) + 9), FEWEST), ((2**39, 2**38), FEWEST)],
    ids=["even", "short", "not its own", "not its own either", "asleep"],
)  # fmt: skip
def test_what_tells_nothing_moves_nothing(took, before):
    words, cuts = program(2)
    assert not adjusted(words, np.array(took), before)
    assert words[:9].tolist() == balance.words(2)[:9]
    words[1 + 2 * 3 :] = balance.words(2)[1 + 2 * 3 :]
    assert adjusted(words, np.array([4000, 5100]))
    assert words[0] == cuts.ctypes.data
    assert cuts[1] != ONE // 2


def test_shares_that_make_calls_longer_come_back():
    words, cuts = program(2)
    assert adjusted(words, np.array([4000, 8000]), call=9000)
    assert adjusted(words, np.array([5000, 5000]), call=9500)  # even, and yet no gain
    assert cuts.tolist() == balance.words(2)[1:4]
    moved = [adjusted(words, np.array([4000, 8000]), call=9000) for _ in range(40)]
    assert moved.index(True) == balance.REST


@pytest.mark.parametrize(("nt", "n"), [(4, 6), (4, 7), (8, 14), (8, 15), (2, 3), (2, 7), (3, 4)])
@pytest.mark.parametrize("slow", [1.0, 0.8, 0.5])
def test_whole_tiles_are_never_shared_much_worse_than_evenly(nt, n, slow):
    pace = np.array([slow] + [1.0] * (nt - 1))
    words, cuts = program(nt)
    even = (tiles_of(cuts, n) / pace).max()
    slowest = []
    for _ in range(600):
        took = tiles_of(cuts, n) / pace
        slowest.append(took.max())
        adjusted(words, (10**6 * took).astype(np.int64))
    assert np.mean(slowest) <= 1.05 * even
    if slow == 0.5 and n % nt == nt - 1:  # the slow one can have a tile less than others
        assert np.mean(slowest[-100:]) <= even


@given(
    n=st.integers(0, 300), sizes=st.lists(st.integers(1, 50), min_size=1, max_size=6),
    even=st.booleans(),
)  # fmt: skip
@example(n=10, sizes=[1, 50, 50, 1], even=False)
@example(n=3, sizes=[1, 1, 50], even=False)
@example(n=4, sizes=[2, 1, 2], even=False)
@example(n=3, sizes=[1, 1, 1, 1], even=False)
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
        if even:
            assert out[:, 2].tolist() == [n * (t % inner) // inner for t in range(nt)]
        if even or n < nt:
            continue
        assert np.abs(out[1:, 0] - n * cuts[1:-1] / ONE).max(initial=0) <= nt
        for group in range(0, nt, inner):
            own = cuts[group : group + inner + 1] - cuts[group]
            want = n * own[:-1] / own[-1]
            assert np.abs(out[group : group + inner, 2] - want).max() <= inner


@pytest.fixture
def team(monkeypatch):
    """A function that gives a new team of two, balanced or not, to programs made after."""

    def start(balanced: bool) -> None:
        monkeypatch.setenv("LEPTONC_BALANCE", str(int(balanced)))
        made.append(Team(2))
        monkeypatch.setitem(TEAMS._teams, 2, made[-1])

    made: list[Team] = []
    yield start
    for one in made:
        one.close()


@pytest.mark.skipif(usable_cores() < 2, reason="one core has one speed")
@pytest.mark.parametrize("balanced", [True, False])
def test_a_slow_thread_gets_less_to_do_if_asked_for(team, balanced):
    if ticks_per_us() == 0:
        pytest.skip("this machine counts no ticks")
    team(balanced)
    out = np.zeros(2, np.int64)
    p = Program(threads=2, inputs=0, outputs=1)
    p.step(uneven, p.output(0), max(1, int(0.2 * pauses_per_us())))
    shares = []
    for _ in range(500 if balanced else 60):  # more than it takes if nobody else wants the cores
        p.run(out.ctypes.data)
        assert out.sum() == 1000
        shares.append(int(out[1]))
        if shares[-1] < 400:
            break
    assert shares[0] == 500
    assert (shares[-1] < 400) == balanced  # it would take a quarter
