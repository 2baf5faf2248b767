"""Which cuts rules find, how many units they have, and which are dropped for too few."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from strategies.shard_functions import packed
from strategies.sharding import built, letters

from leptonc.ir.core import Function
from leptonc.ir.kinds import contract, norm, shape, unary
from leptonc.shard.placement import Partial, Shard
from leptonc.shard.spread import spread
from leptonc.shard.strategy import whole


def names(fn: Function, ranks: int) -> list[set[str]]:
    """Return the strategies of each op in short."""
    return [set(map(letters, options)) for options in spread(fn, ranks).strategies]


@given(packed(), st.integers(1, 8))
def test_whole_comes_first_and_units_suffice(fn: Function, ranks: int) -> None:
    found = spread(fn, ranks)
    for op, options in zip(fn.ops, found.strategies, strict=True):
        assert options[0] == whole(op)
        assert len(set(options)) == len(options)
        for s in options:
            places = [*zip(op.operands, s.ins), *zip(op.results, s.outs)]
            cut = {found.units[v, p] for v, p in places if isinstance(p, Shard)}
            assert len(cut) <= 1, "what is cut together is cut between the same units"
            assert all(n >= ranks for n in cut)


@given(packed(), st.integers(2, 8))
def test_units_divide_every_axis_that_they_cut(fn: Function, ranks: int) -> None:
    for (value, s), units in spread(fn, ranks).units.items():
        assert int(value.type.shape[s.axis]) % (s.outer * units) == 0


def test_heads_decide_where_a_projection_is_cut() -> None:
    b, (x, w) = built("f32[7,16]", "f32[40,16]")
    y = b(contract.Linear(), x, w)
    fn = b.finish(b(shape.Reshape((7, 5, 8)), y))
    found = spread(fn, 4)
    assert found.units[y, Shard(1)] == 5


def test_a_reader_of_too_few_units_leaves_a_product_its_columns() -> None:
    """One group of channels has no groups to share; the product in front of it has columns."""
    b, (x, w) = built("f32[1,16,9]", "f32[8,16,3]")
    y = b(contract.Conv((1,), (0,), (1,)), x, w)
    fn = b.finish(b(norm.GroupNorm(1, 1e-5, "none"), b(unary.Relu(), y)))
    conv, relu, group = names(fn, 4)
    assert "RS0>S1" in conv and "S1>S1" in relu
    assert group == {"R>R", "S1>S1:moments", "S2>S2:moments"}


def test_heads_fewer_than_ranks_leave_a_projection_its_columns() -> None:
    b, (x, w) = built("f32[7,16]", "f32[40,16]")
    y = b(contract.Linear(), x, w)
    fn = b.finish(b(shape.Reshape((7, 5, 8)), y))
    linear, reshape = names(fn, 8)
    assert "RS0>S1" in linear and "S1>S1" not in reshape
    dropped = spread(fn, 8).dropped[fn.ops[1]]
    assert ("S1>S1", 5) in [(letters(s), units) for s, units in dropped]


def test_nothing_is_cut_for_more_ranks_than_units() -> None:
    b, (x, w) = built("f32[3,5]", "f32[7,5]")
    fn = b.finish(b(contract.Linear(), x, w))
    assert names(fn, 8) == [{"RR>R", "PR>P"}]
    assert names(fn, 7) == [{"RR>R", "PR>P", "RS0>S1"}]


def test_truth_values_are_no_sums() -> None:
    b, (x,) = built("bool[8,8]")
    fn = b.finish(b(shape.Reshape((64,)), b(shape.Transpose((1, 0)), x)))
    for options in spread(fn, 2).strategies:
        assert not [s for s in options if Partial() in (*s.ins, *s.outs)]
