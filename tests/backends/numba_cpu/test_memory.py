"""The arena planner: nothing live overlaps, and little is wasted."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonc.backends.numba_cpu.memory import Lifetime, Plan, _placed, _Placer, plan


@st.composite
def lifetimes(draw: st.DrawFn) -> list[Lifetime]:
    out: list[Lifetime] = []
    for _ in range(draw(st.integers(0, 14))):
        first = draw(st.integers(0, 10))
        last = first + draw(st.integers(0, 5))
        dying = [j for j, o in enumerate(out) if o.last == first]
        alias = draw(st.sampled_from([None, *dying]))
        out.append(Lifetime(draw(st.integers(0, 700)), first, last, alias))
    return out


def may_share(lives: list[Lifetime], i: int, j: int) -> bool:
    a, b = lives[i], lives[j]
    return (a.alias == j and b.last == a.first) or (b.alias == i and a.last == b.first)


def assert_sound(lives: list[Lifetime], got: Plan, align: int) -> None:
    for i, a in enumerate(lives):
        assert got.offsets[i] % align == 0
        assert got.offsets[i] + a.bytes <= got.total
        for j, b in enumerate(lives[:i]):
            if a.first > b.last or b.first > a.last or not a.bytes or not b.bytes:
                continue
            x, y = got.offsets[i], got.offsets[j]
            if x + a.bytes <= y or y + b.bytes <= x:
                continue
            assert may_share(lives, i, j) and x == y, (i, a, x, j, b, y)


@given(lives=lifetimes(), align=st.sampled_from([1, 16, 64]))
def test_live_buffers_never_overlap(lives: list[Lifetime], align: int) -> None:
    got = plan(lives, align)
    assert_sound(lives, got, align)
    assert got.lower_bound <= got.total <= got.sum
    assert plan(lives, align) == got, "the plan depends on its input alone"


@given(lives=lifetimes(), apart=st.integers(0, 20), data=st.data())
def test_what_has_an_offset_keeps_it(lives: list[Lifetime], apart: int, data: st.DataObject):
    """As another plan has them, but further up: the others are placed around them."""
    lives = [replace(life, alias=None) for life in lives]
    given_ = data.draw(st.sets(st.sampled_from(range(len(lives))))) if lives else set[int]()
    offsets = plan(lives).offsets
    some = [
        replace(life, at=offsets[i] + 64 * apart if i in given_ else None)
        for i, life in enumerate(lives)
    ]
    got = plan(some)
    assert_sound(some, got, 64)
    assert all(got.offsets[i] == some[i].at for i in given_)


def test_two_offsets_that_overlap_are_refused() -> None:
    with pytest.raises(ValueError, match="buffer 1: another one lies at byte 64, too"):
        plan([Lifetime(192, 0, 1, at=0), Lifetime(64, 1, 2, at=64)])
    assert plan([Lifetime(192, 0, 1, at=0), Lifetime(64, 2, 2, at=64)]).total == 192


@given(lives=lifetimes(), enough=st.integers(0, 4000))
def test_what_is_enough_is_not_improved(lives: list[Lifetime], enough: int) -> None:
    got, best = plan(lives, enough=enough), plan(lives)
    assert_sound(lives, got, 64)
    assert best.total <= got.total <= max(enough, best.total)


def test_a_chain_needs_two_buffers() -> None:
    got = plan([Lifetime(1000, i, i + 1) for i in range(50)], align=8)
    assert got.total == got.lower_bound == 2000
    assert got.sum == 50_000


def test_a_chain_in_place_needs_one() -> None:
    chain = [Lifetime(1000, i, i + 1, i - 1 if i else None) for i in range(50)]
    got = plan(chain, align=8)
    assert got.total == got.lower_bound == 1000


def test_alias_is_refused_while_the_old_buffer_lives_on() -> None:
    lives = [Lifetime(64, 0, 5), Lifetime(64, 1, 2, alias=0)]
    assert plan(lives).total == 128


def test_two_results_cannot_both_replace_one_operand() -> None:
    lives = [Lifetime(64, 0, 1), Lifetime(64, 1, 2, 0), Lifetime(64, 1, 2, 0)]
    got = plan(lives)
    assert_sound(lives, got, 64)
    assert got.total == 128 == got.lower_bound


def test_residual_block_reaches_its_lower_bound() -> None:
    # x lives across the block; the two convs' results follow one another
    lives = [Lifetime(400, 0, 3), Lifetime(100, 1, 2), Lifetime(400, 2, 3), Lifetime(400, 3, 4, 2)]
    got = plan(lives, align=4)
    assert got.total == got.lower_bound == 900


def test_nothing_to_place() -> None:
    assert plan([]) == Plan((), 0, 0, 0)


@pytest.mark.parametrize(
    "bad",
    [
        Lifetime(4, 2, 1), Lifetime(-4, 0, 1), Lifetime(4, 0, 1, alias=0),
        Lifetime(4, 0, 1, alias=7), Lifetime(4, 0, 1, at=-64), Lifetime(4, 0, 1, at=32),
    ],
)  # fmt: skip
def test_nonsense_is_refused(bad: Lifetime) -> None:
    with pytest.raises(ValueError, match="buffer 0"):
        plan([bad])


def test_the_fullest_step_first_where_the_largest_first_takes_more() -> None:
    """0 and 1 fill the widest step; the largest after them, 3, must leave room for 2 before it."""
    lives = [Lifetime(256, 0, 1), Lifetime(256, 1, 2), Lifetime(128, 2, 3), Lifetime(192, 3, 4)]
    found = plan(lives)
    assert found.total == found.lower_bound == 512
    largest_first = _placed(_Placer(lives, [life.bytes for life in lives]), (0, 1, 3, 2))
    assert largest_first.total > found.total


def test_what_ends_last_comes_first_where_no_order_does() -> None:
    lives = [Lifetime(256, 1, 1), Lifetime(128, 2, 3), Lifetime(256, 3, 3), Lifetime(64, 0, 2)]
    found = plan(lives)
    assert found.total == found.lower_bound == 6 * 64
    assert plan(lives, variants=1).total == 7 * 64


# swin_t's first blocks, in units of 64 bytes: the first two orders take 16 % more than needed.
SWIN = ((9, 0, 1), (18, 1, 2), (18, 2, 9), (18, 3, 4), (18, 4, 5), (56, 5, 6), (18, 6, 7),
        (18, 7, 8), (18, 8, 9), (18, 9, 12), (18, 10, 11), (75, 11, 12), (18, 12, 27), (18, 13, 17),
        (18, 14, 18), (18, 18, 19), (56, 19, 20), (18, 20, 21), (18, 21, 22), (18, 22, 26),
        (18, 23, 27), (18, 27, 29), (18, 27, 28), (75, 28, 29))  # fmt: skip


def test_a_net_that_needs_another_order_takes_its_largest_live_set() -> None:
    lives = [Lifetime(64 * size, first, last) for size, first, last in SWIN]
    got = plan(lives)
    assert_sound(lives, got, 64)
    assert got.total == got.lower_bound
    assert got.total < plan(lives, enough=2 * got.total).total <= 2 * got.total
