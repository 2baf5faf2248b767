"""The verifier: programs of real plans pass, every fault that is planted is found and named."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies.shard_functions import packed
from strategies.sharding import any_choice, built, chosen, lowered, speeds_for

from leptonc.errors import VerifyError
from leptonc.ir.core import Function, Kind, Op, Value
from leptonc.ir.dims import symbol
from leptonc.ir.kinds import binary, collective, contract, norm, reduce, shape, unary
from leptonc.shard.check import check
from leptonc.shard.placement import PARTIAL, REPLICATE, Shard
from leptonc.shard.program import Spmd
from leptonc.shard.spread import spread

SPEEDS = (1.0, 2.0, 1.0)


def pair() -> Spmd:
    """Return a column and a row product on three uneven ranks, a norm behind, parts joined."""
    b, (x, w, v, bias) = built("f32[6,10]", "f32[8,10]", "f32[9,8]", "f32[9]")
    y = b(contract.Linear(), b(unary.Relu(), b(contract.Linear(), x, w)), v, bias)
    z = b(norm.LayerNorm(1, 1e-5, "none"), y)
    fn = b.finish(b(unary.Relu(), b(reduce.Amax((0,)), z)))
    names = ("RS0>S1", "S1>S1", "S1S1P>P", "S0>S0", "S0>Pmax", "R>R")
    return made(fn, names)


def joined() -> Spmd:
    """Return a product by columns whose halves are exchanged for rows, then gathered."""
    b, (x, w) = built("f32[9,10]", "f32[16,10]")
    y = b(contract.Linear(), x, w)
    halves = [b(shape.Slice(1, i, i + 8), y) for i in (0, 8)]
    z = b(norm.Softmax(1), b(binary.Add(), *halves))
    fn = b.finish(z, halves[0])
    names = ("RS0/2>S1/2", "S1/2>S1:blocks", "S1/2>S1:blocks", "S1S1>S1", "S0>S0")
    return made(fn, names)


def made(fn: Function, names: tuple[str, ...]) -> Spmd:
    found = spread(fn, len(SPEEDS))
    return lowered(fn, chosen(found, names), found, SPEEDS)


def at(program: Spmd, name: str, nth: int = 0) -> int:
    """Return where the ``nth`` op of this name is."""
    return [i for i, op in enumerate(program.function.ops) if name == op.kind.NAME][nth]


def with_ops(program: Spmd, ops: tuple[Op, ...], returns: tuple[Value, ...]) -> Spmd:
    fn = dataclasses.replace(program.function, ops=ops, returns=returns)
    return dataclasses.replace(program, function=fn)


def with_kind(program: Spmd, i: int, kind: Kind) -> Spmd:
    """Return the program whose op ``i`` is of another kind, all else left as it is."""
    ops = list(program.function.ops)
    ops[i] = dataclasses.replace(ops[i], kind=kind)
    return with_ops(program, tuple(ops), program.function.returns)


def without(program: Spmd, i: int) -> Spmd:
    """Return the program without op ``i``: its readers get what it read."""
    gone = program.function.ops[i]
    new = {gone.result: gone.operands[0]}
    ops = tuple(
        dataclasses.replace(op, operands=tuple(new.get(v, v) for v in op.operands))
        for op in program.function.ops
        if op is not gone
    )
    return with_ops(program, ops, tuple(new.get(v, v) for v in program.function.returns))


def moved(program: Spmd, value: Value, placement: object) -> Spmd:
    """Return the program that claims ``value`` to be elsewhere."""
    placements = {**program.placements, value: placement}
    return dataclasses.replace(program, placements=placements)


def refused(program: Spmd, *texts: str) -> None:
    with pytest.raises(VerifyError) as found:
        check(program)
    for text in texts:
        assert text in str(found.value)


def test_whole_programs_pass() -> None:
    names = [op.kind.NAME for p in (pair(), joined()) for op in p.collectives]
    assert names == [
        "reduce_scatter", "all_reduce", "all_to_all", "all_gather", "all_gather",
    ]  # fmt: skip


def test_a_sum_that_is_not_added_up() -> None:
    p = pair()
    refused(without(p, at(p, "reduce_scatter")), "layer_norm")
    refused(without(p, at(p, "all_reduce")), "(relu)", "reads a max")
    p = joined()
    refused(without(p, at(p, "all_gather")), "result 0 is S0, it must be whole")


def test_a_nonlinear_op_on_a_sum() -> None:
    b, (x, w) = built("f32[6,8]", "f32[9,8]")
    y = b(unary.Neg(), b(contract.Linear(), x, w))
    p = made(b.finish(y), ("S1S1>P", "P>P"))
    refused(with_kind(p, at(p, "neg"), unary.Relu()), "(relu)", "reads a sum", "P")


def test_a_product_of_two_sums() -> None:
    b, (x, w) = built("f32[6,8]", "f32[9,8]")
    y = b(contract.Linear(), x, w)
    p = made(b.finish(b(binary.Add(), y, y)), ("S1S1>P", "PP>P"))
    refused(with_kind(p, at(p, "add"), binary.Mul()), "(mul)", "PP")


@pytest.mark.parametrize("op", ["sum", "min"])
def test_an_extreme_that_is_combined_by_something_else(op: str) -> None:
    p = pair()
    fault = with_kind(p, at(p, "all_reduce"), collective.AllReduce(op))
    refused(fault, "(all_reduce)", f"combines by {op} what is a max")


def test_a_sum_that_is_combined_by_something_else() -> None:
    b, (x,) = built("f32[6,8]")
    p = made(b.finish(b(reduce.Sum((1,)), x)), ("S1>P",))
    refused(with_kind(p, at(p, "all_reduce"), collective.AllReduce("max")), "(all_reduce)")
    refused(with_kind(p, at(p, "sum"), reduce.Amax((1,))), "(amax)", "makes a max")


def test_an_extreme_that_is_added() -> None:
    p = pair()
    i = at(p, "all_reduce")
    fault = with_kind(p, i, unary.Neg())
    refused(moved(fault, p.function.ops[i].result, PARTIAL), "(neg)", "reads a max")


def test_cuts_that_are_not_the_parts() -> None:
    p = joined()
    kind = p.function.ops[at(p, "all_gather")].kind
    assert isinstance(kind, collective.AllGather)
    for cuts, text in (
        ((0, 3, 5, 9), "ranks hold [2, 5, 2]"),
        ((0, 2, 9), "not those of 3 ranks"),
        ((0, 2, 2, 7, 9), "not those of 3 ranks"),
    ):
        fault = with_kind(p, at(p, "all_gather"), collective.AllGather(kind.axis, cuts))
        refused(fault, "(all_gather)", text)


def test_exchanged_parts_that_are_others() -> None:
    p = joined()
    i = at(p, "all_to_all")
    kind = p.function.ops[i].kind
    assert isinstance(kind, collective.AllToAll)
    other = (0, 1, *kind.split_cuts[2:])
    refused(with_kind(p, i, dataclasses.replace(kind, split_cuts=other)), "(all_to_all)")
    other = (0, 1, *kind.join_cuts[2:])
    refused(with_kind(p, i, dataclasses.replace(kind, join_cuts=other)), "(all_to_all)")


def test_a_part_of_a_size_that_no_rank_knows() -> None:
    p = pair()
    i = at(p, "reduce_scatter")
    kind = p.function.ops[i].kind
    assert isinstance(kind, collective.ReduceScatter)
    part = symbol("elsewhere")
    ops = list(p.function.ops)
    type_ = ops[i].result.type.with_shape((part, 9))
    refused(with_kind(p, i, dataclasses.replace(kind, part=part)), "(reduce_scatter)")
    result = Value(type_)
    new = dataclasses.replace(kind, part=part)
    ops[i : i + 2] = [Op(new, ops[i].operands, (result,))]
    fault = moved(with_ops(p, tuple(ops[: i + 1]), (result,)), result, Shard(0))
    dims = (*p.function.dims, dataclasses.replace(p.function.dims[0], name="elsewhere"))
    declared = dataclasses.replace(fault.function, dims=dims)
    refused(dataclasses.replace(fault, function=declared), "no size of a rank")


def test_parts_joined_along_another_axis() -> None:
    b, (x,) = built("f32[9,9]")
    p = made(b.finish(b(unary.Relu(), x)), ("S0>S0",))
    refused(moved(p, p.function.ops[at(p, "relu")].result, Shard(1)), "(all_gather)", "axis 0")


def test_parts_that_pass_for_whole() -> None:
    p = pair()
    result = p.function.ops[at(p, "relu")].result
    refused(moved(p, result, REPLICATE), "(relu)", "reads parts, its result is whole")


def test_a_part_that_is_returned() -> None:
    p = pair()
    value = p.function.ops[at(p, "layer_norm")].result
    refused(with_ops(p, p.function.ops, (value,)), "result 0 is S0, it must be whole")


def test_a_sum_out_of_nothing() -> None:
    b, (x, w) = built("f32[6,8]", "f32[9,8]")
    p = made(b.finish(b(contract.Linear(), x, w)), ("RR>R",))
    result = p.function.ops[-1].result
    refused(moved(p, result, PARTIAL), "(linear)", "of values that are none")


def test_a_message_names_the_place_in_the_model() -> None:
    p = pair()
    refused(without(p, at(p, "all_reduce")), "op ", "this is a fault of a sharding rule")


@given(packed(), st.integers(2, 5).flatmap(speeds_for), st.integers(0, 999), st.data())
def test_no_sum_and_no_gather_can_be_left_out(
    fn: Function, speeds: tuple[float, ...], seed: int, data: st.DataObject
) -> None:
    found = spread(fn, len(speeds))
    choice, shared = any_choice(fn, found, speeds, seed)
    p = lowered(fn, choice, found, speeds, shared)
    ops = p.function.ops
    used = p.function.use_count
    # What types alone cannot tell stays out: a part of a square looks like another part of it, and
    # a part of one element is broadcast like a whole. Sums may be scattered or not before others.
    kinds = (collective.AllReduce, collective.AllGather)
    meets = [
        i
        for i, op in enumerate(ops)
        if isinstance(op.kind, kinds) and used[op.result] and 1 not in op.operands[0].type.shape
    ]
    assume(meets)
    refused(without(p, data.draw(st.sampled_from(meets))))
