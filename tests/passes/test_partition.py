"""``partition``: every op in exactly one unit, in any order of units the same bits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import functions
from strategies.orders import reordered

from leptonc.ir.core import Function
from leptonc.ir.kinds.binary import Add, Mul
from leptonc.ir.kinds.data import Constant, Full, Iota
from leptonc.ir.kinds.norm import Softmax
from leptonc.ir.kinds.region import TorchOp, Unit
from leptonc.ir.kinds.shape import Reshape, Slice, Transpose
from leptonc.ir.kinds.unary import Relu
from leptonc.ir.types import DType, TensorType
from leptonc.ir.verify import verify
from leptonc.passes.fuse import Fuse
from leptonc.passes.layout import Layout
from leptonc.passes.partition import Partition
from leptonc.pipeline import PROPERTY_CHECKS, PassManager

from .nets import (
    BLOCKS,
    F32,
    Net,
    assert_same_bits,
    inputs,
    networks,
    resnet,
    tally,
    transformer,
    units,
)

PARTITION = Partition()
PREFIXES = ((), (Fuse(),), (Layout(),), (Layout(), Fuse()))


def assert_partitioned(fn: Function, before: Function) -> None:
    assert all(isinstance(op.kind, Unit) for op in fn.ops)
    assert PROPERTY_CHECKS["partitioned"](fn) is None
    assert tally(fn) == tally(before), "every op in exactly one unit"
    names = [op.kind.name for op in fn.ops]
    assert len(set(names)) == len(names), "a name means one unit"


@given(networks(), st.sampled_from(PREFIXES), st.data())
def test_laws_on_networks(before: Function, prefix: tuple, data: st.DataObject) -> None:
    for p in prefix:
        before = p(before)
    after = PARTITION(before)
    assert_same_bits(before, after, *inputs(before))
    assert_partitioned(after, before)
    assert PARTITION(after) is after
    other = data.draw(reordered(after))
    assert_same_bits(after, other, *inputs(after))


@given(functions(max_ops=12), st.sampled_from(PREFIXES))
def test_laws_on_any_function(before: Function, prefix: tuple) -> None:
    for p in prefix:
        before = p(before)
    after = PARTITION(before)
    verify(after)
    assert_partitioned(after, before)
    assert PARTITION(after) is after


@given(networks())
def test_limit_of_one(before: Function) -> None:
    after = Partition(max_ops=1)(before)
    assert_partitioned(after, before)
    assert_same_bits(before, after)
    for op in after.ops:
        assert isinstance(op.kind, Unit)
        work = [o for o in op.kind.body.ops if not isinstance(o.kind, (Constant, Full))]
        assert len(work) == 1


@pytest.mark.parametrize("block", BLOCKS)
def test_whole_pipeline_keeps_blocks(block) -> None:
    before = Layout()(block())
    after = PassManager((Layout(), Fuse(), PARTITION)).run(before)
    assert_partitioned(after, Fuse()(before))
    assert_same_bits(before, after, *inputs(before))


def test_resnet_units() -> None:
    after = PARTITION(Fuse()(Layout()(resnet())))
    assert units(after) == [
        ("contract", "conv1+relu"),
        ("max_pool", "max_pool"),
        ("contract", "layer0.conv1+relu"),
        ("contract", "layer0.conv2+add+relu"),
        ("contract", "layer1.conv1+relu"),
        ("contract", "layer1.conv2"),
        ("contract", "layer1.downsample+add+relu"),
        ("adaptive_avg_pool", "adaptive_avg_pool"),
        ("contract", "fc"),
    ]


def test_transformer_units_take_their_views_in() -> None:
    after = PARTITION(Fuse()(Layout()(transformer())))
    assert [p for p, _ in units(after)] == [
        "norm", "contract", "contract", "contract", "attention", "contract", "norm", "contract",
        "contract",
    ]  # fmt: skip


def test_symbolic_sizes_are_declared_in_every_body() -> None:
    before = transformer("n")
    after = PARTITION(Fuse()(Layout()(before)))
    assert all(isinstance(op.kind, Unit) and op.kind.body.dims == before.dims for op in after.ops)
    assert_same_bits(before, after)


def test_view_with_two_readers_is_its_own_unit() -> None:
    b = Net()
    v = b(Reshape((4, 2)), b.input(2, 4))
    after = PARTITION(b.finish(b(Softmax(1), v), b(Softmax(0), v)))
    assert [p for p, _ in units(after)] == ["view", "softmax", "softmax"]


def test_views_with_two_readers_in_one_unit_join_it() -> None:
    b = Net()
    v = b(Transpose((1, 0)), b.input(4, 4))
    parts = b(Slice(0, 0, 2), v), b(Slice(0, 2, 4), v)
    after = PARTITION(b.finish(b(Mul(), *parts)))
    assert [p for p, _ in units(after)] == ["chain"]


def test_reshape_that_copies_stands_alone() -> None:
    b = Net()
    v = b(Reshape((8,)), b(Transpose((1, 0)), b.input(2, 4)))
    before = b.finish(b(Softmax(0), v))
    assert [p for p, _ in units(PARTITION(before))] == ["copy", "softmax"]
    after = PARTITION(Layout()(before))
    assert [p for p, _ in units(after)] == ["relayout", "softmax"], "an explicit copy instead"


def test_splitting_a_sliced_axis_is_no_copy_but_merging_is() -> None:
    for shape, patterns in (((2, 2, 2), ["softmax"]), ((8,), ["copy", "softmax"])):
        b = Net()
        v = b(Reshape(shape), b(Slice(1, 0, 4), b.input(2, 6)))
        after = PARTITION(b.finish(b(Softmax(0), v)))
        assert [p for p, _ in units(after)] == patterns


def test_constants_go_into_every_body_that_reads_them() -> None:
    b = Net()
    x, c = b.input(2, 4), b.weight(2, 4)
    s = b(Full((), 2.0, F32))
    after = PARTITION(b.finish(b(Softmax(1), b(Mul(), b(Add(), x, c), s)), b(Mul(), x, c)))
    for op in after.ops:
        assert isinstance(op.kind, Unit)
        makers = [after.producer[v] for v in op.operands if v not in after.params]
        assert all(isinstance(m.kind, Unit) for m in makers)
    consts = {
        id(o.kind.const.payload)
        for op in after.ops
        if isinstance(op.kind, Unit)
        for o in op.kind.body.ops
        if isinstance(o.kind, Constant)
    }
    assert len(consts) == 1, "copied by reference"


def test_returned_constant_and_parameter() -> None:
    b = Net()
    x, c = b.input(2, 4), b.weight(2, 4)
    before = b.finish(x, c, b(Iota(3)))
    after = PARTITION(before)
    assert [p for p, _ in units(after)] == ["constant", "iota"]
    assert_same_bits(before, after)


def test_torch_op_is_alone() -> None:
    b = Net()
    opaque = TorchOp("aten.frac.default", (), (), (TensorType(DType.F32, (2, 4)),))
    after = PARTITION(Fuse()(b.finish(b(Relu(), b(opaque, b(Relu(), b.input(2, 4)))))))
    assert [p for p, _ in units(after)] == ["chain", "torch", "chain"]


def test_limit_keeps_views_out() -> None:
    b = Net()
    y = b.input(2, 2)
    for _ in range(5):
        y = b(Transpose((1, 0)), y)
    after = Partition(max_ops=4)(b.finish(b(Softmax(1), y)))
    sizes = [len(op.kind.body.ops) for op in after.ops if isinstance(op.kind, Unit)]
    assert max(sizes) <= 4 and sum(sizes) == 6
