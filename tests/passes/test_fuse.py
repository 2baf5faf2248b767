"""``fuse``: which ops share a unit, which do not and why, and that nothing changes."""

from __future__ import annotations

from functools import partial
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import functions

from leptonc.ir.core import Builder, Function, Kind, Op, Value
from leptonc.ir.kinds.binary import Add, Mul
from leptonc.ir.kinds.contract import Conv, Linear, Matmul
from leptonc.ir.kinds.data import Constant, Full
from leptonc.ir.kinds.norm import LayerNorm, Softmax
from leptonc.ir.kinds.pointwise import Clamp, Elu, Gelu
from leptonc.ir.kinds.reduce import MaxPool, Mean
from leptonc.ir.kinds.region import Unit
from leptonc.ir.kinds.unary import Exp, Neg, Relu, Sigmoid, Silu, Tanh
from leptonc.ir.types import DType, TensorType
from leptonc.ir.verify import verify
from leptonc.passes.fuse import Fuse
from leptonc.passes.fusing import bands
from leptonc.passes.fusing.quotient import Quotient
from leptonc.passes.layout import Layout
from leptonc.rewrite.trace import RemarkKind, Trace

from .nets import (
    BLOCKS,
    Net,
    assert_same_bits,
    inputs,
    networks,
    resnet,
    squeeze_excite,
    tally,
    units,
)

FUSE = Fuse()


def fused(fn: Function) -> tuple[Function, list[str]]:
    trace = Trace("fuse")
    after = FUSE.run(fn, trace)
    verify(after)
    return after, [r.reason for r in trace.remarks if r.kind is RemarkKind.MISSED]


def patterns(fn: Function) -> list[list[str]]:
    return [
        [op.kind.pattern, *(o.kind.NAME for o in op.kind.body.ops if o.operands)]
        for op in fn.ops
        if isinstance(op.kind, Unit)
    ]


def assert_self_contained(fn: Function) -> None:
    """No unit reads a constant from outside."""
    for op in fn.ops:
        if isinstance(op.kind, Unit):
            makers = [fn.producer[v] for v in op.operands if v in fn.producer]
            assert not any(isinstance(m.kind, (Constant, Full)) for m in makers)


# ----- laws ---------------------------------------------------------------------------------------


@given(networks(), st.booleans())
def test_laws_on_networks(before: Function, laid_out: bool) -> None:
    before = Layout()(before) if laid_out else before
    after, _ = fused(before)  # a verified function is in order: its units' graph has no cycle
    assert_same_bits(before, after, *inputs(before))
    assert_self_contained(after)
    gained, lost = tally(after) - tally(before), tally(before) - tally(after)
    assert not gained and set(lost) <= {Add()}, "every op once; only an added bias may vanish"
    assert FUSE(after) is after


@given(functions(max_ops=12))
def test_laws_on_any_function(before: Function) -> None:
    after, _ = fused(before)
    assert_self_contained(after)
    assert tally(after) == tally(before)
    assert FUSE(after) is after


@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_keep_their_bits(block) -> None:
    before = Layout()(block())
    assert_same_bits(before, FUSE(before), *inputs(before))


@st.composite
def graphs(draw: st.DrawFn) -> Function:
    """A random DAG of adds."""
    b = Builder("graph")
    pool: list[Value] = [b.param(TensorType(DType.F32, (2,)))]
    for _ in range(draw(st.integers(2, 14))):
        pool.append(b(Add(), draw(st.sampled_from(pool)), draw(st.sampled_from(pool))))
    return b.finish(pool[-1])


def quotient_edges(fn: Function, group: dict[int, int]) -> set[tuple[int, int]]:
    edges = {
        (group[id(fn.producer[v])], group[id(op)])
        for op in fn.ops
        for v in op.operands
        if v in fn.producer
    }
    return {(a, b) for a, b in edges if a != b}


def has_cycle(edges: set[tuple[int, int]]) -> bool:
    nodes = {n for e in edges for n in e}
    while nodes:
        free = {n for n in nodes if not any(b == n and a in nodes for a, b in edges)}
        if not free:
            return True
        nodes -= free
    return False


