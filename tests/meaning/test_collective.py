"""Collectives over the tensors of all ranks: any cuts, any dtype, the same bits everywhere."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from leptonc.errors import InputError
from leptonc.ir.kinds.collective import AllGather, AllReduce, AllToAll, Owned, ReduceScatter
from leptonc.meaning import apply
from leptonc.meaning.collective import TOGETHER, combined, part

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8)


@st.composite
def cuts(draw: st.DrawFn, world: int, most: int = 7) -> tuple[int, ...]:
    """Draw offsets of ``world`` parts, uneven ones and empty ones among them."""
    sizes = draw(st.lists(st.integers(0, most), min_size=world, max_size=world))
    return (0, *itertools.accumulate(sizes))


@st.composite
def worlds(draw: st.DrawFn) -> tuple[int, list[Tensor], int]:
    """Draw one tensor a rank, all of one shape of two or three axes; and an axis."""
    world = draw(st.integers(1, 5))
    shape = draw(st.lists(st.integers(1, 4), min_size=2, max_size=3))
    dtype = draw(st.sampled_from(DTYPES))
    g = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    tensors = [torch.randint(-9, 10, shape, generator=g).to(dtype) for _ in range(world)]
    return world, tensors, draw(st.integers(0, len(shape) - 1))


def resized(t: Tensor, axis: int, size: int) -> Tensor:
    """Return ``t`` repeated or cut to ``size`` along ``axis``."""
    return t.index_select(axis, torch.arange(size) % t.shape[axis])


def together(kind, tensors: list[Tensor], per_rank=None) -> list[Tensor]:
    kinds = per_rank or [kind] * len(tensors)
    return TOGETHER[type(kinds[0])](kinds, tensors)


@given(worlds(), st.sampled_from(["sum", "max", "min"]))
def test_a_reduction_is_that_of_the_stack(drawn, op: str) -> None:
    world, tensors, _ = drawn
    got = together(AllReduce(op), tensors)
    stack = torch.stack(tensors)
    want = {"sum": lambda: stack.sum(0, dtype=stack.dtype), "max": lambda: stack.amax(0),
            "min": lambda: stack.amin(0)}[op]()  # fmt: skip
    assert len(got) == world
    assert all(torch.equal(t, want) and t.dtype is want.dtype for t in got)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_sums_are_added_in_the_order_of_the_ranks(dtype: torch.dtype) -> None:
    big = {torch.float32: 2.0**24, torch.float16: 2048.0}[dtype]
    tensors = [torch.tensor([x], dtype=dtype) for x in (big, 1.0, 1.0, -big)]
    got = together(AllReduce("sum"), tensors)
    assert [t.item() for t in got] == [0.0] * 4, "1 is lost behind what is large, twice"
    tensors = [*tensors[1:3], tensors[0], tensors[3]]
    assert [t.item() for t in together(AllReduce("sum"), tensors)] == [2.0] * 4
    scattered = together(ReduceScatter(0, (0, 1, 1, 1, 1), 1), tensors)
    assert [t.tolist() for t in scattered] == [[2.0], [], [], []]


def test_nan_wins_extremes_and_truth_values_are_or_and_and() -> None:
    nan, one = torch.tensor([float("nan"), 1.0]), torch.tensor([2.0, float("nan")])
    for op in ("max", "min"):
        assert all(t.isnan().all() for t in together(AllReduce(op), [nan, one]))
    yes, no = torch.tensor([True, False]), torch.tensor([False, False])
    assert [t.tolist() for t in together(AllReduce("max"), [yes, no])] == [[True, False]] * 2
    assert [t.tolist() for t in together(AllReduce("sum"), [yes, no])] == [[True, False]] * 2
    assert [t.tolist() for t in together(AllReduce("min"), [yes, no])] == [[False, False]] * 2


@given(worlds(), st.data())
def test_a_gather_joins_and_its_parts_are_back(drawn, data: st.DataObject) -> None:
    world, tensors, axis = drawn
    offsets = data.draw(cuts(world))
    whole = resized(tensors[0], axis, offsets[-1])
    parts = [part(whole, axis, offsets, r) for r in range(world)]
    got = together(AllGather(axis, offsets), parts)
    assert all(torch.equal(t, whole) for t in got)


@given(worlds(), st.data())
def test_a_reduce_scatter_is_a_part_of_the_sum(drawn, data: st.DataObject) -> None:
    world, tensors, axis = drawn
    offsets = data.draw(cuts(world))
    tensors = [resized(t, axis, offsets[-1]) for t in tensors]
    sizes = [b - a for a, b in itertools.pairwise(offsets)]
    got = together(None, tensors, [ReduceScatter(axis, offsets, n) for n in sizes])
    total = combined(tensors, "sum")
    assert all(torch.equal(t, part(total, axis, offsets, r)) for r, t in enumerate(got))


@given(worlds(), st.data())
def test_an_exchange_turns_parts_along_one_axis_to_parts_along_another(
    drawn, data: st.DataObject
) -> None:
    world, tensors, join = drawn
    split = (join + 1) % tensors[0].dim()
    old, new = data.draw(cuts(world)), data.draw(cuts(world))
    whole = resized(resized(tensors[0], join, old[-1]), split, new[-1])
    sizes = [b - a for a, b in itertools.pairwise(new)]
    kinds = [AllToAll(split, new, n, join, old) for n in sizes]
    got = together(None, [part(whole, join, old, r) for r in range(world)], kinds)
    assert all(torch.equal(t, part(whole, split, new, r)) for r, t in enumerate(got))


def test_parts_of_other_sizes_are_refused() -> None:
    tensors = [torch.zeros(2, 3), torch.zeros(1, 3)]
    with pytest.raises(InputError, match=r"axis 0 are \[2, 1\].*ask for \[1, 2\]"):
        together(AllGather(0, (0, 1, 3)), tensors)
    with pytest.raises(InputError, match=r"axis 0 are \[2, 1\]"):
        together(AllToAll(1, (0, 2, 3), 2, 0, (0, 1, 3)), tensors)


def test_what_a_rank_gets_is_its_own() -> None:
    """A result that a rank writes over is no one else's, and no one's operand."""
    x = [torch.ones(2, 2), torch.ones(2, 2)]
    for kind in (AllReduce("sum"), AllGather(0, (0, 2, 4)), ReduceScatter(0, (0, 1, 2), 1),
                 AllToAll(1, (0, 1, 2), 1, 0, (0, 2, 4))):  # fmt: skip
        first, second = together(kind, x)
        first.fill_(7.0)
        assert not (second == 7.0).any() and not any((t == 7.0).any() for t in x)


def test_one_rank_alone_cannot_meet_others() -> None:
    with pytest.raises(InputError, match="all_reduce: one rank alone"):
        apply(AllReduce("sum"), torch.ones(2))


def test_the_first_rank_owns() -> None:
    x = torch.tensor([1.0, -2.0])
    made = [apply(Owned(r), x)[0] for r in range(3)]
    assert torch.equal(combined(made, "sum"), x)
    assert [t.abs().sum().item() for t in made] == [3.0, 0.0, 0.0]
