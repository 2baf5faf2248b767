"""How units are dealt out to ranks."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonc.shard.placement import cut_by_speed, cut_evenly, scaled
from leptonc.shard.program import part_sizes


@given(st.integers(0, 60), st.integers(1, 9))
def test_even_parts_differ_by_one_at_most(units: int, ranks: int) -> None:
    cuts = cut_evenly(units, ranks)
    sizes = part_sizes(cuts)
    assert cuts[0] == 0 and cuts[-1] == units and len(sizes) == ranks
    assert max(sizes) - min(sizes) <= 1
    assert list(sizes) == sorted(sizes, reverse=True)


_SPEEDS = st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.5]), min_size=1, max_size=4)


@given(_SPEEDS, st.integers(0, 8))
def test_the_part_that_is_done_last_is_done_soonest(speeds: list[float], more: int) -> None:
    units = len(speeds) + more
    sizes = part_sizes(cut_by_speed(units, speeds))
    assert sum(sizes) == units and min(sizes) >= 1

    def last(dealt: tuple[int, ...]) -> float:
        return max(n / v for n, v in zip(dealt, speeds, strict=True))

    every = itertools.product(range(1, units + 1), repeat=len(speeds))
    assert last(sizes) == min(last(d) for d in every if sum(d) == units)


def test_equal_speeds_deal_evenly() -> None:
    for units, ranks in ((7, 3), (8, 4), (5, 5)):
        assert cut_by_speed(units, (2.0,) * ranks) == cut_evenly(units, ranks)


def test_too_few_units_are_refused() -> None:
    with pytest.raises(ValueError, match="2 units cannot be cut into 3 parts"):
        cut_by_speed(2, (1.0, 1.0, 1.0))


def test_units_are_runs_of_elements() -> None:
    assert scaled((0, 2, 3), 4) == (0, 8, 12)