@given(graphs(), st.data())
def test_quotient_stays_acyclic_and_refuses_nothing_else(fn: Function, data: st.DataObject) -> None:
    quotient = Quotient(fn)
    for _ in range(data.draw(st.integers(1, 12))):
        a, b = data.draw(st.sampled_from(fn.ops)), data.draw(st.sampled_from(fn.ops))
        group = {id(op): quotient.group(op) for op in fn.ops}
        tried = {k: (group[id(a)] if g == group[id(b)] else g) for k, g in group.items()}
        cyclic = has_cycle(quotient_edges(fn, tried))
        assert quotient.merge(a, b) is not cyclic
        now = {id(op): quotient.group(op) for op in fn.ops}
        assert now == (group if cyclic else now) and not has_cycle(quotient_edges(fn, now))
        place = {g: i for i, g in enumerate(quotient.groups())}
        assert all(place[x] < place[y] for x, y in quotient_edges(fn, now))
        members = [op for g in quotient.groups() for op in quotient.ops(g)]
        assert sorted(map(id, members)) == sorted(map(id, fn.ops))


# ----- contract -----------------------------------------------------------------------------------


def test_resnet_units() -> None:
    after, missed = fused(Layout()(resnet()))
    assert units(after) == [
        ("contract", "conv1+relu"),
        ("contract", "layer0.conv1+relu"),
        ("contract", "layer0.conv2+add+relu"),
        ("contract", "layer1.conv1+relu"),
        ("contract", "layer1.downsample+add+relu"),
    ]
    assert missed == [
        "not run with add (f32[1,8,4,4]@0231): layer1.downsample+add+relu does that already",
        "not run with the convolution before it: "
        "only windows of 2x2 side by side are taken in registers",
    ]


def test_gate_units() -> None:
    """The projection is added, row-major, to the image as the caller gives it: by itself."""
    after, _ = fused(Layout()(squeeze_excite()))
    assert [p for p, _ in units(after)] == ["contract"] * 3 + ["scaled"]


def test_activation_then_residual() -> None:
    b = Net()
    x = b.input(2, 4)
    after, _ = fused(b.finish(b(Add(), b(Silu(), b.linear(x, 4)), x)))
    assert patterns(after) == [["contract", "linear", "silu", "add"]]


def test_one_activation_and_one_residual_are_enough() -> None:
    b = Net()
    x = b.input(2, 4)
    y = b(Tanh(), b(Add(), b(Relu(), b.linear(x, 4)), x))
    after, _ = fused(b.finish(y))
    assert patterns(after) == [["contract", "linear", "relu", "add"]]
    assert after.ops[-1].kind == Tanh()


@pytest.mark.parametrize(
    ("kind", "joins"),
    [
        (Gelu(), True),
        (Clamp(0.0, 6.0), True),
        (Clamp(None, 6.0), True),
        (Clamp(0, 6), False),
        (Elu(), True),
        (Elu(scale=2.0), False),
        (Exp(), False),
    ],
)
def test_which_activations_join(kind: Kind, joins: bool) -> None:
    b = Net()
    after, _ = fused(b.finish(b(kind, b.linear(b.input(2, 4), 4))))
    assert bool(patterns(after)) is joins


def test_result_with_another_reader_is_not_fused() -> None:
    b = Net()
    y = b.linear(b.input(2, 4), 4)
    after, missed = fused(b.finish(b(Relu(), y), b(Softmax(1), y)))
    assert not patterns(after)
    assert missed == [
        "not run with linear (f32[2,4]): (f32[2,4]) is also read by softmax (f32[2,4])"
    ]


def test_returned_result_is_not_fused() -> None:
    b = Net()
    y = b.linear(b.input(2, 4), 4)
    after, missed = fused(b.finish(b(Relu(), y), y))
    assert not patterns(after) and "(f32[2,4]) is also read by the caller" in missed[0]


def test_value_added_to_itself_is_no_residual() -> None:
    b = Net()
    y = b.linear(b.input(2, 4), 4)
    before = b.finish(b(Add(), y, y))
    after, _ = fused(before)
    assert not patterns(after)


def test_broadcast_add_is_no_residual() -> None:
    b = Net()
    y = b(Add(), b.linear(b.input(2, 4), 4), b.input(1, 4, hint="r"))
    assert not patterns(fused(b.finish(y))[0])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 3, 1, 1)])
