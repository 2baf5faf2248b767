"""Where buffers move: no plan is broken, and no more bytes change hands than before."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonc.backends.numba_cpu import memory
from leptonc.backends.numba_cpu.owners import ALIGN, GRAINS, Claim, foreign, settled

TOTAL = GRAINS * ALIGN  # bytes, of which a grain is the least: nothing is rounded

claims = st.builds(
    lambda size, first, life, owner: Claim(size, first, first + life, owner),
    st.integers(1, 3000), st.integers(0, 9), st.integers(0, 3),
    st.sampled_from([None, None, None, 0, 1]),
)  # fmt: skip


def changed(
    found: Sequence[Claim], offsets: Sequence[int], total: int, threads: int, calls: int = 2
) -> int:
    """Return the bytes that the last of some calls writes where another thread wrote last."""
    owner: list[int | None] = [None] * total
    count = 0
    for call in range(calls):
        count = 0
        for i in sorted(range(len(found)), key=lambda i: (found[i].first, i)):
            c, at = found[i], offsets[i]
            for k in range(c.bytes):
                by = c.owner if c.owner is not None else (k * threads + threads - 1) // c.bytes
                now = min(by, threads - 1)
                count += owner[at + k] not in {None, now} and call == calls - 1
                owner[at + k] = now
    return count


@given(
    sizes=st.lists(
        st.tuples(st.integers(1, 8), st.integers(0, 8), st.integers(0, 3),
                  st.sampled_from([None, None, 0, 1])),
        min_size=1, max_size=8,
    ),
    threads=st.sampled_from([1, 2, 4]),
)  # fmt: skip
def test_what_changes_hands_is_counted_as_a_call_writes_it(
    sizes: list[tuple[int, int, int, int | None]], threads: int
) -> None:
    unit = 4 * ALIGN  # that 1, 2 and 4 threads divide into whole grains
    found = [Claim(n * unit, f, f + life, o) for n, f, life, o in sizes]
    plan = memory.plan([memory.Lifetime(c.bytes, c.first, c.last) for c in found])
    assert plan.total <= TOTAL
    owners = [c if c.owner is None or c.owner < threads else Claim(c.bytes, c.first, c.last)
              for c in found]  # fmt: skip
    expected = changed(owners, plan.offsets, TOTAL, threads)
    assert foreign(owners, plan.offsets, TOTAL, threads) == expected


@given(
    found=st.lists(claims, min_size=1, max_size=14),
    threads=st.integers(2, 5),
    slack=st.integers(0, 4000),
    fixed=st.sets(st.integers(0, 13)),
)
def test_a_settled_plan_is_a_plan_in_which_no_more_changes_hands(
    found: list[Claim], threads: int, slack: int, fixed: set[int]
) -> None:
    found = [
        Claim(c.bytes, c.first, c.last, c.owner, fixed=i in fixed) for i, c in enumerate(found)
    ]
    plan = memory.plan([memory.Lifetime(c.bytes, c.first, c.last) for c in found])
    total = plan.total + slack
    made = settled(found, plan.offsets, total, threads)
    assert foreign(found, made, total, threads) <= foreign(found, plan.offsets, total, threads)
    for i, (c, at) in enumerate(zip(found, made, strict=True)):
        assert at >= 0 and at % ALIGN == 0 and at + c.bytes <= total
        assert at == plan.offsets[i] or not c.fixed
        for d, to in zip(found[:i], made[:i], strict=True):
            meet = c.first <= d.last and d.first <= c.last
            assert not meet or at + c.bytes <= to or to + d.bytes <= at


def test_a_small_result_moves_to_the_middle_of_the_large_one_before() -> None:
    """Both halves of what was written at the start belong to the first thread otherwise."""
    unit = 16 * ALIGN
    found = [Claim(8 * unit, 0, 0), Claim(2 * unit, 1, 1), Claim(4 * unit, 2, 2)]
    assert foreign(found, (0, 0, 0), 8 * unit, 2) == 6 * unit
    made = settled(found, (0, 0, 0), 8 * unit, 2)
    assert made == (0, 3 * unit, 2 * unit)
    assert foreign(found, made, 8 * unit, 2) == 0


def test_a_result_leaves_what_one_thread_keeps() -> None:
    unit = 16 * ALIGN
    kept = [Claim(2 * unit, 0, 0, 0, fixed=True), Claim(2 * unit, 0, 0, 1, fixed=True)]
    found, total = [*kept, Claim(2 * unit, 1, 1)], 12 * unit
    assert foreign(found, (0, 10 * unit, 0), total, 2) == 2 * unit  # and back again
    made = settled(found, (0, 10 * unit, 0), total, 2)
    assert made == (0, 10 * unit, unit)
    assert foreign(found, made, total, 2) == 0


@pytest.mark.parametrize("threads", [2, 3])
def test_where_nothing_changes_hands_nothing_moves(threads: int) -> None:
    found = [Claim(6000, 0, 1), Claim(6000, 1, 2), Claim(6000, 2, 3)]
    offsets = (0, 6016, 0)
    assert settled(found, offsets, 12032, threads) == offsets
