"""Equal layers are found, and what is left tells about all of them."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st
from strategies.decoders import decoders, small

from leptonc.cost.flops import function_cost
from leptonc.ir.core import Builder, Function
from leptonc.ir.kinds import binary, unary
from leptonc.ir.kinds.data import Constant
from leptonc.ir.types import DType, TensorType
from leptonc.ir.verify import verify
from leptonc.shard.simulate.decoders import Decoder, prefill, step
from leptonc.shard.simulate.repeat import find_run, shorten


@given(decoders(), st.booleans())
def test_every_op_is_told_by_one_of_its_kind_and_types(d: Decoder, one: bool) -> None:
    fn = step(d, 2, 16) if one else prefill(d, 2, 8)
    short = shorten(fn)
    verify(short.function)
    assert len(short.stands) == len(fn.ops) == len(short.whole.ops)
    run = find_run(short.whole)
    assert run is not None and run.count == d.layers
    assert len(short.function.ops) == len(fn.ops) - (d.layers - 3) * run.period
    for op, place in zip(short.whole.ops, short.stands, strict=True):
        other = short.function.ops[place]
        assert type(op.kind) is type(other.kind)
        assert [v.type for v in op.operands] == [v.type for v in other.operands]
        assert isinstance(op.kind, Constant) or op.kind == other.kind


@given(decoders())
def test_first_and_last_layers_are_the_programs_own(d: Decoder) -> None:
    short = shorten(step(d, 1, 16))
    names = [op.results[0].hint for op in short.function.ops if isinstance(op.kind, Constant)]
    kept = {n.split(".")[0] for n in names if n[0].isdigit()}
    assert kept == {"0", "1", str(d.layers - 1)}
    assert {p.hint.split(".")[0] for p in short.function.params} == {"ids", *kept}


def _chain(kinds: list[int]) -> Function:
    b = Builder("chain")
    x = b.param(TensorType(DType.F32, (4,)))
    made = (unary.Neg(), unary.Exp(), unary.Tanh(), binary.Add())
    for k in kinds:
        x = b(made[k], x, x) if k == 3 else b(made[k], x)
    return b.finish(x)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_any_chain_costs_what_its_short_form_tells(kinds: list[int]) -> None:
    fn = _chain(kinds)
    short = shorten(fn)
    verify(short.function)
    costs = [function_cost(dataclasses.replace(fn, ops=(op,))) for op in short.function.ops]
    told = sum(int(costs[i].flops) for i in short.stands)
    assert told == function_cost(fn).flops


def test_what_does_not_repeat_stays() -> None:
    fn = _chain([0, 1, 2, 3])
    short = shorten(fn)
    assert find_run(fn) is None and short.stands == (0, 1, 2, 3)
    assert [op.kind for op in short.function.ops] == [op.kind for op in fn.ops]


def test_layers_that_read_other_places_do_not_count() -> None:
    b = Builder("ladder")
    x = first = b(unary.Exp(), b.param(TensorType(DType.F32, (4,))))
    for i in range(12):  # the odd ones read the layer before, the even ones what came first
        x = b(binary.Add(), b(unary.Neg(), x), first if i % 2 else x)
    run = find_run(b.finish(x))
    assert run is not None and run.period == 4


def test_a_table_read_by_every_layer_stays_once() -> None:
    d = small(8)
    short = shorten(step(d, 1, 16))
    assert sum(p.hint == "ids" for p in short.function.params) == 1
