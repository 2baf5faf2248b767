"""Products of codes: their kernels give the bits of the meaning, with every epilogue."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc import meaning
from leptonc.backends.numba_cpu.kernels.base import make_kernel
from leptonc.backends.numba_cpu.kernels.int8_dot import DOT, FORMS, MOST_DEPTH
from leptonc.backends.numba_cpu.kernels.int8_mean import MOST_COUNT
from leptonc.backends.numba_cpu.kernels.int8_pairs import Range
from leptonc.backends.numba_cpu.kernels.vec import arg
from leptonc.backends.numba_cpu.kernels.vectype import LANES, VI, pointer
from leptonc.backends.numba_cpu.legal import Yes
from leptonc.backends.numba_cpu.lower.choices import Answer
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.pool import LOWER, lower_pooled
from leptonc.backends.numba_cpu.lower.quantized import lower_int_unit
from leptonc.ir.core import Builder, Function, Kind, Value
from leptonc.ir.kinds import binary, pointwise, reduce, unary
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.quantize import Dequantize, IntAvgPool, IntConv, IntLinear, Quantize
from leptonc.ir.types import DType, TensorType
from tests.backends.numba_cpu.harness import Run

pytestmark = pytest.mark.numba
PRODUCTS = ("int8_gemm", "int8_depthwise", "int8_winograd")
CODES = {DType.U8: (0, 255), DType.I8: (-128, 127)}


def codes(g: torch.Generator, dtype: DType, *shape: int) -> torch.Tensor:
    """Draw codes, many of them extreme."""
    low, high = CODES[dtype]
    drawn = torch.randint(low, high + 1, shape, generator=g)
    extreme = torch.randint(0, 4, shape, generator=g)
    drawn = torch.where(extreme == 0, low, torch.where(extreme == 1, high, drawn))
    return drawn.to(meaning.TORCH_DTYPES[dtype])


def const(b: Builder, t: torch.Tensor) -> Value:
    return b(Constant(meaning.const_of(t)))


def number(b: Builder, value: float, dtype: torch.dtype = torch.float32) -> Value:
    return const(b, torch.tensor(value, dtype=dtype))


ACTIVATIONS: dict[str, Kind | None] = {
    "none": None, "relu": unary.Relu(), "relu6": pointwise.Clamp(0.0, 6.0),
    "clamp": pointwise.Clamp(-1.5, 2.5),
}  # fmt: skip


class Case:
    """One unit: a root, an epilogue, and what it reads."""

    def __init__(self, draw: st.DrawFn | st.DataObject, root: str) -> None:
        pick = draw.draw if isinstance(draw, st.DataObject) else draw
        self.g = torch.Generator().manual_seed(pick(st.integers(0, 1 << 20)))
        self.pick, self.b = pick, Builder("unit")
        self.args: list[torch.Tensor] = []
        self.known: dict[Value, Range] = {}
        self.answers: Mapping[str, Answer] = {}
        value = self.conv() if root == "conv" else self.linear()
        self.order = (0, 2, 3, 1) if root == "conv" else None
        early = pick(st.booleans())
        act = ACTIVATIONS[pick(st.sampled_from(sorted(ACTIVATIONS)))]
        steps = [self.residual, lambda v: v if act is None else self.b(act, v)]
        for step in steps if early else steps[::-1]:
            value = step(value)
        value = self.quantized(value)
        layout = self.order
        if layout is not None:
            made = TensorType(value.type.dtype, value.type.shape, layout)
            op = self.b.ops[-1]
            value = Value(made)
            self.b.ops[-1] = type(op)(op.kind, op.operands, (value,), op.origin)
        self.fn = self.b.finish(value)

    def param(self, t: torch.Tensor, layout: tuple[int, ...] | None = None) -> Value:
        self.args.append(t)
        kind = meaning.type_of(t)
        return self.b.param(TensorType(kind.dtype, kind.shape, layout))

    def image(self, dtype: DType, shape: Sequence[int], layout=None) -> tuple[Value, int]:
        """Return codes of all of their type or known to be of seven bits, and a zero point."""
        low, high = CODES[dtype]
        known = self.pick(st.booleans())
        high = low + 127 if known else high
        value = self.param(codes(self.g, dtype, *shape).clamp(max=high), layout)
        if known:
            self.known[value] = Range(low, high)
        return value, self.pick(st.integers(low, high))

    def weight(self, *shape: int) -> Value:
        """Return codes of all of their type, or around what int16 holds sums of four of."""
        most = self.pick(st.sampled_from([128, 33, 32]))
        return const(self.b, codes(self.g, DType.I8, *shape).clamp(-most, min(most, 127)))

    def scale(self, n: int) -> tuple[Value, ...]:
        some = torch.rand(n, generator=self.g) * 1e-3 + 1e-4
        bias = torch.randn(n, generator=self.g)
        return const(self.b, some), *([const(self.b, bias)] if self.pick(st.booleans()) else [])

    def linear(self) -> Value:
        lead = self.pick(st.sampled_from([(1,), (2, 3), (15,), (40,), ()]))
        k, n = self.pick(st.integers(1, 70)), self.pick(st.integers(1, 70))
        dtype = self.pick(st.sampled_from(list(CODES)))
        x, zero = self.image(dtype, (*lead, k))
        w = self.weight(n, k)
        return self.b(IntLinear(zero), x, w, *self.scale(n))

    def conv(self) -> Value:
        groups = self.pick(st.sampled_from([1, 1, 2, 40]))
        c = n = groups  # a filter a channel
        if groups < 8:
            c, n = (groups * self.pick(st.integers(1, most)) for most in (20, 40))
        dtype = self.pick(st.sampled_from(list(CODES)))
        size = [self.pick(st.integers(4, 11)) for _ in range(2)]
        kernel = [self.pick(st.integers(1, 3)) for _ in range(2)]
        layout = self.pick(st.sampled_from([None, (0, 2, 3, 1)]))
        x, zero = self.image(dtype, (self.pick(st.integers(1, 2)), c, *size), layout)
        pads = [self.pick(st.integers(0, 2)) for _ in range(4)]
        kind = IntConv(
            tuple(self.pick(st.integers(1, 2)) for _ in range(2)), tuple(pads[:2]),
            tuple(self.pick(st.sampled_from([1, 1, 2])) if n > 1 else 1 for n in kernel), groups,
            tuple(pads[2:]), zero,
        )  # fmt: skip
        w = self.weight(n, c // groups, *kernel)
        if any(s + p < 5 for s, p in zip(size, pads, strict=False)):
            kind = IntConv(kind.stride, (2, 2), kind.dilation, groups, (2, 2), kind.x_zero)
        return self.b(kind, x, w, *self.scale(n))

    def residual(self, value: Value) -> Value:
        how = self.pick(st.sampled_from(["none", "float", "u8", "i8"]))
        if how == "none":
            return value
        shape = tuple(int(d) for d in value.type.shape)
        if how == "float":
            other = self.param(torch.randn(shape, generator=self.g), self.layout(shape))
        else:
            dtype = DType.U8 if how == "u8" else DType.I8
            held = self.param(codes(self.g, dtype, *shape), self.layout(shape))
            zero = self.pick(st.integers(*CODES[dtype]))
            other = self.b(
                Dequantize(), held, number(self.b, 0.013), number(self.b, zero, torch.int32)
            )
        pair = (value, other) if self.pick(st.booleans()) else (other, value)
        return self.b(binary.Add(), *pair)

    def layout(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        return (0, 2, 3, 1) if len(shape) == 4 else None

    def quantized(self, value: Value) -> Value:
        if self.pick(st.booleans()):
            return value
        dtype = self.pick(st.sampled_from(list(CODES)))
        low, high = self.pick(st.sampled_from([CODES[dtype], (max(CODES[dtype][0], -7), 7)]))
        zero = self.pick(st.integers(low, high))
        scale = number(self.b, self.pick(st.sampled_from([0.011, 0.5, 1e-6])))
        return self.b(Quantize(low, high, dtype), value, scale, number(self.b, zero, torch.int32))


def check(case: Case, threads: int, kernels: Collection[str] = PRODUCTS) -> None:
    (want,) = meaning.run(case.fn, *case.args)

    def lower(ctx: Lowering, body: Function) -> bool:
        ctx.ranges.update(case.known)
        ctx.answers = case.answers
        return lower_int_unit(ctx, body)

    run = Run(case.fn, threads, lower)
    assert len({s.kernel.name for s in run.steps} & {*kernels}) == 1
    run.bind(*case.args)
    run.run()
    (got,) = run.results()
    assert torch.equal(got, want)


@pytest.mark.parametrize("root", ["conv", "linear"])
@given(data=st.data(), threads=st.integers(1, 2))
def test_units_give_the_bits_of_their_meaning(root: str, data: st.DataObject, threads: int) -> None:
    check(Case(data, root), threads)


OTHERS = [unary.Silu(), unary.HardSwish(), pointwise.Gelu(), unary.Sigmoid()]


@pytest.mark.parametrize("act", OTHERS)
@pytest.mark.parametrize("codes_out", [True, False])
@pytest.mark.parametrize("late", ["none", "float", "codes"])
def test_other_activations_are_staged_in_floats(act: Kind, codes_out: bool, late: str) -> None:
    g = torch.Generator().manual_seed(3)
    b, rows, n = Builder("unit"), 150, 45
    x = b.param(TensorType(DType.U8, (rows, 33)), "x")
    w = const(b, codes(g, DType.I8, n, 33))
    args = [codes(g, DType.U8, rows, 33)]
    v = b(act, b(IntLinear(7), x, w, const(b, torch.full((n,), 1e-4))))
    if late == "float":
        args.append(torch.randn(rows, n, generator=g))
        v = b(binary.Mul(), v, b.param(TensorType(DType.F32, (rows, n)), "r"))
    elif late == "codes":
        args.append(codes(g, DType.U8, rows, n))
        r = b.param(TensorType(DType.U8, (rows, n)), "r")
        v = b(binary.Add(), v, b(Dequantize(), r, number(b, 0.02)))
    if codes_out:
        v = b(Quantize(0, 255, DType.U8), v, number(b, 0.05), number(b, 100, torch.int32))
    fn = b.finish(v)
    (want,) = meaning.run(fn, *args)
    run = Run(fn, 2, lower_int_unit)
    run.bind(*args)
    run.run()
    (got,) = run.results()
    if codes_out:
        assert (got.int() - want.int()).abs().max() <= 1  # the activation's last bits at a half
        assert (got == want).float().mean() > 0.99
    else:
        most = max([1.0, *(float(t.abs().max()) for t in args[1:] if t.is_floating_point())])
        # gelu's error is at most 4.9e-7 (kernels/activation.py), and its argument is rounded
        (true,) = meaning.run(fn, *args, precision="f64")
        torch.testing.assert_close(got.double(), true, rtol=1e-5, atol=8e-7 * most)


@pytest.mark.parametrize("dtype", list(CODES))
@given(data=st.data())
def test_conversions(dtype: DType, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(0, 40), max_size=3)))
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    x = torch.randn(shape, generator=g) * 10
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1e-42, 0.5, 1.5, 2.5])
    some = torch.randint(0, 24, shape, generator=g)
    x = torch.where(some < 8, special[some.clamp(max=7)], x)
    low, high = CODES[dtype]
    zero = data.draw(st.integers(low, high))
    b = Builder("round")
    scale, at = number(b, data.draw(st.sampled_from([1.0, 0.07]))), number(b, zero, torch.int32)
    q = b(Quantize(low, high, dtype), b.param(meaning.type_of(x)), scale, at)
    fn = b.finish(q, b(Dequantize(), q, scale, at))
    run = Run(fn, 2)
    run.bind(x)
    run.run()
    for got, want in zip(run.results(), meaning.run(fn, x), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("dtype", list(CODES))
@given(data=st.data())
def test_largest_codes(dtype: DType, data: st.DataObject) -> None:
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    kernel = tuple(data.draw(st.integers(1, 3)) for _ in range(2))
    kind = reduce.MaxPool(
        kernel, tuple(data.draw(st.integers(1, 2)) for _ in range(2)),
        tuple(data.draw(st.integers(0, k // 2)) for k in kernel), data.draw(st.booleans()),
        tuple(data.draw(st.integers(1, 2)) for _ in range(2)),
    )  # fmt: skip
    shape = (2, data.draw(st.integers(1, 40)), *(data.draw(st.integers(6, 9)) for _ in range(2)))
    x = codes(g, dtype, *shape)
    b = Builder("pool")
    layout = data.draw(st.sampled_from([None, (0, 2, 3, 1)]))
    fn = b.finish(b(kind, b.param(TensorType(dtype, shape, layout))))
    run = Run(fn, 2)
    run.bind(x)
    run.run()
    assert torch.equal(run.results()[0], meaning.run(fn, x)[0])


@pytest.mark.parametrize("dtype", list(CODES))
@given(data=st.data())
def test_means_of_codes(dtype: DType, data: st.DataObject) -> None:
    pick, spatial = data.draw, data.draw(st.integers(1, 3))
    g = torch.Generator().manual_seed(pick(st.integers(0, 999)))
    kernel = tuple(pick(st.integers(1, 4)) for _ in range(spatial))
    kind = IntAvgPool(
        kernel, tuple(pick(st.integers(1, 2)) for _ in kernel),
        tuple(pick(st.integers(0, k // 2)) for k in kernel), pick(st.booleans()),
        pick(st.booleans()), pick(st.sampled_from([None, 5])), pick(st.integers(*CODES[dtype])),
    )  # fmt: skip
    channels = pick(st.sampled_from([1, 7, 40, 75]))
    shape = (2, channels, *(pick(st.integers(4, 7)) for _ in kernel))
    x = codes(g, dtype, *shape)
    b = Builder("pool")
    layout = pick(st.sampled_from([None, (0, *range(2, len(shape)), 1)]))
    v = b(kind, b.param(TensorType(dtype, shape, layout)), number(b, 0.037))
    if pick(st.booleans()):
        to = pick(st.sampled_from(list(CODES)))
        low, high = pick(st.sampled_from([CODES[to], (max(CODES[to][0], -7), 7)]))
        zero = number(b, pick(st.integers(low, high)), torch.int32)
        v = b(Quantize(low, high, to), v, number(b, pick(st.sampled_from([0.011, 0.5]))), zero)
    fn = b.finish(v)
    run = Run(fn, pick(st.sampled_from([1, 3])), lower_pooled if len(fn.ops) > 3 else None)
    run.bind(x)
    run.run()
    assert torch.equal(run.results()[0], meaning.run(fn, x)[0])


@pytest.mark.parametrize("side", [2901, 2902])
def test_sums_of_a_window_fit_int32(side: int) -> None:
    """The largest window that is claimed has an exact sum; a larger one is declined."""
    b = Builder("pool")
    kind = IntAvgPool((side, 2902), (1, 1), (0, 0))
    fn = b.finish(b(kind, b.param(TensorType(DType.U8, (1, 1, side, 2902))), number(b, 1.0)))
    assert isinstance(LOWER[IntAvgPool][0](fn.ops[-1]), Yes) == (side == 2901)
    assert 2901 * 2902 <= MOST_COUNT < 2902 * 2902 and MOST_COUNT * 255 < 2**31


# ----- the sums of four products ------------------------------------------------------------------


def dot_kernel(form: str):
    @intrinsic
    def dot(typingctx, acc, x, y, out):
        def build(context, b: ir.IRBuilder, sig, args):
            held = [b.load(pointer(b, a), align=4, typ=VI) for a in args[:3]]
            b.store(FORMS[form](b, *held), pointer(b, args[3]), align=4)
            return context.get_dummy_value()

        return types.void(*(types.int64,) * 4), build

    def body(args, tid, nt):
        dot(arg(args, 0), arg(args, 1), arg(args, 2), arg(args, 3))

    return make_kernel(body, "dot", (form,))


# ``pairs`` is exact where that is proven: see test_int8_pairs
USABLE = [f for f in FORMS if f != "pairs" and (f != "vnni" or DOT == "vnni")]


@pytest.mark.parametrize("form", USABLE)
@given(seed=st.integers(0, 1 << 16))
def test_every_form_sums_exactly(form: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.choice(np.array([0, 1, 127, 128, 255], np.uint8), 4 * LANES)
    y = rng.choice(np.array([-128, -127, -1, 0, 127], np.int8), 4 * LANES)
    acc = rng.integers(-(1 << 20), 1 << 20, LANES, dtype=np.int32)
    out = np.zeros(LANES, np.int32)
    slots = np.array([a.ctypes.data for a in (acc, x, y, out)], np.int64)
    dot_kernel(form)(slots)
    want = acc + (x.astype(np.int32) * y.astype(np.int32)).reshape(LANES, 4).sum(1)
    assert (out == want).all()


def test_int32_holds_the_longest_sum() -> None:
    assert MOST_DEPTH * 255 * 128 < 2**31 <= (MOST_DEPTH + 1) * 255 * 128


def test_long_sums_of_extremes_are_exact() -> None:
    k = MOST_DEPTH
    b = Builder("long")
    x = b.param(TensorType(DType.U8, (3, k)), "x")
    fn = b.finish(
        b(IntLinear(), x, const(b, torch.full((2, k), -128, dtype=torch.int8)),
          const(b, torch.ones(2)))
    )  # fmt: skip
    codes_ = torch.full((3, k), 255, dtype=torch.uint8)
    run = Run(fn, 1, lower_int_unit)
    run.bind(codes_)
    run.run()
    assert torch.equal(run.results()[0], meaning.run(fn, codes_)[0])
