"""``layout``: what is laid out how, how many copies it takes, and that views move nothing."""

from __future__ import annotations

import torch
from hypothesis import given
from strategies import functions

from leptonc import meaning
from leptonc.ir.core import Function, Op
from leptonc.ir.kinds.binary import Add, Mul
from leptonc.ir.kinds.contract import Attention, Conv, ConvTranspose, Linear, Matmul
from leptonc.ir.kinds.norm import LayerNorm, Softmax
from leptonc.ir.kinds.reduce import AdaptiveAvgPool, Mean
from leptonc.ir.kinds.region import TorchOp
from leptonc.ir.kinds.shape import Concat, Relayout, Reshape, Slice, Transpose
from leptonc.ir.kinds.unary import Relu
from leptonc.ir.types import DType, TensorType
from leptonc.ir.verify import verify
from leptonc.passes.fusing.axes import order_of, same_order
from leptonc.passes.fusing.policy import reads_any_order
from leptonc.passes.layout import Layout
from leptonc.rewrite.trace import Trace

from .nets import Net, assert_same_bits, inputs, networks, resnet, squeeze_excite, transformer

LAYOUT = Layout()


def relayouts(fn: Function) -> int:
    return sum(isinstance(op.kind, Relayout) for op in fn.ops)


def assert_views_move_nothing(fn: Function, args: tuple[torch.Tensor, ...]) -> None:
    """Store every value in its layout: transposes and reshapes must keep the elements' sequence."""
    seen: dict[int, torch.Tensor] = {id(p): t for p, t in zip(fn.params, args, strict=True)}

    def look(op: Op, results: tuple[torch.Tensor, ...]) -> None:
        seen.update((id(v), t) for v, t in zip(op.results, results, strict=True))
        if isinstance(op.kind, (Transpose, Reshape)):
            (x,) = op.operands
            before = seen[id(x)].permute(order_of(x.type)).reshape(-1)
            after = results[0].permute(order_of(op.result.type)).reshape(-1)
            torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)

    meaning.run(fn, *args, observe=look)


def assert_well_laid(fn: Function) -> None:
    for v in (*fn.params, *fn.returns):
        assert same_order(v.type.shape, order_of(v.type), tuple(range(v.type.rank)))
    for op in fn.ops:
        if isinstance(op.kind, (Conv, ConvTranspose)):
            want = (0, *range(2, op.result.type.rank), 1)
            images = (op.result,) if reads_any_order(op) else (op.operands[0], op.result)
            for v in images:
                assert same_order(v.type.shape, order_of(v.type), want)
        if isinstance(op.kind, (Add, Mul, Concat)):
            out = op.result.type
            for v in op.operands:
                if v.type.shape == out.shape:
                    assert same_order(out.shape, order_of(v.type), order_of(out))


@given(networks())
def test_laws_on_networks(before: Function) -> None:
    after = LAYOUT(before)
    assert_same_bits(before, after)
    assert_well_laid(after)
    assert_views_move_nothing(after, inputs(before))
    assert LAYOUT(after) is after


@given(functions())
def test_laws_on_any_function(before: Function) -> None:
    after = LAYOUT(before)
    verify(after)
    assert_well_laid(after)
    assert LAYOUT(after) is after
    assert [r.type.logical() for r in after.returns] == [r.type for r in before.returns]


def test_resnet_changes_order_nowhere() -> None:
    """Its first convolution reads the image as it comes."""
    after = LAYOUT(resnet())
    assert relayouts(after) == 0
    assert_same_bits(resnet(), after)


def test_gate_needs_no_copy() -> None:
    assert relayouts(LAYOUT(squeeze_excite())) == 1  # the image out


def test_transformer_moves_nothing() -> None:
    after = LAYOUT(transformer())
    assert relayouts(after) == 0
    (attention,) = (op for op in after.ops if isinstance(op.kind, Attention))
    assert attention.result.type.layout == (0, 2, 1, 3), "written so that the transpose is free"


def test_symbolic_batch_moves_nothing_either() -> None:
    after = LAYOUT(transformer("n"))
    assert relayouts(after) == 0
    assert_same_bits(transformer("n"), after)


def test_flatten_of_a_map_copies_and_of_a_pixel_does_not() -> None:
    b = Net()
    y = b.conv(b.input(2, 3, 4, 4), 4)
    flat = b(Reshape((2, 64)), y)
    pixel = b(Reshape((2, 4)), b(AdaptiveAvgPool((1, 1)), y))
    trace = Trace("layout")
    after = LAYOUT.run(b.finish(flat, pixel), trace)
    assert relayouts(after) == 1
    assert any("reshape" in r.reason for r in trace.remarks)


def test_flatten_for_linear_layers_reorders_their_weights() -> None:
    b = Net()
    y = b.conv(b.input(2, 3, 4, 5), 6)
    flat = b(Reshape((2, 120)), y)
    before = b.finish(b.linear(flat, 7), b.linear(flat, 3))
    after = LAYOUT(before)
    assert relayouts(before) == relayouts(after) == 0
    assert LAYOUT(after) is after
    verify(after)
    args = inputs(before)
    for x, y in zip(meaning.run(before, *args), meaning.run(after, *args), strict=True):
        torch.testing.assert_close(y, x, rtol=1e-4, atol=1e-4)


