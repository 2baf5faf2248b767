"""From a choice to a program: where a value is taken from, which symbols there are."""

from __future__ import annotations

import pytest
from strategies.sharding import agrees, whole_numbers

from leptonc.ir.core import Builder, Function
from leptonc.ir.kinds import shape, unary
from leptonc.ir.types import parse_type
from leptonc.shard.check import check
from leptonc.shard.lower import lower
from leptonc.shard.parts import Parts
from leptonc.shard.placement import REPLICATE, Placement, Shard
from leptonc.shard.program import Spmd
from leptonc.shard.spread import spread
from leptonc.shard.strategy import Strategy


def _halves() -> Function:
    b = Builder("halves")
    x = b(unary.Relu(), b.param(parse_type("f32[16,8]"), "x"))
    return b.finish(b(shape.Slice(0, 0, 8), x), b(unary.Neg(), x))


def _placed(shared: dict[int, Placement]) -> tuple[Function, Spmd]:
    """Lower with x cut along rows, of which a reader wants halves of either half."""
    fn = _halves()
    found = spread(fn, 2)
    rows, halves, columns = Shard(0), Shard(0, 2), Shard(1)
    choice = (
        Strategy((rows,), (rows,)),
        Strategy((halves,), (rows,), form="blocks"),
        Strategy((columns,), (columns,)),
    )
    assert all(s in options for s, options in zip(choice, found.strategies, strict=True))
    where = {fn.ops[i].result: p for i, p in shared.items()}
    program = lower(fn, choice, Parts(found.units, (1.0, 1.0)), where)
    check(program)
    agrees(fn, program, [whole_numbers(fn.params[0].type, 0)])
    return fn, program


def test_a_part_comes_by_way_of_where_all_readers_meet() -> None:
    _, program = _placed({0: Shard(1)})
    names = [op.kind.NAME for op in program.collectives]
    assert names == ["all_to_all", "all_to_all", "all_gather", "all_gather"]


@pytest.mark.parametrize("shared", [{}, {0: REPLICATE}])
def test_a_part_comes_by_way_of_the_whole_where_there_is_no_other(shared) -> None:
    _, program = _placed(shared)
    assert program.collectives[0].kind.NAME == "all_gather"