def test_added_channel_vector_becomes_bias(bias: bool, shape: tuple[int, ...]) -> None:
    b = Net()
    y = b(Add(), b.weight(*shape), b.conv(b.input(2, 2, 4, 4), 3, bias=bias))
    before = b.finish(b(Relu(), y))
    after, _ = fused(before)
    assert patterns(after) == [["contract", "conv", "relu"]]
    assert_same_bits(before, after)


def test_vector_along_another_axis_is_no_bias() -> None:
    b = Net()
    y = b(Add(), b.conv(b.input(2, 3, 4, 3), 3), b.weight(3))  # along the width
    before = b.finish(y)
    assert FUSE(before) is before


def test_shared_bias_of_another_user_stays() -> None:
    b = Net()
    x, w, bias, v = b.input(2, 4), b.weight(4, 4), b.weight(4), b.weight(4)
    one = b(Add(), b(Linear(), x, w, bias), v)
    two = b(Softmax(1), b(Linear(), x, w, bias))
    before = b.finish(one, two)
    assert_same_bits(before, FUSE(before))


def test_matmul_takes_a_column_vector() -> None:
    b = Net()
    y = b(Add(), b(Matmul(), b.input(2, 3, 4), b.weight(4, 5)), b.weight(5))
    before = b.finish(b(Relu(), y))
    after, _ = fused(before)
    assert patterns(after) == [["contract", "matmul", "add", "relu"]]
    assert_same_bits(before, after)


def test_later_contraction_takes_the_shared_add() -> None:
    b = Net()
    x = b.input(2, 4)
    p, q = b.linear(x, 4, module="p"), b.linear(x, 4, module="q")
    after, _ = fused(b.finish(b(Add(), p, q)))
    assert units(after) == [("contract", "q+add")]


# ----- norm ---------------------------------------------------------------------------------------


def test_residual_and_norm_make_two_results() -> None:
    b = Net()
    x, r = b.input(2, 4), b.input(2, 4, hint="r")
    s = b(Add(), x, r)
    y = b(LayerNorm(1, 1e-5), s, b.weight(4), b.weight(4))
    after, _ = fused(b.finish(b(Mul(), y, s)))
    (unit, mul) = after.ops
    assert isinstance(unit.kind, Unit) and unit.kind.pattern == "norm"
    assert len(unit.results) == 2 and mul.kind == Mul()


def test_norm_of_a_broadcast_sum_stays_alone() -> None:
    b = Net()
    s = b(Add(), b.input(2, 4), b.input(1, 4, hint="r"))
    after, missed = fused(b.finish(b(LayerNorm(1, 1e-5, "none"), s)))
    assert not patterns(after) and "differ in shape" in missed[0]


# ----- chain --------------------------------------------------------------------------------------


def test_diamond_becomes_one_loop_with_two_results() -> None:
    b = Net()
    x = b.input(2, 4)
    t = b(Exp(), x)
    y = b(Add(), b(Neg(), t), b(Sigmoid(), t))
    after, _ = fused(b.finish(y, t))
    assert patterns(after) == [["chain", "exp", "neg", "sigmoid", "add"]]
    assert len(after.ops[0].results) == 2


def test_cycle_through_another_op_is_refused() -> None:
    b = Net()
    t = b(Exp(), b.input(2, 4))
    y = b(Add(), t, b(Softmax(1), t))
    after, missed = fused(b.finish(y))
    assert not patterns(after) and "before and after" in missed[0]


def test_two_groups_may_not_wait_for_each_other() -> None:
    b = Net()
    x, y = b.input(2, 4), b.input(2, 4, hint="y")
    p, q = b(Exp(), x), b(Neg(), y)
    p2 = b(Mul(), p, b(Softmax(1), q))
    q2 = b(Add(), q, b(Softmax(1), p))
    before = b.finish(p2, q2)
    after, _ = fused(before)
    assert len(patterns(after)) == 1
    assert_same_bits(before, after)


def test_longest_chain() -> None:
    b = Net()
    y = b.input(2, 4)
    for _ in range(60):
        y = b(Neg(), y)
    after, _ = fused(b.finish(y))
    assert [len(p) - 1 for p in patterns(after)] == [24, 24, 12]