def test_flatten_for_others_copies() -> None:
    b = Net()
    flat = b(Reshape((2, 120)), b.conv(b.input(2, 3, 4, 5), 6))
    before = b.finish(b.linear(flat, 7), b(Relu(), flat))
    after = LAYOUT(before)
    assert relayouts(after) == 1
    assert_same_bits(before, after)


def test_channel_shuffle_copies_once_and_stays_channels_last() -> None:
    b = Net()
    y = b(Reshape((1, 2, 3, 4, 4)), b.conv(b.input(1, 2, 4, 4), 6))
    y = b(Reshape((1, 6, 4, 4)), b(Transpose((0, 2, 1, 3, 4)), y))
    before = b.finish(b(Mean((2, 3)), b.conv(y, 2)))
    after = LAYOUT(before)
    assert relayouts(after) == 1  # the shuffle
    assert_same_bits(before, after)
    assert_views_move_nothing(after, inputs(before))


def test_patches_become_tokens_for_free() -> None:
    b = Net()
    y = b.conv(b.input(2, 3, 8, 8), 6, 4, stride=4, pad=0)
    t = b(Transpose((0, 2, 1)), b(Reshape((2, 6, 4)), y))
    after = LAYOUT(b.finish(b.linear(t, 3)))
    assert relayouts(after) == 0
    assert after.returns[0].type.layout is None


def test_convnext_block_copies_nothing_inside() -> None:
    b = Net()
    x = b.conv(b.input(1, 3, 8, 8), 4)
    y = b(Transpose((0, 2, 3, 1)), b.conv(x, 4, groups=4))
    y = b.linear(b(LayerNorm(1, 1e-6), y, b.weight(4), b.weight(4)), 4)
    y = b(Add(), b(Transpose((0, 3, 1, 2)), y), x)
    after = LAYOUT(b.finish(b(Mean((2, 3)), y)))
    assert relayouts(after) == 0


def test_minority_operand_is_copied() -> None:
    b = Net()
    x, r = b.input(1, 8, 4, 4), b.input(1, 8, 4, 4, hint="r")
    y = b(Add(), b.conv(x, 8), r)
    after = LAYOUT(b.finish(b(Mean((2, 3)), b.conv(y, 8))))
    assert relayouts(after) == 1
    assert after.ops[-1].result.type.layout is None


def test_wide_operand_decides() -> None:
    """The result goes out row-major: copying the small conv's side once beats copying twice."""
    b = Net()
    x = b.conv(b.input(1, 2, 4, 4), 2)
    p, q = b.input(1, 6, 4, 4, hint="p"), b.input(1, 6, 4, 4, hint="q")
    after = LAYOUT(b.finish(b(Concat(1), x, p, q)))
    assert relayouts(after) == 1  # the conv's result
    assert after.returns[0].type.layout is None and not isinstance(after.ops[-1].kind, Relayout)


def test_constants_are_laid_out_without_a_copy() -> None:
    b = Net()
    y = b(Add(), b.conv(b.input(1, 2, 4, 4), 3), b.weight(1, 3, 4, 4))
    after = LAYOUT(b.finish(b(Mean((2, 3)), y)))
    assert relayouts(after) == 0
    (add,) = (op for op in after.ops if isinstance(op.kind, Add))
    assert {v.type.layout for v in add.operands} == {(0, 2, 3, 1)}


def test_one_copy_serves_all_readers() -> None:
    b = Net()
    x = b.input(1, 9, 4, 4)
    after = LAYOUT(b.finish(b(Mean((2, 3)), b.conv(x, 2)), b(Mean((2, 3)), b.conv(x, 2))))
    assert relayouts(after) == 1


def test_torch_ops_get_row_major_operands() -> None:
    b = Net()
    y = b.conv(b.input(1, 2, 4, 4), 2)
    opaque = TorchOp("aten.frac.default", (), (), (TensorType(DType.F32, (1, 2, 4, 4)),))
    after = LAYOUT(b.finish(b(opaque, y)))
    (op,) = (op for op in after.ops if isinstance(op.kind, TorchOp))
    assert op.operands[0].type.layout is None and relayouts(after) == 1


def test_matmul_reads_either_order_of_its_matrix_axes() -> None:
    b = Net()
    x, y = b.input(2, 3, 4, 5), b.input(2, 3, 6, 5, hint="y")
    scores = b(Softmax(3), b(Matmul(), x, b(Transpose((0, 1, 3, 2)), y)))
    assert relayouts(LAYOUT(b.finish(scores))) == 0


def test_linear_over_a_moved_axis_copies() -> None:
    b = Net()
    y = b(Transpose((0, 2, 1)), b.input(2, 3, 4))
    after = LAYOUT(b.finish(b.linear(y, 5)))
    (linear,) = (op for op in after.ops if isinstance(op.kind, Linear))
    assert linear.operands[0].type.layout is None and relayouts(after) == 1


def test_slice_and_relu_follow() -> None:
    b = Net()
    y = b(Relu(), b(Slice(1, 0, 2), b.conv(b.input(1, 3, 4, 4), 4)))
    after = LAYOUT(b.finish(b.conv(y, 2)))
    assert relayouts(after) == 1  # out


@given(functions())
def test_input_is_never_touched(before: Function) -> None:
    ops, types = before.ops, [r.type for op in before.ops for r in op.results]
    LAYOUT(before)
    assert before.ops is ops and [r.type for op in before.ops for r in op.results] == types
