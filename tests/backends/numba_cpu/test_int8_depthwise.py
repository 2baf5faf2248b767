"""Depthwise convolutions of codes: the bits of the meaning; how they are cut; what is read."""

from __future__ import annotations

import ctypes
import mmap
import os
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc import meaning
from leptonc.backends.numba_cpu.kernels import int8_depthwise as kernel
from leptonc.backends.numba_cpu.kernels import int8_depthwise_plan as plan
from leptonc.backends.numba_cpu.kernels import int8_depthwise_tile as tile
from leptonc.backends.numba_cpu.kernels.base import make_kernel
from leptonc.backends.numba_cpu.kernels.vec import arg
from leptonc.backends.numba_cpu.kernels.vectype import LANES, pointer
from leptonc.backends.numba_cpu.lower.quantized import lower_int_unit
from leptonc.ir.core import Builder, Function, Kind, Value
from leptonc.ir.kinds import binary, pointwise, unary
from leptonc.ir.kinds.quantize import IntConv, Quantize
from leptonc.ir.types import DType, TensorType
from tests.backends.numba_cpu.harness import Run
from tests.backends.numba_cpu.test_int8 import CODES, Case, check, codes, const, number

pytestmark = pytest.mark.numba
OURS = ("int8_depthwise",)
LAST = (0, 2, 3, 1)
# Around the blocks of 16, 32 and 64 channels, and all of what is left behind them.
CHANNELS = (2, 3, 5, 8, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 72, 96, 112, 130)


class DepthCase(Case):
    """A unit whose root is a depthwise convolution of any kind."""

    def __init__(self, data: st.DataObject) -> None:
        super().__init__(data, "conv")

    def conv(self) -> Value:
        """Return a convolution; windows may lie beside the image altogether."""
        c = self.pick(st.sampled_from(CHANNELS))
        kernel = [self.pick(st.sampled_from([1, 2, 3, 3, 3, 5, 7])) for _ in range(2)]
        stride = [self.pick(st.integers(1, 3)) for _ in range(2)]
        dilation = [self.pick(st.sampled_from([1, 1, 2, 3])) for _ in range(2)]
        span = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
        pads = [self.pick(st.integers(0, s)) for s in (*span, *span)]
        least = [max(1, s - p - q) for s, p, q in zip(span, pads[:2], pads[2:], strict=True)]
        most = (9, 40 if c < 40 else 20)
        size = [self.pick(st.integers(n, max(n, m))) for n, m in zip(least, most, strict=True)]
        layout = self.pick(st.sampled_from([None, LAST, LAST]))
        dtype = self.pick(st.sampled_from(list(CODES)))
        x, zero = self.image(dtype, (self.pick(st.integers(1, 2)), c, *size), layout)
        kind = IntConv(
            tuple(stride), tuple(pads[:2]), tuple(dilation), c, tuple(pads[2:]), zero
        )  # fmt: skip
        w = const(self.b, codes(self.g, DType.I8, c, 1, *kernel))
        return self.b(kind, x, w, *self.scale(c))


@given(data=st.data(), threads=st.integers(1, 3))
def test_units_give_the_bits_of_their_meaning(data: st.DataObject, threads: int) -> None:
    check(DepthCase(data), threads, OURS)


def unit(
    c: int, size: tuple[int, int], act: Kind | None = None, scale: float = 1e-4, out: float = 0.05,
    zero: int = 0, dtype: DType = DType.U8, residual: bool = False, kernel: int = 3,
    stride: int = 1, pad: int = 1,
) -> tuple[Function, list[torch.Tensor]]:  # fmt: skip
    """Return a convolution with what follows it, and what it reads."""
    g, b = torch.Generator().manual_seed(c), Builder("unit")
    args = [codes(g, DType.U8, 1, c, *size)]
    x = b.param(TensorType(DType.U8, tuple(args[0].shape), LAST))
    w = const(b, codes(g, DType.I8, c, 1, kernel, kernel))
    kind = IntConv((stride, stride), (pad, pad), (1, 1), c, (), 9)
    v = b(kind, x, w, const(b, torch.full((c,), scale)))
    v = v if act is None else b(act, v)
    if residual:
        args.append(torch.randn(tuple(int(d) for d in v.type.shape), generator=g))
        v = b(binary.Add(), v, b.param(TensorType(DType.F32, tuple(args[1].shape), LAST)))
    low, high = CODES[dtype]
    v = b(Quantize(low, high, dtype), v, number(b, out), number(b, zero, torch.int32))
    made = TensorType(dtype, tuple(v.type.shape), LAST)
    op = b.ops[-1]
    b.ops[-1] = type(op)(op.kind, op.operands, (Value(made),), op.origin)
    return b.finish(b.ops[-1].result), args