def test_dear_op_of_a_smaller_shape_stays_out() -> None:
    def gate(kind: Kind) -> Function:
        b = Net()
        x, g = b.input(2, 8, 4, 4), b.input(2, 8, 1, 1, hint="g")
        return b.finish(b(Mul(), x, b(kind, g)))

    assert patterns(FUSE(gate(Relu()))) == [["chain", "relu", "mul"]]
    after, missed = fused(gate(Sigmoid()))
    assert not patterns(after) and "too dear" in missed[0]


def test_symbolic_shapes_chain() -> None:
    b = Net()
    after, _ = fused(b.finish(b(Neg(), b(Exp(), b.input("n", 4)))))
    assert patterns(after) == [["chain", "exp", "neg"]]
    unit: Op = after.ops[0]
    assert isinstance(unit.kind, Unit) and unit.kind.body.dims == after.dims


def test_nothing_to_fuse_is_the_same_object() -> None:
    b = Net()
    before = b.finish(b(Mean((1,)), b.input(2, 4)))
    assert FUSE(before) is before


# ----- bands --------------------------------------------------------------------------------------


def _inverted(
    size: int, *, reread: bool = False, last: int = 1, thin: int = 16, wide: int = 96
) -> tuple[Function, list[str]]:
    """Fuse ``1x1 -> relu -> depthwise -> relu -> 1x1 + x`` on a square image; a cache of 1 MiB."""
    b = Builder("inverted")
    x = b.param(TensorType(DType.F32, (1, thin, size, size)), "x")
    conv = partial(Conv, (1, 1), dilation=(1, 1))

    def weight(*shape: int) -> Value:
        return b(Full(shape, 0.5, DType.F32))

    first = b(Relu(), b(conv(padding=(0, 0), groups=1), x, weight(wide, thin, 1, 1)))
    deep = b(Relu(), b(conv(padding=(1, 1), groups=wide), first, weight(wide, 1, 3, 3)))
    pad = last // 2
    back = b(conv(padding=(pad, pad), groups=1), deep, weight(thin, wide, last, last))
    y = b(Add(), back, x)
    with patch.object(bands, "CACHE_BYTES", 1 << 20):
        return fused(b.finish(y, first) if reread else b.finish(y))


def test_an_inverted_residual_on_a_large_image_is_one_unit() -> None:
    after, missed = _inverted(56)
    (unit,) = patterns(after)
    assert unit[0] == "banded"
    assert sorted(unit[1:]) == sorted(["conv", "relu", "conv", "relu", "conv", "add"])
    assert not missed


def test_what_fits_in_the_cache_is_not_banded() -> None:
    after, missed = _inverted(14)
    assert [p[0] for p in patterns(after)] == ["contract"] * 3
    assert any("stay in the cache anyway" in reason for reason in missed)


def test_heavy_weights_are_not_read_by_every_band() -> None:
    after, missed = _inverted(14, thin=128, wide=768)  # images of 1.15 MiB, weights of 768 KiB
    assert [p[0] for p in patterns(after)] == ["contract"] * 3
    assert any("768 KiB of weights" in reason for reason in missed)
    after, _ = _inverted(28, thin=128, wide=768)  # images of 4.6 MiB
    assert [p[0] for p in patterns(after)] == ["banded"]


def test_bands_end_where_somebody_else_reads() -> None:
    after, _ = _inverted(112, reread=True)
    assert [p[0] for p in patterns(after)] == ["contract", "banded"]
    after, _ = _inverted(112, last=3)
    assert [p[0] for p in patterns(after)] == ["banded", "contract"]


def _first(channels: int) -> tuple[Function, list[str]]:
    """Fuse ``3x3, stride 2 -> relu -> depthwise`` on a large image."""
    b = Builder("first")
    x = b.param(TensorType(DType.F32, (1, channels, 224, 224)), "x")

    def conv(v: Value, stride: int, groups: int, *shape: int) -> Value:
        kind = Conv((stride, stride), (1, 1), (1, 1), groups)
        return b(kind, v, b(Full((*shape, 3, 3), 0.5, DType.F32)))

    wide = b(Relu(), conv(x, 2, 1, 32, channels))
    with patch.object(bands, "CACHE_BYTES", 1 << 20):
        return fused(b.finish(conv(wide, 1, 32, 32, 1)))


def test_the_first_convolution_of_a_network_is_in_the_band() -> None:
    after, _ = _first(3)
    assert patterns(after) == [["banded", "conv", "relu", "conv"]]


