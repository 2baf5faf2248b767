"""The cuts are the best there are, and found within the budget."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonc.parts.cuts import best_cuts, bottleneck

SECONDS = st.integers(0, 20).map(float)


def _time(work: list[float], arrive: list[float], speeds: list[float], cuts: tuple[int, ...]):
    return [
        sum(work[a:b]) / s + arrive[a]
        for s, (a, b) in zip(speeds, itertools.pairwise(cuts), strict=True)
    ]


def _all_cuts(n: int, parts: int):
    for inner in itertools.combinations(range(1, n), parts - 1):
        yield (0, *inner, n)


@st.composite
def rows(draw: st.DrawFn):
    n = draw(st.integers(1, 8))
    work = draw(st.lists(SECONDS, min_size=n, max_size=n))
    arrive = [0.0, *draw(st.lists(SECONDS, min_size=n - 1, max_size=n - 1))]
    parts = draw(st.integers(1, n))
    speeds = draw(st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=parts, max_size=parts))
    return work, arrive, speeds


@given(rows())
def test_no_cuts_are_better(drawn) -> None:
    work, arrive, speeds = drawn
    cuts = best_cuts(work, arrive, speeds)
    assert cuts[0] == 0 and cuts[-1] == len(work)
    assert all(a < b for a, b in itertools.pairwise(cuts)), "no part is empty"
    every = [
        (max(_time(work, arrive, speeds, c)), sum(arrive[a] for a in c[:-1]))
        for c in _all_cuts(len(work), len(speeds))
    ]
    slowest = min(t for t, _ in every)
    assert max(_time(work, arrive, speeds, cuts)) == pytest.approx(slowest)
    assert bottleneck(work, arrive, speeds) == pytest.approx(slowest)
    fewest = min(moved for t, moved in every if t <= slowest * (1 + 1e-9))
    assert sum(arrive[a] for a in cuts[:-1]) == pytest.approx(fewest)


def test_a_thousand_blocks_are_near_the_ideal_in_time() -> None:
    rng = np.random.default_rng(0)
    work = rng.gamma(1, 1, 1000)
    arrive = rng.gamma(2, 1e-4, 1000)
    best_cuts(work[:10], arrive[:10], [1.0] * 4)
    start = time.thread_time()
    cuts = best_cuts(work, arrive, [1.0] * 4)
    took = time.thread_time() - start
    slowest = max(work[a:b].sum() for a, b in itertools.pairwise(cuts))
    assert slowest <= 1.01 * work.sum() / 4
    assert took < 1.0, "the budget is 0.2 s; a busy machine is given five times that"


@pytest.mark.parametrize("parts", [0, 4])
def test_more_parts_than_blocks_or_none_are_refused(parts: int) -> None:
    with pytest.raises(ValueError, match=f"3 blocks do not make {parts} parts"):
        best_cuts([1.0] * 3, [0.0] * 3, [1.0] * parts)