def lowered(fn: Function) -> tuple[Run, dict[str, int]]:
    """Return a function ready to run, and the record of its kernel."""
    run = Run(fn, 1, lower_int_unit)
    (at,) = [i for i, s in enumerate(run.steps) if s.kernel.name in OURS]
    return run, dict(zip(kernel.NAMES, (int(v) for v in run.records[at]), strict=True))


DIRECT = {
    "clamp": ({"act": pointwise.Clamp(0.0, 6.0)}, 1),
    "no activation": ({}, 1),
    "signed": ({"dtype": DType.I8, "zero": -5}, 1),
    "zero point": ({"zero": 77, "act": pointwise.Clamp(-0.3, 2.0)}, 1),
    "another activation": ({"act": unary.Silu()}, 0),
    "residual": ({"residual": True}, 0),
    "numbers beyond int32": ({"scale": 1.0, "out": 1e-7}, 0),
}


@pytest.mark.parametrize("case", DIRECT)
@pytest.mark.parametrize("c", [16, 32, 64 + 16])
def test_outputs_end_in_registers_where_int32_holds_them(case: str, c: int) -> None:
    options, direct = DIRECT[case]
    fn, args = unit(c, (9, 31), **options)
    run, slots = lowered(fn)
    assert slots["direct"] == direct
    (got,), (want,) = run(*args), meaning.run(fn, *args)
    if case == "another activation":  # its last bits at a half
        assert (got.int() - want.int()).abs().max() <= 1
    else:
        assert torch.equal(got, want)


@pytest.mark.parametrize(("kernel_size", "stride"), [(3, 1), (3, 2), (5, 1), (7, 2), (2, 3)])
@pytest.mark.parametrize("c", [64, 72])
def test_long_lines_are_computed_in_strips(kernel_size: int, stride: int, c: int) -> None:
    fn, args = unit(c, (5, 601), pointwise.Clamp(0.0, 6.0), kernel=kernel_size, stride=stride)
    run, slots = lowered(fn)
    span, block = kernel_size, plan.BLOCKS[0]
    assert plan.strip_outputs(block, slots["out_w"], span, stride, slots["groups"]) < slots["out_w"]
    assert torch.equal(run(*args)[0], meaning.run(fn, *args)[0])


@given(data=st.data())
def test_scratch_is_as_large_as_is_said(data: st.DataObject) -> None:
    """Nothing is written behind it, and nothing is read that was not written."""
    pick = data.draw
    kernel_size, stride = pick(st.integers(1, 7)), pick(st.integers(1, 3))
    fn, args = unit(
        pick(st.sampled_from(CHANNELS)), (7, pick(st.integers(1, 120))), kernel=kernel_size,
        stride=stride, pad=kernel_size // 2, residual=pick(st.booleans()),
    )  # fmt: skip
    run, slots = lowered(fn)
    run.memory.scratch[:] = 0xA5
    assert torch.equal(run(*args)[0], meaning.run(fn, *args)[0])
    behind = slots["scratch"] + slots["scratch_bytes"] - run.memory.scratch.ctypes.data
    size = run.ctx.scratch_bytes
    start = slots["scratch"] - run.memory.scratch.ctypes.data
    assert behind - start - 64 == size and (run.memory.scratch[start + size :] == 0xA5).all()


# ----- what is read -------------------------------------------------------------------------------


def ends_at_a_wall(codes_: np.ndarray) -> tuple[mmap.mmap, int]:
    """Return memory that ends with ``codes_``: behind it no page may be touched; its address."""
    page = mmap.PAGESIZE
    pages = -(-codes_.size // page)
    held = mmap.mmap(-1, (pages + 1) * page)
    base = ctypes.addressof(ctypes.c_char.from_buffer(held))
    at = base + pages * page - codes_.size
    ctypes.memmove(at, codes_.ctypes.data, codes_.size)
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(base + pages * page), page, 0) == 0
    return held, at


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process of its own reads behind a wall")
@pytest.mark.parametrize("c", [2, 8, 15, 24, 32, 64, 72])
@pytest.mark.parametrize("width", [1, 3, 20])
def test_nothing_is_read_behind_the_image(c: int, width: int) -> None:
    fn, args = unit(c, (4, width))
    run, _ = lowered(fn)
    raw = args[0].permute(0, 2, 3, 1).contiguous().numpy().reshape(-1)
    held, at = ends_at_a_wall(raw)
    record = run.records[-1].copy()
    record[kernel.NAMES.index("x")] = at
    (step,) = run.steps
    step.kernel.compile()
    child = os.fork()
    if child == 0:
        step.kernel(record)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    del held


# ----- how it is cut ------------------------------------------------------------------------------


