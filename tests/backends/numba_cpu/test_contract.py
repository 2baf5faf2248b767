"""Linear, matmul, convolutions: lowered natively against torch, alone and with epilogues."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from leptonc import meaning
from leptonc.backends.numba_cpu.lower.contract import claim, lower_contract
from leptonc.backends.numba_cpu.lower.conv_choice import Algorithm, ConvShape
from leptonc.ir.core import Builder, Function, Kind, Op, Value
from leptonc.ir.kinds import binary, pointwise, unary
from leptonc.ir.kinds.contract import Conv, ConvTranspose, Linear, Matmul
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.shape import Reshape, Transpose
from leptonc.ir.types import DType, TensorType
from tests.backends.numba_cpu.harness import Run, check_op, choose

pytestmark = pytest.mark.numba
NHWC = (0, 2, 3, 1)
BOTH = pytest.mark.parametrize("constant", [True, False])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape)


def check(kind: Kind, *tensors: Tensor, **options) -> None:
    check_op(kind, *tensors, rtol=1e-4, atol=2e-5, **options)


def weights(constant: bool, *tensors: Tensor) -> tuple[int, ...]:
    return tuple(range(1, 1 + len(tensors))) if constant else ()


# --- linear -------------------------------------------------------------------------------------
@BOTH
@pytest.mark.parametrize(
    ("lead", "k", "n"),
    [((5, 7), 19, 33), ((), 19, 3), ((2, 0), 5, 3), ((1,), 600, 500), ((3,), 0, 4)],
)
def test_linear(constant: bool, lead: tuple[int, ...], k: int, n: int) -> None:
    w, b = rand(n, k), rand(n)
    check(Linear(), rand(*lead, k), w, b, consts=weights(constant, w, b))
    check(Linear(), rand(*lead, k), w, consts=weights(constant, w))


@pytest.mark.parametrize("layout", [(1, 0, 2), (2, 1, 0)])
def test_linear_reads_and_writes_any_layout(layout: tuple[int, ...]) -> None:
    options = {"layouts": [layout, None], "result_layouts": [(2, 0, 1)], "consts": (1,)}
    check(Linear(), rand(6, 4, 5), rand(9, 5), **options)


# --- matmul -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("x", "y"),
    [
        ((5, 6), (6, 70)),
        ((3, 4, 5, 6), (3, 4, 6, 7)),
        ((3, 1, 5, 6), (4, 6, 7)),
        ((2, 3, 5, 6), (6, 7)),
        ((2, 3, 2, 5, 6), (2, 1, 2, 6, 7)),
        ((3, 0, 6), (3, 6, 7)),
        ((3, 5, 0), (3, 0, 7)),
    ],
)
def test_matmul(x: tuple[int, ...], y: tuple[int, ...]) -> None:
    check(Matmul(), rand(*x), rand(*y))
    check(Matmul(), rand(*x), rand(*y), consts=(1,))


@pytest.mark.parametrize("layouts", [((0, 2, 1), None), (None, (0, 2, 1)), ((1, 0, 2), (1, 2, 0))])
def test_matmul_of_transposed(layouts: tuple) -> None:
    check(Matmul(), rand(3, 5, 6), rand(3, 6, 7), layouts=list(layouts))


# --- convolutions -------------------------------------------------------------------------------
CONVS = [
    (Conv((1, 1), (1, 1), (1, 1)), (2, 9, 9, 11), (37, 9, 3, 3)),
    (Conv((2, 1), (3, 3), (1, 1)), (1, 3, 30, 29), (16, 3, 7, 7)),
    (Conv((2, 1), (0, 2), (1, 2), 2), (2, 8, 15, 14), (12, 4, 2, 3)),
    (Conv((1, 1), (0, 0), (1, 1)), (2, 24, 7, 5), (40, 24, 1, 1)),
    (Conv((1, 1), (0, 0), (1, 1)), (2, 24, 1, 1), (40, 24, 1, 1)),
    (Conv((2, 2), (1, 1), (1, 1), 24), (2, 24, 9, 9), (24, 1, 3, 3)),
    (Conv((1, 1), (1, 1), (1, 1), 6), (2, 6, 9, 9), (12, 1, 3, 3)),
    (Conv((1, 1), (1, 1), (1, 1), 8), (2, 32, 9, 9), (24, 4, 3, 3)),
    (Conv((2, 1), (0, 1), (1, 1), 7), (1, 14, 9, 9), (35, 2, 1, 3)),
]


@BOTH
@pytest.mark.parametrize("layout", [None, NHWC])
@pytest.mark.parametrize(("kind", "x", "w"), CONVS)
def test_conv2d(kind: Conv, x: tuple, w: tuple, layout: tuple | None, constant: bool) -> None:
    w_, b_ = rand(*w), rand(w[0])
    options = {"layouts": [layout, None, None], "consts": weights(constant, w_, b_)}
    check(kind, rand(*x), w_, b_, result_layouts=[NHWC], **options)
    check(kind, rand(*x), w_, b_, result_layouts=[None], **options)


@pytest.mark.parametrize(
    ("kind", "x", "w"),
    [
        (Conv((1,), (1,), (1,)), (2, 19, 30), (33, 19, 3)),
        (Conv((1,), (1,), (1,), 19), (2, 19, 30), (19, 1, 3)),
        (Conv((1, 2, 1), (1, 1, 0), (1, 1, 1)), (2, 5, 6, 7, 8), (9, 5, 3, 3, 2)),
        (Conv((1, 2, 1), (1, 1, 0), (1, 1, 1), 5), (2, 5, 6, 7, 8), (5, 1, 3, 3, 2)),
    ],
)
def test_conv_1d_and_3d(kind: Conv, x: tuple, w: tuple) -> None:
    check(kind, rand(*x), rand(*w), rand(w[0]), consts=(1, 2))
    check(kind, rand(*x), rand(*w), consts=(1,))


@pytest.mark.parametrize(
    ("kind", "x", "w"),
    [
        (ConvTranspose((2, 2), (1, 1), (1, 1), (1, 1)), (2, 6, 5, 7), (6, 9, 3, 3)),
        (ConvTranspose((3, 2), (1, 0), (0, 1), (2, 1), 2), (2, 6, 5, 7), (6, 4, 2, 3)),
        (ConvTranspose((4, 4), (0, 0), (0, 0), (1, 1)), (1, 6, 5, 7), (6, 9, 2, 2)),
        (ConvTranspose((2,), (1,), (0,), (1,)), (2, 6, 5), (6, 9, 3)),
        (ConvTranspose((2, 1, 2), (1, 1, 0), (0,) * 3, (1,) * 3), (2, 6, 5, 4, 3), (6, 9, 3, 3, 2)),
    ],
)
def test_transposed_conv(kind: ConvTranspose, x: tuple, w: tuple) -> None:
    check(kind, rand(*x), rand(*w), rand(w[1] * kind.groups), consts=(1, 2))
    layout = (0, *range(2, len(x)), 1)
    check(kind, rand(*x), rand(*w), consts=(1,), layouts=[layout, None], result_layouts=[layout])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@BOTH
def test_half_storage(dtype: torch.dtype, constant: bool) -> None:
    cases = [
        (Linear(), (rand(5, 19), rand(33, 19), rand(33))),
        (Matmul(), (rand(2, 3, 4), rand(2, 4, 5))),
        (Conv((1, 1), (1, 1), (1, 1)), (rand(2, 9, 9, 11), rand(37, 9, 3, 3), rand(37))),
    ]
    for kind, tensors in cases:
        consts = weights(constant, *tensors[1:])
        check_op(kind, *(t.to(dtype) for t in tensors), rtol=2e-2, atol=2e-2, consts=consts)


def test_integers_are_refused_with_a_reason() -> None:
    x = Value(TensorType(DType.I64, (2, 2)))
    op = Op(Matmul(), (x, x), (x,))
    assert "i64" in getattr(claim(op), "reason", "")


# --- the choice ---------------------------------------------------------------------------------
def square(c: int, n: int, size: int, kernel: int = 3, groups: int = 1) -> ConvShape:
    side = (size, size)
    k, p = (kernel, kernel), (kernel // 2, kernel // 2)
    return ConvShape(1, c, side, n, k, (1, 1), p, (1, 1), groups, side)


@pytest.mark.usefixtures("no_tiles")
def test_choice() -> None:
    assert choose(square(64, 64, 56), "fp32") is Algorithm.WINOGRAD_4
    assert choose(square(128, 128, 28), "fp32") is Algorithm.WINOGRAD_4
    assert choose(square(64, 64, 56), "strict") is Algorithm.IGEMM
    assert choose(square(3, 64, 56), "fp32") is Algorithm.IGEMM
    assert choose(square(64, 64, 56, 5), "fp32") is Algorithm.WINOGRAD_3
    assert choose(square(64, 64, 56, 6), "fp32") is Algorithm.IGEMM
    assert choose(square(64, 64, 56, 3, 64), "strict") is Algorithm.DEPTHWISE


# --- epilogues ----------------------------------------------------------------------------------
ACTIVATIONS = [
    unary.Relu(), unary.Silu(), unary.HardSwish(), unary.HardSigmoid(), unary.Sigmoid(),
    unary.Tanh(), unary.Mish(), pointwise.Gelu(), pointwise.Gelu(True), pointwise.LeakyRelu(0.1),
    pointwise.Elu(0.7), pointwise.Clamp(0.0, 6.0), pointwise.Clamp(None, 0.5), pointwise.Softplus(),
]  # fmt: skip

ROOTS = {
    "linear": (Linear(), (2, 5, 19), (33, 19), (33,)),
    "conv1x1": (Conv((1, 1), (0, 0), (1, 1)), (2, 24, 7, 5), (40, 24, 1, 1), (40,)),
    "winograd": (Conv((1, 1), (1, 1), (1, 1)), (2, 17, 9, 11), (37, 17, 3, 3), (37,)),
    "line": (Conv((1, 1), (0, 3), (1, 1)), (2, 35, 9, 11), (41, 35, 1, 7), (41,)),
    "upright": (Conv((1, 1), (2, 0), (1, 1)), (2, 35, 9, 11), (41, 35, 7, 1), (41,)),
    "single": (Conv((1,), (1,), (1,)), (2, 67, 61), (71, 67, 3), (71,)),
    "wide": (Conv((1, 1), (2, 1), (1, 1)), (2, 17, 9, 11), (37, 17, 5, 5), (37,)),
    "depthwise": (Conv((1, 1), (1, 1), (1, 1), 19), (2, 19, 9, 11), (19, 1, 3, 3), (19,)),
    "transposed": (ConvTranspose((2, 2), (1, 1), (1, 1), (1, 1)), (2, 6, 5, 7), (6, 9, 3, 3), (9,)),
}


def unit(root: str, order: str, act: Kind, residual: tuple | None = None) -> tuple[Function, list]:
    """Return a body of ``root`` and the parts of ``order``: a(ctivation), r(esidual), m(ul)."""
    kind, x_shape, *rest = ROOTS[root]
    layout = NHWC if len(x_shape) == 4 else None
    b = Builder("unit")
    x = b.param(TensorType(DType.F32, x_shape, layout))
    w, c = (b(Constant(meaning.const_of(rand(*s) / 4))) for s in rest)
    value, tensors = b(kind, x, w, c), [rand(*x_shape)]
    for part in order:
        if part == "a":
            value = b(act, value)
            continue
        shape = value.type.shape if residual is None else residual
        other = b.param(TensorType(DType.F32, shape, layout if residual is None else None))
        tensors.append(rand(*(int(d) for d in shape)))
        value = b(binary.Mul() if part == "m" else binary.Add(), other, value)
    if layout is not None:
        last = b.ops.pop()
        value = Value(TensorType(DType.F32, value.type.shape, layout))
        b.append(Op(last.kind, last.operands, (value,)))
    return b.finish(value), tensors


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("order", ["a", "r", "ar", "ra", "m", "am"])
def test_epilogue_order(root: str, order: str) -> None:
    fn, tensors = unit(root, order, unary.Silu())
    want = meaning.run(fn, *tensors)[0]
    results = [Run(fn, nt, lower_contract)(*tensors)[0] for nt in (1, 2, 3)]
    torch.testing.assert_close(results[0], want, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(results[0], r) for r in results)


@pytest.mark.parametrize("act", ACTIVATIONS, ids=lambda k: k.NAME)
@pytest.mark.parametrize("root", ["linear", "winograd", "depthwise"])
def test_activations(root: str, act: Kind) -> None:
    fn, tensors = unit(root, "a", act)
    got = Run(fn, 1, lower_contract)(*tensors)[0]
    torch.testing.assert_close(got, meaning.run(fn, *tensors)[0], rtol=1e-4, atol=1e-4)


def test_broadcast_residual() -> None:
    for root, shape in (("linear", (33,)), ("linear", (2, 1, 33)), ("conv1x1", (1, 40, 1, 1)),
                        ("winograd", (2, 1, 1, 11)), ("depthwise", (2, 19, 1, 1))):  # fmt: skip
        fn, tensors = unit(root, "ra", unary.Relu(), shape)
        got = Run(fn, 2, lower_contract)(*tensors)[0]
        torch.testing.assert_close(got, meaning.run(fn, *tensors)[0], rtol=1e-4, atol=1e-4)


def test_constant_vector_joins_the_bias() -> None:
    b = Builder("unit")
    x = b.param(TensorType(DType.F32, (2, 5, 6)))
    r = b.param(TensorType(DType.F32, (2, 5, 7)))
    w, c = b(Constant(meaning.const_of(rand(6, 7)))), b(Constant(meaning.const_of(rand(7))))
    y = b(binary.Add(), b(unary.Relu(), b(binary.Add(), b(Matmul(), x, w), c)), r)
    fn, tensors = b.finish(y), [rand(2, 5, 6), rand(2, 5, 7)]
    run = Run(fn, 2, lower_contract)
    assert len(run.steps) == 1
    torch.testing.assert_close(run(*tensors)[0], meaning.run(fn, *tensors)[0], rtol=1e-4, atol=1e-5)


def heads(act: Kind | None = None, both: bool = False) -> tuple[Function, list[Tensor]]:
    """Return a body that moves heads together, projects them and adds a residual."""
    b = Builder("unit")
    x = b.param(TensorType(DType.F32, (2, 3, 5, 8), (0, 2, 1, 3)))
    r = b.param(TensorType(DType.F32, (2, 5, 7)))
    moved = b(Reshape((2, 5, 24)), b(Transpose((0, 2, 1, 3)), x))
    y = b(Linear(), moved, *(b(Constant(meaning.const_of(rand(*s)))) for s in ((7, 24), (7,))))
    last = b(binary.Add(), y if act is None else b(act, y), r)
    return b.finish(y, last) if both else b.finish(last), [rand(2, 3, 5, 8), rand(2, 5, 7)]


@pytest.mark.parametrize("act", [None, pointwise.Gelu()])
def test_views_in_front_keep_the_epilogue(act: Kind | None) -> None:
    fn, tensors = heads(act)
    run = Run(fn, 2, lower_contract)
    assert len(run.steps) == 1
    torch.testing.assert_close(run(*tensors)[0], meaning.run(fn, *tensors)[0], rtol=1e-4, atol=1e-5)


def test_views_in_front_of_two_results() -> None:
    fn, tensors = heads(both=True)
    got = Run(fn, 1, lower_contract)(*tensors)
    torch.testing.assert_close(got, list(meaning.run(fn, *tensors)), rtol=1e-4, atol=1e-5)


def test_views_of_what_is_computed_stay_behind_it() -> None:
    b = Builder("unit")
    x = b.param(TensorType(DType.F32, (2, 3, 5)))
    y = b(Linear(), b(Reshape((6, 5)), x), b(Constant(meaning.const_of(rand(6, 5)))))
    fn, tensors = b.finish(b(binary.Add(), y, b(Transpose((1, 0)), y))), [rand(2, 3, 5)]
    got = Run(fn, 1, lower_contract)(*tensors)[0]
    torch.testing.assert_close(got, meaning.run(fn, *tensors)[0], rtol=1e-4, atol=1e-5)


def test_other_bodies_are_left_alone() -> None:
    fn, _ = unit("linear", "aa", unary.Relu())
    b = Builder("unit")
    x = b.param(TensorType(DType.F32, (2, 5)))
    w = b(Constant(meaning.const_of(rand(4, 5))))
    y = b(Linear(), x, w)
    both = b.finish(b(unary.Relu(), y), y)
    for body in (fn, both):
        assert Run(body, 1, lower_contract).steps  # lowered op by op instead
