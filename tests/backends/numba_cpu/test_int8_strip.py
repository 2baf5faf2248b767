"""Strips of short tiles: the bits of the meaning, at every edge and with the residual in place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from leptonc import meaning
from leptonc.backends.numba_cpu.kernels.int8_gemm import LINES, OUT, RES, STRIP
from leptonc.backends.numba_cpu.kernels.int8_strip import FEWEST_STEPS, STRIPS
from leptonc.backends.numba_cpu.lower.quantized import lower_int_unit
from leptonc.ir.core import Builder, Function, Kind
from leptonc.ir.kinds import binary
from leptonc.ir.kinds.quantize import Dequantize, IntConv, IntLinear, Quantize
from leptonc.ir.types import DType, TensorType
from tests.backends.numba_cpu.harness import Run
from tests.backends.numba_cpu.test_int8 import ACTIVATIONS, codes, const, number

pytestmark = [
    pytest.mark.numba,
    pytest.mark.skipif(not STRIPS, reason="strips need AVX-512 with VNNI"),
]
CHANNELS_LAST = (0, 2, 3, 1)


def unit(
    root: Kind, shape: tuple[int, ...], weight: tuple[int, ...], g: torch.Generator, *,
    act: str = "none", residual: bool = False, scale: float = 0.05, zero: int = 0, bias: float = 1,
    res_zero: int = 77,
) -> tuple[Function, list[torch.Tensor]]:  # fmt: skip
    """Return a unit of u8 codes from and to channels last, and its operands."""
    b, layout = Builder("unit"), CHANNELS_LAST if len(shape) == 4 else None
    args = [codes(g, DType.U8, *shape)]
    x = b.param(TensorType(DType.U8, shape, layout))
    n = weight[0]
    scales = const(b, torch.rand(n, generator=g) * 1e-3 + 1e-4)
    w, shift = const(b, codes(g, DType.I8, *weight)), const(b, bias * torch.randn(n, generator=g))
    v = b(root, x, w, scales, shift)
    if residual:
        made = tuple(int(d) for d in v.type.shape)
        args.append(codes(g, DType.U8, *made))
        r = b.param(TensorType(DType.U8, made, layout))
        held = b(Dequantize(), r, number(b, 0.013), number(b, res_zero, torch.int32))
        v = b(binary.Add(), held, v)
    kind = ACTIVATIONS[act]
    v = v if kind is None else b(kind, v)
    to = b.emit(Quantize(0, 255, DType.U8), v, number(b, scale), number(b, zero, torch.int32))[0]
    op = b.ops.pop()
    out = type(to)(TensorType(DType.U8, to.type.shape, layout))
    b.append(type(op)(op.kind, op.operands, (out,), op.origin))
    return b.finish(out), args


def ran(fn: Function, args: list[torch.Tensor], threads: int = 1, in_place: bool = False):
    """Return the results of the unit, and whether its record asks for strips."""
    run = Run(fn, threads, lower_int_unit)
    run.bind(*args)
    record = run.records[-1]
    if in_place:  # as the planner of memory has it where nobody reads the residual later
        view, other = run.outputs[0], run.ctx.views[fn.params[1]]
        size = view.buffer.nbytes
        for at, of in ((record[RES], other), (record[OUT], view)):
            assert of.buffer.nbytes == size and run.memory.address(of.buffer) == at
        source, target = run.memory.blocks[other.buffer], run.memory.blocks[view.buffer]
        target[256 : 256 + size] = source[256 : 256 + size]
        record[RES] = record[OUT]
    run.run()
    return run.results()[0], bool(record[STRIP])


@given(
    rows=st.integers(1, 130), k=st.integers(13, 90), n=st.integers(17, 200),
    act=st.sampled_from(sorted(ACTIVATIONS)), residual=st.sampled_from(["none", "apart", "here"]),
    zero=st.just(0) | st.integers(0, 255), res_zero=st.just(0) | st.integers(0, 255),
    threads=st.integers(1, 2), seed=st.integers(0, 1 << 16),
)  # fmt: skip
@example(rows=59, k=64, n=96, act="relu", residual="here", zero=0, res_zero=77, threads=1, seed=1)
@example(rows=59, k=64, n=96, act="relu", residual="here", zero=0, res_zero=0, threads=1, seed=1)
@example(rows=61, k=17, n=64, act="relu6", residual="apart", zero=3, res_zero=0, threads=1, seed=1)
@example(rows=31, k=40, n=80, act="relu6", residual="apart", zero=0, res_zero=0, threads=1, seed=1)
@example(rows=9, k=33, n=144, act="clamp", residual="none", zero=128, res_zero=0, threads=2, seed=1)
def test_rows_of_any_number_and_columns_of_any_width(
    rows: int, k: int, n: int, act: str, residual: str, zero: int, res_zero: int, threads: int,
    seed: int,
) -> None:  # fmt: skip
    g = torch.Generator().manual_seed(seed)
    fn, args = unit(
        IntLinear(7), (rows, k), (n, k), g, act=act, residual=residual != "none", zero=zero,
        res_zero=res_zero,
    )  # fmt: skip
    got, strips = ran(fn, args, threads, residual == "here")
    assert strips and torch.equal(got, meaning.run(fn, *args)[0])


@given(
    taps=st.tuples(st.integers(1, 3), st.integers(1, 3)), c=st.integers(13, 40),
    pad=st.integers(0, 1), stride=st.integers(1, 2), residual=st.booleans(),
    seed=st.integers(0, 1 << 16),
)  # fmt: skip
def test_taps_and_padding(
    taps: tuple[int, int], c: int, pad: int, stride: int, residual: bool, seed: int
) -> None:
    g = torch.Generator().manual_seed(seed)
    kind = IntConv((stride, stride), (pad, pad), (1, 1), 1, (pad, pad), 19)
    fn, args = unit(kind, (2, c, 8, 7), (70, c, *taps), g, act="relu", residual=residual)
    got, strips = ran(fn, args)
    assert strips and torch.equal(got, meaning.run(fn, *args)[0])


@given(
    c=st.integers(1, 4), kernel=st.tuples(st.integers(1, 5), st.integers(2, 17)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    pads=st.tuples(*[st.integers(0, 2)] * 4), threads=st.integers(1, 3),
    seed=st.integers(0, 1 << 16),
)  # fmt: skip
@example(c=3, kernel=(3, 3), stride=(2, 2), pads=(1, 1, 1, 1), threads=1, seed=0)
@example(c=3, kernel=(5, 7), stride=(2, 2), pads=(3, 3, 3, 3), threads=2, seed=0)
@example(c=4, kernel=(2, 16), stride=(1, 1), pads=(0, 1, 0, 2), threads=1, seed=0)
def test_lines_of_few_channels_are_gathered(
    c: int, kernel: tuple[int, int], stride: tuple[int, int], pads: tuple[int, ...], threads: int,
    seed: int,
) -> None:  # fmt: skip
    g = torch.Generator().manual_seed(seed)
    kind = IntConv(stride, pads[:2], (1, 1), 1, pads[2:], 101)
    fn, args = unit(kind, (2, c, 9, 21), (33, c, *kernel), g, act="relu6", zero=4)
    run = Run(fn, threads, lower_int_unit)
    assert bool(run.records[-1][LINES]) == (kernel[0] > 1 and 8 <= c * kernel[1] <= 64)
    run.bind(*args)
    run.run()
    assert torch.equal(run.results()[0], meaning.run(fn, *args)[0])


@pytest.mark.parametrize("bias", [1.0, 1e6, 1e9])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_what_could_leave_int32_is_no_strip(bias: float, scale: float) -> None:
    """A strip clamps after it rounded to int32, so that has to be proven; others clamp before."""
    fn, args = unit(
        IntLinear(0), (40, 64), (64, 64), torch.Generator().manual_seed(0), scale=scale, bias=bias
    )
    got, strips = ran(fn, args)
    assert torch.equal(got, meaning.run(fn, *args)[0])
    assert strips == (bias / scale < 1e8)


@pytest.mark.parametrize(
    ("k", "n", "strips"),
    [(4 * FEWEST_STEPS, 64, True), (4 * FEWEST_STEPS - 4, 64, False), (64, 16, False),
     (1024, 256, True), (1028, 256, False)],
)  # fmt: skip
def test_bounds_of_what_strips_serve(k: int, n: int, strips: bool) -> None:
    fn, args = unit(IntLinear(0), (40, k), (n, k), torch.Generator().manual_seed(0))
    got, asked = ran(fn, args)
    assert asked == strips and torch.equal(got, meaning.run(fn, *args)[0])


def test_ends_of_the_range_clamp() -> None:
    """Codes at both ends and beyond, where saturation and the bounds meet."""
    g = torch.Generator().manual_seed(4)
    for act, zero, residual in (
        ("none", 255, False), ("none", 0, False), ("none", 0, True), ("clamp", 30, False),
        ("relu6", 40, False), ("relu", 200, False), ("relu", 0, True),
    ):  # fmt: skip
        fn, args = unit(
            IntLinear(0), (24, 64), (128, 64), g, act=act, zero=zero, scale=0.002,
            residual=residual, res_zero=0,
        )  # fmt: skip
        got, strips = ran(fn, args)
        want = meaning.run(fn, *args)[0]
        assert strips and torch.equal(got, want) and np.unique(want.numpy()).size > 1
