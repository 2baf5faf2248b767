"""Decisions of a pool, as pure functions and in a simulation with a clock of its own."""

from __future__ import annotations

import heapq
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonc.errors import PartError
from leptonc.parts.routing import Balance, apportion, assumed, followed, makespan, route, shares

SPEED = st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0, 7.5])
SPEEDS = st.lists(SPEED, min_size=1, max_size=4).filter(any)


@given(st.data(), SPEEDS)
def test_a_request_goes_where_it_is_done_first(data: st.DataObject, speeds: list[float]) -> None:
    loads = data.draw(st.lists(st.integers(0, 9).map(float), min_size=len(speeds),
                               max_size=len(speeds)))  # fmt: skip
    at = route(loads, speeds)
    assert speeds[at] > 0
    done = [(n + 1) / s for n, s in zip(loads, speeds, strict=True) if s > 0]
    assert (loads[at] + 1) / speeds[at] == min(done)


def test_nobody_takes_requests_when_all_are_out() -> None:
    for decide in (lambda: route([0.0], [0.0]), lambda: apportion(3, [0.0]), lambda: route([], [])):
        with pytest.raises(PartError, match="no member takes requests"):
            decide()


@given(st.integers(0, 12), SPEEDS)
def test_no_sharing_ends_earlier(total: int, speeds: list[float]) -> None:
    got = apportion(total, speeds)
    assert sum(got) == total and all(n == 0 for n, s in zip(got, speeds, strict=True) if s == 0)
    every = (c for c in itertools.product(range(total + 1), repeat=len(speeds)) if sum(c) == total)
    assert makespan(got, speeds) == pytest.approx(min(makespan(c, speeds) for c in every))


@given(st.integers(1, 64), st.data(), SPEEDS)
def test_shares_stay_unless_a_change_pays(
    total: int, data: st.DataObject, speeds: list[float]
) -> None:
    before = data.draw(st.lists(SPEED, min_size=len(speeds), max_size=len(speeds)).filter(any))
    old = apportion(total, before)
    got = shares(total, speeds, old)
    best = apportion(total, speeds)
    assert got in (old, best) and sum(got) == total
    if got != best:
        assert makespan(best, speeds) >= 0.9 * makespan(old, speeds)
    else:
        assert got == old or makespan(best, speeds) < 0.9 * makespan(old, speeds)


def test_a_member_that_left_has_no_share_and_one_that_came_has() -> None:
    assert shares(10, [1.0, 0.0], [5, 5]) == (10, 0)
    assert shares(10, [1.0, 1.0], [10, 0]) == (5, 5)


def test_balance_changes_at_most_every_few_batches() -> None:
    balance = Balance(every=4)
    speeds, found = [1.0, 1.0], []
    for i in range(12):
        if i == 1:
            speeds = [3.0, 1.0]
        balance, made = balance.next(8, speeds)
        found.append(made)
    assert found[:4] == [(4, 4)] * 4 and found[4:] == [(6, 2)] * 8
    assert balance.changes == 1
    balance, made = balance.next(8, [0.0, 1.0])
    assert made == (0, 8) and balance.changes == 2, "who left is not waited for"


@given(st.lists(st.sampled_from([0.93, 0.97, 1.0, 1.03, 1.06]), min_size=20, max_size=60))
def test_noise_changes_nothing(noise: list[float]) -> None:
    balance = Balance(every=1)
    for factor in noise:
        balance, made = balance.next(64, [2.0 * factor, 1.0])
        assert sum(made) == 64
    assert balance.changes <= 1


def test_speeds_follow_what_is_measured() -> None:
    speed = followed(None, 10, 2.0)
    assert speed == pytest.approx(5.0)
    for _ in range(40):
        speed = followed(speed, 10, 1.0)
    assert speed == pytest.approx(10.0, rel=0.01)
    assert followed(10.0, 10, 1e-3) < 20, "one quick call is not believed"
    assert assumed([None, 4.0, 0.0]) == (4.0, 4.0, 0.0) and assumed([None]) == (1.0,)


# ----- simulation ---------------------------------------------------------------------------------


def simulate(rates: list[float], arrivals: list[float]) -> list[list[float]]:
    """Return when each member ends its requests; members answer one after another.

    The decisions are those of the pool: loads are requests not done, speeds are measured.
    """
    ends: list[list[float]] = [[] for _ in rates]
    waiting: list[tuple[float, int, float]] = []  # end, member, seconds it took
    speeds: list[float | None] = [None] * len(rates)
    load = [0.0] * len(rates)
    for now in arrivals:
        while waiting and waiting[0][0] <= now:
            _, m, took = heapq.heappop(waiting)
            load[m] -= 1
            speeds[m] = followed(speeds[m], 1, took)
        m = route(load, assumed(speeds))
        begin = max(now, ends[m][-1] if ends[m] else 0.0)
        ends[m].append(begin + 1 / rates[m])
        heapq.heappush(waiting, (ends[m][-1], m, 1 / rates[m]))
        load[m] += 1
    return ends


@given(st.lists(st.sampled_from([1.0, 2.0, 5.0]), min_size=2, max_size=4), st.integers(30, 80))
def test_unlike_members_serve_in_proportion(rates: list[float], count: int) -> None:
    arrivals = [i / sum(rates) for i in range(count)]
    ends = simulate(rates, arrivals)
    done = max(e[-1] for e in ends if e)
    ideal = count / sum(rates)
    # Each member may have begun a few requests before its speed was known.
    assert done <= ideal + (len(rates) + 3) / min(rates)
    served = {r: 0 for r in rates}
    for r, e in zip(rates, ends, strict=True):
        served[r] = max(served[r], len(e))
    assert served[max(rates)] == max(served.values())