def test_a_wide_convolution_is_not() -> None:
    after, missed = _first(16)
    assert [p[0] for p in patterns(after)] == ["contract"]
    assert any("no 1x1 or first convolution" in reason for reason in missed)


def test_a_depthwise_convolution_alone_is_not_banded() -> None:
    after, missed = _inverted(112, reread=True, last=3)
    assert "banded" not in [p[0] for p in patterns(after)]
    assert any("no 1x1 or first convolution" in reason for reason in missed)


# ----- peaks --------------------------------------------------------------------------------------

TWO_BY_TWO, RELU = MaxPool((2, 2), (2, 2), (0, 0)), Relu()


def _peaked(
    *, pool: MaxPool = TWO_BY_TWO, act: Kind | None = RELU, kernel: int = 3,
    reread: bool = False, residual: bool = False,
) -> tuple[Function, list[str]]:  # fmt: skip
    """Fuse ``pool(act(conv(x) [+ x]))`` on images of 8 channels and 9x8 pixels."""
    b = Net()
    x = b.input(1, 8, 9, 8)
    y = b.conv(x, 8, kernel)
    y = b(Add(), y, b.input(*y.type.shape)) if residual else y
    y = y if act is None else b(act, y)
    out = b(pool, y)
    return fused(b.finish(out, y) if reread else b.finish(out))


@pytest.mark.parametrize(("act", "ops"), [(None, []), (Relu(), ["relu"])])
def test_a_convolution_and_the_pool_of_its_result_are_one_unit(
    act: Kind | None, ops: list[str]
) -> None:
    after, missed = _peaked(act=act)
    assert patterns(after) == [["peaks", "conv", *ops, "max_pool"]]
    assert not missed


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"pool": MaxPool((2, 2), (2, 2), (0, 0), True)}, "only windows of 2x2"),
        ({"pool": MaxPool((2, 2), (2, 2), (1, 1))}, "only windows of 2x2"),
        ({"pool": MaxPool((2, 2), (1, 1), (0, 0))}, "only windows of 2x2"),
        ({"pool": MaxPool((2, 2), (2, 2), (0, 0), False, (2, 1))}, "only windows of 2x2"),
        ({"pool": MaxPool((3, 3), (2, 2), (0, 0))}, "only windows of 2x2"),
        ({"act": Sigmoid()}, "more than a clamp"),
        ({"residual": True}, "more than a clamp"),
        ({"kernel": 1}, "single pixels"),
        ({"reread": True}, "others read"),
    ],
)
def test_pools_that_run_alone(change: dict, why: str) -> None:
    after, missed = _peaked(**change)
    assert "peaks" not in [p[0] for p in patterns(after)]
    assert any(why in reason for reason in missed)


# ----- scaled -------------------------------------------------------------------------------------


SIGMOID = Sigmoid()


def _gated(
    *, columns: int = 4, gate: Kind | None = SIGMOID, before: Kind | None = None,
    reread: bool = False, kernel: int = 1, swapped: bool = False,
) -> tuple[Function, list[str]]:  # fmt: skip
    """Fuse ``relu(conv([before](x) * gate(s)))`` on images of 8 channels and 8x8 pixels."""
    b = Net()
    x, s = b.input(2, 8, 8, 8), b.input(2, 8, 1, 1)
    image, factor = x if before is None else b(before, x), s if gate is None else b(gate, s)
    y = b(Mul(), *((factor, image) if swapped else (image, factor)))
    out = b(Relu(), b.conv(y, columns, kernel))
    return fused(b.finish(out, y) if reread else b.finish(out))


@pytest.mark.parametrize("swapped", [False, True])
def test_a_gated_image_and_its_projection_are_one_unit(swapped: bool) -> None:
    after, _ = _gated(swapped=swapped)
    assert ["scaled", "mul", "conv", "relu"] in patterns(after)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"columns": 64}, "too small beside a weight of 64 columns"),
        ({"gate": None}, "no gate"),
        ({"gate": Exp()}, "no gate"),
        ({"before": Neg()}, "elementwise op before it"),
        ({"reread": True}, "others read"),
        ({"kernel": 3}, ""),
    ],
)
def test_what_is_not_scaled(change: dict, why: str) -> None:
    after, missed = _gated(**change)
    assert "scaled" not in [p[0] for p in patterns(after)]
    assert any(why in reason for reason in missed) or not why
