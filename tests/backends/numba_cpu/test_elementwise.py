"""Elementwise kinds against torch: all operations, types, edges and layouts."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leptonc import meaning
from leptonc.backends.numba_cpu.kernels.vectype import LANES
from leptonc.backends.numba_cpu.legal import No
from leptonc.backends.numba_cpu.lower import elementwise
from leptonc.backends.numba_cpu.lower.elementwise import claim, lower_chain
from leptonc.backends.numba_cpu.lower.machine import Machine
from leptonc.backends.numba_cpu.views import View
from leptonc.errors import ClaimError, InferError
from leptonc.ir.core import Builder, Kind
from leptonc.ir.kinds import binary, pointwise, unary
from leptonc.ir.kinds.data import Full
from leptonc.ir.kinds.shape import Reshape, Slice, Transpose
from leptonc.ir.types import DType, TensorType
from tests.backends.numba_cpu.harness import Run, check_op, make, physical, run_op

INF, NAN = float("inf"), float("nan")
EDGES = torch.tensor(
    [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.5, -2.5, 1e-40, -1e-40, 1e-30, 1e30, -1e30, 3e38, 88.9,
     -88.9,
     104.0, -104.0, 20.5, -20.5, 3.0, -3.0, 6.0, 1e6, -1e6, 7.0, INF, -INF, NAN, 0.1, 100.0, 0.999]
)  # fmt: skip
INTS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
FLOAT_KINDS = [
    *(k() for k in unary.KINDS if k is not unary.BitwiseNot),
    pointwise.Gelu(), pointwise.Gelu(True), pointwise.LeakyRelu(0.2), pointwise.Elu(0.7, 1.1, 0.9),
    pointwise.Softplus(1.5, 10.0), pointwise.Clamp(-1.5, 2.0), pointwise.Clamp(None, 0.1),
    pointwise.Clamp(0.25, None), pointwise.Clamp(3.0, -3.0),
]  # fmt: skip


def floats(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    some = torch.randn(700, generator=generator)
    return torch.cat([EDGES, some, 30 * some, 1e-3 * some, torch.linspace(-1, 1, 77)]).to(dtype)


def close(kind: Kind, *tensors: torch.Tensor, **options) -> None:
    loose = {"rtol": 1e-6, "atol": 1e-37} | options
    check_op(kind, *tensors, **loose)


@pytest.mark.parametrize("kind", FLOAT_KINDS, ids=lambda k: k.NAME)
def test_float_unary(kind: Kind) -> None:
    x = floats()
    if kind.NAME in ("sinh", "cosh"):
        x = x[x.abs() < 88]  # torch overflows early, the C library does not
    if kind.NAME == "gelu":
        x = x[x.abs() < 1e38]  # torch gives NaN beyond
    cancels = kind.NAME in ("gelu", "mish", "log_sigmoid", "softplus", "silu", "hard_swish", "elu")
    close(kind, x, atol=1e-6 if cancels else 1e-37, threads=(1, 3))


@pytest.mark.parametrize("kind", FLOAT_KINDS, ids=lambda k: k.NAME)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_unary(kind: Kind, dtype: torch.dtype) -> None:
    x = torch.randn(333, generator=torch.Generator().manual_seed(2)).to(dtype)
    eps = torch.finfo(dtype).eps
    check_op(kind, x, rtol=eps, atol=eps / 8, threads=(1,))


@pytest.mark.parametrize("kind", [unary.Sin(), unary.Cos(), unary.Tan()], ids=lambda k: k.NAME)
def test_large_angles(kind: Kind) -> None:
    x = torch.tensor([1e3, 1e4, 1e5, 1e7, 1e10, 3e20, -2e5, 3.14159274, 1.57079637]).repeat(5)
    check_op(kind, x, rtol=1e-5, atol=1e-6, threads=(1,))


BINARY = [k() for k in binary.KINDS]


@pytest.mark.parametrize("kind", BINARY, ids=lambda k: k.NAME)
def test_float_binary(kind: Kind) -> None:
    if kind.NAME.startswith("bitwise"):
        pytest.skip("integers only")
    pairs = torch.tensor(list(itertools.product(EDGES.tolist(), EDGES.tolist())))
    if kind.NAME in ("fmod", "remainder"):  # torch's vector code gives NaN for such quotients
        pairs = pairs[~((pairs[:, 0] / pairs[:, 1]).abs() > 1e25) | (pairs[:, 1] == 0)]
    close(kind, pairs[:, 0].contiguous(), pairs[:, 1].contiguous(), rtol=2e-6, threads=(1, 2))
    some = floats()[len(EDGES) :]
    close(kind, some, some.flip(0), rtol=2e-6, threads=(1,))


@pytest.mark.parametrize("dtype", [*INTS, torch.bool])
@pytest.mark.parametrize("kind", BINARY, ids=lambda k: k.NAME)
def test_int_binary(kind: Kind, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    low, high = (0, 2) if dtype is torch.bool else (0 if dtype is torch.uint8 else -9, 100)
    x, y = (torch.randint(low, high, (333,), generator=generator).to(dtype) for _ in range(2))
    try:
        fn = make(kind, (x, y))
    except InferError:
        return  # not on this type
    if isinstance(claim(fn.ops[0]), No):
        return
    if kind.NAME in ("floor_div", "trunc_div", "remainder", "fmod"):
        y = torch.where(y == 0, torch.ones_like(y), y)
        check_op(kind, x, y, consts=(1,))
        with pytest.raises(ClaimError, match="divide by 0"):
            run_op(kind, x, y)
        return
    if kind.NAME == "pow":
        y = y % 5
    check_op(kind, x, y)


@pytest.mark.parametrize("dtype", [*INTS, torch.bool])
@pytest.mark.parametrize("kind_type", unary.KINDS, ids=lambda k: k.NAME)
def test_int_unary(kind_type: type[Kind], dtype: torch.dtype) -> None:
    x = torch.arange(-40, 60).to(dtype)
    if dtype is not torch.bool:
        x = torch.cat(
            [x, torch.tensor([torch.iinfo(dtype).min, torch.iinfo(dtype).max], dtype=dtype)]
        )
    try:
        fn = make(kind_type(), (x,))
    except InferError:
        return  # floats only
    if not isinstance(claim(fn.ops[0]), No):
        check_op(kind_type(), x)


@pytest.mark.parametrize("to", [*INTS, torch.bool, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "source", [*INTS, torch.bool, torch.float32, torch.float16, torch.bfloat16]
)
def test_cast(source: torch.dtype, to: torch.dtype) -> None:
    kind = pointwise.Cast(meaning.IR_DTYPES[to])
    x = torch.linspace(-100, 100, 77).to(source)
    if source is torch.float32 and not to.is_floating_point:
        x = x.abs() if to is torch.uint8 else x
    if source.is_floating_point and to is torch.uint8:
        x = x.abs()
    if source is torch.int64 and to in (torch.float32, torch.bfloat16):
        x = x * 123456789123
    check_op(kind, x, rtol=0, atol=0, threads=(1, 2))


def test_cast_of_what_does_not_fit() -> None:
    x = torch.tensor([NAN, INF, -INF, 3e9, -3e9, 1e20])
    check_op(pointwise.Cast(DType.I32), x)
    check_op(pointwise.Cast(DType.I64), x)
    check_op(pointwise.Cast(DType.BOOL), x)


def test_clamp_and_where_of_integers() -> None:
    x = torch.arange(-50, 50)
    check_op(pointwise.Clamp(-3, 7), x)
    check_op(pointwise.Clamp(None, 7), x.to(torch.int32))
    check_op(pointwise.Where(), x > 3, x, -x)
    check_op(pointwise.Where(), x > 3, x.float(), torch.tensor(NAN))
    check_op(pointwise.Where(), x > 3, (x > 0), torch.tensor(True))


@pytest.mark.parametrize("power", [2.0, 3.0, 0.5, -0.5, -1.0, -2.0, 1.0, 1.7, 0.0])
def test_constant_powers(power: float) -> None:
    check_op(binary.Pow(), torch.rand(99) + 0.1, torch.tensor(power), consts=(1,), rtol=2e-6)


SHAPES = [
    ((4, 5), (5,)), ((4, 5), (4, 1)), ((1,), (7, 3)), ((), (3, 4)), ((2, 3, 7, 7), (3, 1, 1)),
    ((5, 1, 6), (1, 4, 6)), ((5, 1, 6), (7, 1)), ((3000,), (1,)), ((70, 600), (600,)),
    ((70, 5000), (70, 1)),
    ((2, 1, 3, 1, 2, 1, 3, 1), (1, 2, 1, 3, 1, 2, 1, 3)), ((0, 3), (3,)), ((1, 1, 1), ()),
]  # fmt: skip


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_broadcast(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    x, y = (torch.randn(s) for s in shapes)
    check_op(binary.Sub(), x, y, rtol=0, atol=0)
    check_op(binary.Sub(), y, x, rtol=0, atol=0)
    check_op(binary.Sub(), x.bfloat16(), y.bfloat16(), rtol=0, atol=0)
    check_op(pointwise.Where(), x > 0, y, x, rtol=0, atol=0)


ORDERS = [None, (0, 2, 3, 1), (3, 2, 1, 0), (2, 0, 1, 3)]


@pytest.mark.parametrize("orders", itertools.product(ORDERS, repeat=3), ids=str)
def test_layouts(orders) -> None:
    x, y = torch.randn(2, 9, 6, 5), torch.randn(2, 9, 6, 5)
    check_op(
        binary.Sub(),
        x,
        y,
        layouts=orders[:2],
        result_layouts=orders[2:],
        rtol=0,
        atol=0,
        threads=(2,),
    )


def test_negative_strides() -> None:
    x = torch.arange(60.0).reshape(3, 4, 5)
    fn = make(binary.Mul(), (x, x))
    run = Run(fn, lower=lambda ctx, f: _flipped(ctx, f))
    (got,) = run(x, x)
    assert torch.equal(got, x.flip(0, 2) * x)


def _flipped(ctx, fn) -> None:
    first = fn.params[0]
    ctx.views[first] = ctx.views[first].flip((0, 2))
    elementwise.lower_op(ctx, fn.ops[0])
    ctx.views[first] = ctx.views[first].flip((0, 2))


def test_chain_is_one_step() -> None:
    b = Builder("chain")
    x, y = (b.param(TensorType(DType.F32, (33, 70))) for _ in range(2))
    half = b(Full((), 0.5, DType.F32))
    s = b(binary.Add(), x, y)
    t = b(binary.Mul(), b(unary.Tanh(), s), half)
    big = b(binary.Gt(), t, b(Full((), 0.1, DType.F32)))
    z = b(pointwise.Where(), big, t, b(unary.Neg(), s))
    i = b(pointwise.Cast(DType.I64), b(binary.Mul(), z, b(Full((33, 70), 100.0, DType.F32))))
    fn = b.finish(z, i, s)
    p, q = torch.randn(33, 70), torch.randn(33, 70)
    want = meaning.run(fn, p, q)
    for nt in (1, 2, 3):
        run = Run(fn, nt, lower_chain)
        assert len(run.steps) == 1
        for g, w in zip(run(p, q), want, strict=True):
            torch.testing.assert_close(g, w, rtol=1e-6, atol=1)


WIDE = [4 * LANES, 5 * LANES, 5 * LANES + 3, 16 * LANES + 1, 300]


def _part(view: View, cols: int) -> View:
    return view.slice(1, 5, 5 + cols)


@pytest.mark.parametrize("cols", WIDE)
@pytest.mark.parametrize("rows", [1, 7, 130])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_that_lie_apart(rows: int, cols: int, dtype: torch.dtype) -> None:
    """relu(x * s + b) with rows of x and of the result inside wider ones; other values stored."""
    x = torch.randn(rows, cols + 9, generator=torch.Generator().manual_seed(rows)).to(dtype)
    edges = EDGES[:cols].to(dtype)
    x[0, 5 : 5 + len(edges)] = edges
    s, t = (torch.randn(cols).to(dtype) for _ in range(2))
    b = Builder("rows")
    params = [b.param(meaning.type_of(v)) for v in (x, s, t)]
    fn = b.finish(*(b(unary.Neg(), params[0]) for _ in range(3)))

    def lower(ctx, fn) -> None:
        name = meaning.IR_DTYPES[dtype].value
        p, q, r = (ctx.view(v) for v in fn.params)
        m = Machine(ctx, (rows, cols))
        product = m.op("mul", m.load(_part(p, cols)), m.load(q), stored=name)
        total = m.op("add", m.load(r), product, stored=name)
        outs = [_part(ctx.out(v), cols) for v in fn.returns]
        m.store(m.op("relu", total, stored=name), outs[0])
        m.store(m.load(_part(p, cols)), outs[1])
        m.store(m.op("neg", m.load(_part(p, cols)), stored=name), outs[2])
        m.emit()

    inner = x[:, 5 : 5 + cols]
    for nt in (1, 2, 3):
        run = Run(fn, nt, lower)
        assert len(run.steps) == 1
        got = [g[:, 5 : 5 + cols] for g in run(x, s, t)]
        for g, w in zip(got, (torch.relu(inner * s + t), inner, -inner), strict=True):
            assert torch.equal(g.isnan(), w.isnan())
            assert torch.equal(g.nan_to_num(), w.nan_to_num())


def test_a_value_of_two_readers_is_not_joined() -> None:
    b = Builder("two")
    x, y = (b.param(TensorType(DType.F32, (9, 80))) for _ in range(2))
    product = b(binary.Mul(), x, y)
    total = b(binary.Add(), product, x)
    fn = b.finish(b(unary.Relu(), b(binary.Add(), b(binary.Mul(), total, y), y)), total)
    p, q = torch.randn(9, 80), torch.randn(9, 80)
    for g, w in zip(Run(fn, 2, lower_chain)(p, q), meaning.run(fn, p, q), strict=True):
        assert torch.equal(g, w)


def test_chain_of_several_shapes() -> None:
    b = Builder("chain")
    x = b.param(TensorType(DType.F32, (8, 1)))
    y = b.param(TensorType(DType.F32, (8, 50)))
    e = b(unary.Exp(), x)
    r = b(unary.Reciprocal(), b(binary.Add(), e, b(Full((), 1.0, DType.F32))))
    fn = b.finish(b(binary.Mul(), y, r), e)
    run = Run(fn, 2, lower_chain)
    assert len(run.steps) == 2
    p, q = torch.randn(8, 1), torch.randn(8, 50)
    for g, w in zip(run(p, q), meaning.run(fn, p, q), strict=True):
        torch.testing.assert_close(g, w)


@pytest.mark.parametrize("last", [False, True])
def test_chain_of_what_is_transposed(last: bool) -> None:
    """A layer scale and a residual sum behind a transpose are one step; after them it is not."""
    b = Builder("chain")
    x = b.param(TensorType(DType.F32, (2, 5, 7, 32)))
    y = b.param(TensorType(DType.F32, (2, 32, 5, 7), (0, 2, 3, 1)))
    s = b.param(TensorType(DType.F32, (32, 1, 1)))
    total = b(binary.Add(), b(binary.Mul(), s, b(Transpose((0, 3, 1, 2)), x)), y)
    fn = b.finish(b(Transpose((0, 2, 3, 1)), total) if last else total)
    p, q, r = torch.randn(2, 5, 7, 32), torch.randn(2, 32, 5, 7), torch.randn(32, 1, 1)
    for nt in (1, 2):
        run = Run(fn, nt, lower_chain)
        assert (len(run.steps) == 1) is not last
        assert torch.equal(run(p, q, r)[0], meaning.run(fn, p, q, r)[0])


@given(
    rows=st.integers(1, 5), size=st.integers(1, 70), step=st.integers(1, 3),
    turned=st.booleans(), nt=st.integers(1, 3),
)  # fmt: skip
def test_a_chain_of_slices_is_one_step(rows: int, size: int, step: int, turned: bool, nt: int):
    """Gates that are cut out of one product, as in an LSTM cell: nothing is copied."""
    b, shape = Builder("gates"), (3 * step * size, rows) if turned else (rows, 3 * step * size)
    x, c = b.param(TensorType(DType.F32, shape)), b.param(TensorType(DType.F32, (rows, size)))
    whole = b(Transpose((1, 0)), x) if turned else x
    i, f, g = (b(Slice(1, k * step * size, (k + 1) * step * size, step), whole) for k in range(3))
    new = b(binary.Add(), b(binary.Mul(), b(unary.Neg(), f), c), b(binary.Mul(), i, g))
    fn = b.finish(new, b(unary.Relu(), new))
    p, q = torch.randn(shape), torch.randn(rows, size)
    run = Run(fn, nt, lower_chain)
    assert len(run.steps) == 1
    for got, want in zip(run(p, q), meaning.run(fn, p, q), strict=True):
        assert torch.equal(got, want)


def test_a_slice_of_what_a_chain_computes_is_no_chain() -> None:
    b = Builder("late")
    x = b.param(TensorType(DType.F32, (3, 40)))
    fn = b.finish(b(unary.Relu(), b(Slice(1, 5, 20, 1), b(unary.Neg(), x))))
    p = torch.randn(3, 40)
    run = Run(fn, 2, lower_chain)
    assert len(run.steps) == 2
    assert torch.equal(run(p)[0], meaning.run(fn, p)[0])


def test_chain_refuses_other_ops() -> None:
    b = Builder("chain")
    x = b.param(TensorType(DType.F32, (8, 1)))
    fn = b.finish(b(Reshape((8,)), b(unary.Exp(), x)))
    run = Run(fn, 1, lower_chain)
    assert run(torch.zeros(8, 1))[0].tolist() == [1.0] * 8


def test_double_is_refused() -> None:
    x = torch.zeros(3, dtype=torch.float64)
    assert isinstance(claim(make(unary.Exp(), (x,)).ops[0]), No)


def test_physical_helper() -> None:
    x = torch.randn(2, 3, 4)
    assert torch.equal(physical(x, (2, 0, 1)), x)
