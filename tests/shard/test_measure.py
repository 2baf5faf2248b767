"""What a program of ranks costs and holds, on paper."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies.shard_functions import packed
from strategies.sharding import (
    any_choice,
    built,
    chosen,
    cluster_of,
    lowered,
    speeds_for,
    whole_numbers,
)

from leptonc.cost.cluster import Cluster, Device, Link
from leptonc.cost.flops import known, nbytes
from leptonc.ir.core import Builder, Function
from leptonc.ir.kinds import binary, contract, data, shape, unary
from leptonc.ir.types import DType, TensorType
from leptonc.meaning import const_of
from leptonc.shard.measure import activations, figures, held_constants, weights, whole_figures
from leptonc.shard.spread import spread

ALPHAS = {"all_reduce": 5.0, "all_gather": 3.0, "reduce_scatter": 2.0, "all_to_all": 1.0}
UNIT = Cluster("unit", Device("unit", {"f32": 1.0}, math.inf), 2, Link("wire", 1.0, ALPHAS, 0.5))


def constant(b: Builder, *dims: int):
    return b(data.Constant(const_of(whole_numbers(TensorType(DType.F32, dims), 1))))


def test_a_product_takes_its_operations_and_a_gather_its_bytes() -> None:
    b, (x, w) = built("f32[4,6]", "f32[8,6]")
    fn = b.finish(b(contract.Linear(), x, w))
    found = spread(fn, 2)
    f = figures(lowered(fn, chosen(found, ("RS0>S1",)), found, (1.0, 1.0)), UNIT)
    assert f.arithmetic_s == 2 * 4 * 6 * 8 / 2
    assert f.communication_s == 3 + (1 / 2) * 4 * 8 * 4
    assert (f.collectives, f.sent) == (1, 4 * 8 * 4)
    assert f.total_s == f.arithmetic_s + f.communication_s
    assert whole_figures(fn, UNIT).total_s == 2 * 4 * 6 * 8


def test_uneven_parts_take_what_the_larger_one_takes() -> None:
    b, (x, w) = built("f32[4,6]", "f32[8,6]")
    fn = b.finish(b(contract.Linear(), x, w))
    found = spread(fn, 2)
    f = figures(lowered(fn, chosen(found, ("RS0>S1",)), found, (3.0, 1.0)), UNIT)
    assert f.arithmetic_s == 2 * 4 * 6 * 6


def test_an_exchange_is_counted_by_the_whole() -> None:
    b, (x,) = built("f32[9,9]")
    y = b(unary.Relu(), x)
    fn = b.finish(b(unary.Neg(), y))
    found = spread(fn, 3)
    for speeds in ((1.0,) * 3, (1.0, 5.0, 1.0)):
        program = lowered(fn, chosen(found, ("S0>S0", "S1>S1")), found, speeds)
        f = figures(program, UNIT)
        assert [op.kind.NAME for op in program.collectives] == ["all_to_all", "all_gather"]
        assert f.sent == 2 * 9 * 9 * 4


def _read(*readers: str) -> Function:
    """Return a program that reads one constant whole, by a part, or by way of a reshape."""
    b = Builder("read")
    w = constant(b, 8, 6)
    made = []
    for how in readers:
        v = b(shape.Reshape((2, 24)), w) if how == "reshaped" else w
        made.append(b(unary.Neg(), v) if how == "whole" else b(shape.Slice(0, 0, 1), v))
    return b.finish(*made)


@pytest.mark.parametrize(
    ("readers", "elements"),
    [
        (("part",), 6), (("whole",), 48), (("whole", "part"), 48), (("reshaped",), 24),
        (("part", "part"), 12), (("reshaped", "part"), 30),
    ],
)  # fmt: skip
def test_a_rank_holds_what_it_reads(readers: tuple[str, ...], elements: int) -> None:
    fn = _read(*readers)
    assert weights(fn) == 4 * elements
    assert {op for _, op in held_constants(fn)} == {fn.ops[0]}


def test_values_alive_at_once() -> None:
    b, (x,) = built("f32[10]")
    y = b(unary.Relu(), x)
    z = b(binary.Add(), y, x)
    fn = b.finish(b(unary.Neg(), z))
    # x and y are alive when z is made: three of 40 bytes.
    assert activations(fn) == 120


@given(packed(), st.integers(2, 6).flatmap(speeds_for), st.integers(0, 99))
def test_figures_add_up_and_no_part_is_larger_than_the_whole(
    fn: Function, speeds: tuple[float, ...], seed: int
) -> None:
    found = spread(fn, len(speeds))
    choice, shared = any_choice(fn, found, speeds, seed)
    program = lowered(fn, choice, found, speeds, shared)
    f = figures(program, cluster_of(len(speeds)))
    for r in range(program.world):
        for value, op in held_constants(program.local(r)):
            assert known(nbytes((value,))) <= known(nbytes(op.results))
    terms = (f.arithmetic_s, f.memory_s, f.launch_s, f.communication_s)
    assert f.total_s == pytest.approx(sum(terms)) and min(terms) >= 0
    assert f.held == f.weights + f.activations
    assert f.activations >= sum(known(nbytes((p,))) for p in fn.params)