@given(st.integers(1, 300))
def test_blocks_hold_every_channel_once(channels: int) -> None:
    held = [c for at, size in plan.blocks_of(channels) for c in range(at, at + size)]
    assert held[:channels] == list(range(channels)) and len(held) - channels < plan.PIECE
    assert {size for _, size in plan.blocks_of(channels)} <= {*plan.BLOCKS}


SMALL = st.integers(1, 3)


@given(outputs=st.integers(1, 4), taps=st.integers(1, 7), stride=SMALL, dilation=SMALL)
def test_a_window_reads_each_line_once(outputs: int, taps: int, stride: int, dilation: int) -> None:
    w = plan.window(outputs, taps, stride, dilation)
    lines = [line for line in w.lines if line != plan.NOWHERE]
    assert lines == sorted({i * stride + j * dilation for i in range(outputs) for j in range(taps)})
    assert len(w.lines) == w.groups * plan.DEEP and len(w.lines) - len(lines) < plan.DEEP


def test_windows_share_lines_where_that_pays() -> None:
    """Two lines of outputs of a 3x3 kernel read four lines, which are one group of bytes."""
    assert plan.cheapest((3, 3), (1, 1), 1, 56).outputs == 2
    assert plan.cheapest((3, 3), (1, 1), 1, 1).outputs == 1
    assert plan.cheapest((3, 3), (2, 2), 1, 56).outputs == 1


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_usual_kernels_have_tiles_of_their_own(size: int, stride: int) -> None:
    w = plan.cheapest((size, size), (stride, stride), 1, 28)
    assert w.groups * size in tile.STEPS


@given(
    channels=st.integers(1, 150), size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    outputs=st.integers(1, 3), stride=SMALL, dilation=SMALL, seed=st.integers(0, 999),
)  # fmt: skip
def test_packed_weights_hold_each_tap_where_its_code_will_be(
    channels: int, size: tuple[int, int], outputs: int, stride: int, dilation: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.integers(-128, 128, (channels, 1, *size), dtype=np.int8)
    w = plan.window(outputs, size[0], stride, dilation)
    packed = plan.pack_weights(weight, w, stride, dilation)
    for b, (first, block) in enumerate(plan.blocks_of(channels)):
        piece, inside = np.divmod(np.arange(plan.VECTOR), plan.PIECE)
        channel = first + piece % (block // plan.PIECE) * plan.PIECE + inside
        # a register of codes, as the instructions that interleave its bytes lay them
        place = (inside // 4, piece * 4 + inside % 4)
        exists = channel < channels
        for i in range(outputs):
            for k in range(size[1]):
                taps = packed[b, i, :, k][:, *place].swapaxes(1, 2).reshape(-1, plan.VECTOR)
                want = np.zeros_like(taps)
                for j in range(size[0]):
                    line = w.lines.index(i * stride + j * dilation)
                    want[line, exists] = weight[channel[exists], 0, j, k]
                assert (taps == want).all()


# ----- narrower integers --------------------------------------------------------------------------


def narrow_kernel(triple: str):
    @intrinsic
    def narrow(typingctx, source, target):
        def build(context, b: ir.IRBuilder, sig, args):
            with patch.object(tile, "target_triple", lambda: triple):
                for which, bits in ((tile.narrow_words, 32), (tile.narrow_codes, 16)):
                    kind = ir.VectorType(ir.IntType(bits), 128 * LANES // 4 // bits)
                    x, y = (
                        b.load(pointer(b, args[0], k, plan.VECTOR), align=4, typ=kind)
                        for k in (ir.Constant(ir.IntType(64), n) for n in range(2))
                    )
                    at = ir.Constant(ir.IntType(64), int(bits == 16))
                    b.store(which(b, x, y), pointer(b, args[1], at, plan.VECTOR), align=4)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), build

    def body(args, tid, nt):
        narrow(arg(args, 0), arg(args, 1))  # pyright: ignore[reportCallIssue]

    return make_kernel(body, "narrow", (triple,))


@given(seed=st.integers(0, 999))
def test_other_processors_narrow_as_x86_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ends = [-(1 << 31), -40000, -32769, -32768, -1, 0, 1, 127, 255, 256, 32767, 32768, 1 << 20]
    source = rng.choice(np.array(ends, np.int32), 2 * LANES)
    made = []
    for triple in ("x86_64", "aarch64"):
        out = np.zeros(2 * plan.VECTOR, np.uint8)
        narrow_kernel(triple)(np.array([source.ctypes.data, out.ctypes.data], np.int64))
        made.append(out)
    assert (made[0] == made[1]).all()
    pieces = source.clip(-32768, 32767).astype(np.int16).reshape(2, -1, 4).swapaxes(0, 1)
    assert (made[0][: plan.VECTOR].view(np.int16) == pieces.reshape(-1)).all()
