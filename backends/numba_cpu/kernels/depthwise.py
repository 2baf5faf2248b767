"""numba_cpu > kernels > depthwise: convolution with one filter a channel, on channels-last images.

``out[b, z, y, x, c] = act(sum over taps of in[b, position(tap), c] * w[tap, c] + bias[c] + res)``, channel stride 1.
Images of 1 or 2 axes have depth (and height) 1. A vector of channels of 4 neighbouring outputs of one line is one
register tile; the taps of a window's lines that exist are summed, no padding is read. Tiles for 3 and 5 columns with
stride 1 and 2 load every input once; others load one input a tap. Columns at a border, whose window leaves the line,
go one by one. The sum runs over the taps in row-major order in every tile.
"""

from __future__ import annotations

import functools

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.activation import vact
from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.igemm import Res
from leptonc.backends.numba_cpu.kernels.vec import (
    LANES,
    arg,
    argf,
    ldi64,
    sti64,
    vadd,
    vload,
    vload_n,
    vmul,
    vstore_n,
)
from leptonc.backends.numba_cpu.kernels.vectype import (
    I1,
    I64,
    VF,
    fconst,
    first_lanes,
    fma,
    i64,
    load_vec,
    masked_load,
    pointer,
    shared_function,
)

NAMES = (
    "x", "x_b", "x_z", "x_y", "x_x", "batch", "in_d", "in_h", "in_w", "channels",
    "kernel_z", "kernel_y", "kernel_x", "stride_z", "stride_y", "stride_x",
    "pad_z", "pad_y", "pad_x", "dilation_z", "dilation_y", "dilation_x",
    "out", "out_b", "out_z", "out_y", "out_x", "out_d", "out_h", "out_w", "weights", "bias",
    "res", "res_b", "res_z", "res_y", "res_x", "res_mode", "act", "act_p0", "act_p1",
    "scratch", "scratch_bytes",
)  # fmt: skip
"""Slots of the record, in order: addresses (bytes; ``bias``, ``res`` or 0), strides (elements) of
image, plane, line and pixel, sizes. ``weights`` come from :func:`pack_weights`, ``scratch_bytes``
from :func:`scratch_bytes`. ``res_mode`` is a ``Res``, ``act`` an ``Act``."""

(
    X, X_B, X_Z, X_Y, X_X, BATCH, IN_D, IN_H, IN_W, CHANNELS,
    KERNEL_Z, KERNEL_Y, KERNEL_X, STRIDE_Z, STRIDE_Y, STRIDE_X,
    PAD_Z, PAD_Y, PAD_X, DILATION_Z, DILATION_Y, DILATION_X,
    OUT, OUT_B, OUT_Z, OUT_Y, OUT_X, OUT_D, OUT_H, OUT_W, WEIGHTS, BIAS,
    RES, RES_B, RES_Z, RES_Y, RES_X, RES_MODE, ACT, ACT_P0, ACT_P1,
    SCRATCH, SCRATCH_BYTES,
) = range(len(NAMES))  # fmt: skip

COLUMNS = 4  # outputs of one register tile
CHANNEL_BLOCK = 4 * LANES  # channels that are finished before the next columns
_FAST = ((3, 1), (3, 2), (5, 1), (5, 2))  # (columns of the kernel, stride) with their own tile


def padded(channels: int) -> int:
    """Return ``channels`` rounded up to whole vectors."""
    return -(-channels // LANES) * LANES


def pack_weights(weight: np.ndarray) -> np.ndarray:
    """Return ``f32[taps, padded(c)]`` of ``weight: [c, 1, *kernel]``, zero beyond ``c``."""
    channels = weight.shape[0]
    taps = weight.reshape(channels, -1)
    out = np.zeros((taps.shape[1], padded(channels)), np.float32)
    out[:, :channels] = taps.T
    return out


def scratch_bytes(kernel_z: int, kernel_y: int) -> int:
    """Return the bytes one thread needs: a patch of outputs and the table of the window's lines."""
    return -(-(4 * COLUMNS * LANES + 16 * kernel_z * kernel_y) // 64) * 64


# --- register tiles -----------------------------------------------------------------------------


def _line_loop(b: ir.IRBuilder, lines, count: int, body) -> list[ir.Value]:
    """Return ``count`` sums after ``body(x_address, w_address, sums)`` over a table of lines."""
    before = b.block
    loop, end = (b.function.append_basic_block(n) for n in ("line", "end"))
    table, number = lines
    b.cbranch(b.icmp_signed(">", number, i64(0)), loop, end)
    b.position_at_end(loop)
    i = b.phi(I64)
    sums = [b.phi(VF) for _ in range(count)]
    entry = b.add(table, b.shl(i, i64(4)))
    x, w = (b.load(pointer(b, entry, i64(k), 8), align=8, typ=I64) for k in range(2))
    new = body(x, w, sums)
    after, later = b.add(i, i64(1)), b.block
    for phi, value in zip([i, *sums], [after, *new], strict=True):
        phi.add_incoming(value, later)
    for phi in sums:
        phi.add_incoming(fconst(0.0), before)
    i.add_incoming(i64(0), before)
    b.cbranch(b.icmp_signed("<", after, number), loop, end)
    b.position_at_end(end)
    results = [b.phi(VF) for _ in range(count)]
    for phi, value in zip(results, new, strict=True):
        phi.add_incoming(fconst(0.0), before)
        phi.add_incoming(value, later)
    return results


def _store(b: ir.IRBuilder, patch, values: list[ir.Value]) -> None:
    for j, v in enumerate(values):
        b.store(v, pointer(b, patch, i64(j * LANES)), align=4)


def _emit_fast(width: int, stride: int, b, table, number, x_at, w_at, pixel, tap, patch) -> None:
    """Sum whole windows of ``width`` columns: every input of a line is loaded once."""

    def line(x, w, sums):
        new = list(sums)
        x, w = b.add(x, x_at), b.add(w, w_at)
        factors = [
            load_vec(b, pointer(b, b.add(w, b.mul(tap, i64(k))))) for k in range(width)
        ]
        for p in range((COLUMNS - 1) * stride + width):
            v = load_vec(b, pointer(b, b.add(x, b.mul(pixel, i64(p)))))
            for k in range(width):
                j, rest = divmod(p - k, stride)
                if rest == 0 and 0 <= j < COLUMNS:
                    new[j] = fma(b, v, factors[k], new[j])
        return new

    _store(b, patch, _line_loop(b, (table, number), COLUMNS, line))


def _emit_any(count: int, b, table, number, x_at, w_at, step, taps, pixel, tap, lanes, patch) -> None:
    """Sum ``taps`` columns of a window for ``count`` outputs ``step`` bytes apart."""
    mask = first_lanes(b, lanes)

    def line(x, w, sums):
        before = b.block
        loop, end = (b.function.append_basic_block(n) for n in ("tap", "tap_end"))
        b.branch(loop)
        b.position_at_end(loop)
        k, inner = b.phi(I64), [b.phi(VF) for _ in sums]
        here = b.add(b.add(x, x_at), b.mul(k, pixel))
        factor = load_vec(b, pointer(b, b.add(b.add(w, w_at), b.mul(k, tap))))
        new = [
            fma(b, masked_load(b, pointer(b, b.add(here, b.mul(step, i64(j)))), mask), factor, s)
            for j, s in enumerate(inner)
        ]
        after = b.add(k, i64(1))
        for phi, first, later in zip([k, *inner], [i64(0), *sums], [after, *new], strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(later, loop)
        b.cbranch(b.icmp_signed("<", after, taps), loop, end)
        b.position_at_end(end)
        return new

    _store(b, patch, _line_loop(b, (table, number), count, line))


def _emit_whole(b, table, number, x_at, w_at, stride, taps, pixel, tap, dilation, lanes, patch):
    """Call the tile for COLUMNS whole windows: a fast one if there is one."""
    end = b.function.append_basic_block("done")
    plain = b.and_(
        b.icmp_signed("==", dilation, i64(1)), b.icmp_signed(">=", lanes, i64(LANES))
    )
    for width, step in _FAST:
        same = b.and_(b.icmp_signed("==", taps, i64(width)), b.icmp_signed("==", stride, i64(step)))
        yes, no = (b.function.append_basic_block(n) for n in ("fast", "other"))
        b.cbranch(b.and_(plain, same), yes, no)
        b.position_at_end(yes)
        emit = functools.partial(_emit_fast, width, step)
        name = f"lep_depthwise_{width}_{step}"
        fn = shared_function(b.module, name, ir.VoidType(), [I64] * 7, emit)
        b.call(fn, [table, number, x_at, w_at, pixel, tap, patch])
        b.branch(end)
        b.position_at_end(no)
    emit = functools.partial(_emit_any, COLUMNS)
    fn = shared_function(b.module, "lep_depthwise_n", ir.VoidType(), [I64] * 10, emit)
    step, across = b.mul(stride, pixel), b.mul(dilation, pixel)
    b.call(fn, [table, number, x_at, w_at, step, taps, across, tap, lanes, patch])
    b.branch(end)
    b.position_at_end(end)


_P = (types.int64,) * 11


@intrinsic
def _whole(typingctx, table, number, x_at, w_at, stride, taps, pixel, tap, dilation, lanes, patch):
    """Sum COLUMNS whole windows into ``patch``; steps in bytes, ``x_at``, ``w_at`` added to the table's."""

    def build(context, builder, sig, args):
        fn = shared_function(
            builder.module, "lep_depthwise", ir.VoidType(), [I64] * 11, _emit_whole
        )
        builder.call(fn, args)
        return context.get_dummy_value()

    return types.void(*_P), build


@intrinsic
def _single(typingctx, table, number, x_at, w_at, taps, pixel, tap, lanes, patch):
    """Sum ``taps`` columns of one window into ``patch``."""

    def build(context, builder, sig, args):
        emit = functools.partial(_emit_any, 1)
        fn = shared_function(builder.module, "lep_depthwise_1", ir.VoidType(), [I64] * 10, emit)
        table, number, x_at, w_at, *rest = args
        builder.call(fn, [table, number, x_at, w_at, i64(0), *rest])
        return context.get_dummy_value()

    return types.void(*_P[:9]), build


# --- the kernel ---------------------------------------------------------------------------------

_inlined = numba.njit(inline="always")
_LATE, _TIMES = int(Res.AFTER), int(Res.TIMES)


@inline_njit
def _taps(start, size, kernel, dilation):
    """Return the taps ``first .. last`` whose position ``start + k * dilation`` exists."""
    first = 0 if start >= 0 else (-start + dilation - 1) // dilation
    last = min(kernel, (size - 1 - start) // dilation + 1) if start < size else 0
    return first, max(first, last)


@inline_njit
def _lines(args, table, image, z, y):
    """Write ``(input line, weights of its taps)`` for the window's lines that exist; return their number."""
    z0 = z * arg(args, STRIDE_Z) - arg(args, PAD_Z)
    y0 = y * arg(args, STRIDE_Y) - arg(args, PAD_Y)
    step_z, step_y = arg(args, DILATION_Z), arg(args, DILATION_Y)
    height, width = arg(args, KERNEL_Y), arg(args, KERNEL_X)
    size = 4 * width * ((arg(args, CHANNELS) + LANES - 1) // LANES * LANES)
    z_first, z_last = _taps(z0, arg(args, IN_D), arg(args, KERNEL_Z), step_z)
    y_first, y_last = _taps(y0, arg(args, IN_H), height, step_y)
    n = 0
    for i in range(z_first, z_last):
        plane = image * arg(args, X_B) + (z0 + i * step_z) * arg(args, X_Z)
        for j in range(y_first, y_last):
            line = plane + (y0 + j * step_y) * arg(args, X_Y)
            sti64(table, n, arg(args, X) + 4 * line)
            sti64(table, n + 1, arg(args, WEIGHTS) + (i * height + j) * size)
            n += 2
    return n // 2


@inline_njit
def _finish(args, patch, count, out, res, x, c, lanes):
    """Write ``count`` outputs from column ``x``: bias, residual, activation."""
    bias, mode, code = arg(args, BIAS), arg(args, RES_MODE), arg(args, ACT)
    p0, p1 = argf(args, ACT_P0), argf(args, ACT_P1)
    out_x, res_x = arg(args, OUT_X), arg(args, RES_X)
    for j in range(count):
        v = vload(patch, j * LANES)
        if bias != 0:
            v = vadd(v, vload_n(bias, c, lanes))
        late = vload_n(patch, 0, 0)
        if res != 0:
            late = vload_n(res, (x + j) * res_x + c, lanes)
            if mode != _LATE and mode != _TIMES:
                v = vadd(v, late)
        if code != 0:
            v = vact(code, v, p0, p1)
        if res != 0 and mode == _LATE:
            v = vadd(v, late)
        if res != 0 and mode == _TIMES:
            v = vmul(v, late)
        vstore_n(out, (x + j) * out_x + c, v, lanes)


@inline_njit
def _columns(args, patch, table, number, out, res, x, count, c0, c1):
    """Compute ``count`` outputs (1 or COLUMNS) from column ``x`` of channels ``c0 .. c1``."""
    channels, dilation, stride = arg(args, CHANNELS), arg(args, DILATION_X), arg(args, STRIDE_X)
    pixel = 4 * arg(args, X_X)
    tap = 4 * ((channels + LANES - 1) // LANES * LANES)
    start = x * stride - arg(args, PAD_X)
    first, last = 0, arg(args, KERNEL_X)
    if count == 1:
        first, last = _taps(start, arg(args, IN_W), last, dilation)
    for c in range(c0, c1, LANES):
        lanes = channels - c
        if count == 1:
            lines = number if last > first else 0
            _single(table, lines, (start + first * dilation) * pixel + 4 * c, first * tap + 4 * c,
                    last - first, dilation * pixel, tap, lanes, patch)  # fmt: skip
        else:
            _whole(table, number, start * pixel + 4 * c, 4 * c, stride, last, pixel, tap, dilation,
                   lanes, patch)  # fmt: skip
        _finish(args, patch, count, out, res, x, c, lanes)


@inline_njit
def _inner(args):
    """Return the output columns ``low .. high`` whose windows lie inside the line."""
    stride, pad = arg(args, STRIDE_X), arg(args, PAD_X)
    span = arg(args, DILATION_X) * (arg(args, KERNEL_X) - 1)
    low = min((pad + stride - 1) // stride, arg(args, OUT_W))
    last = arg(args, IN_W) - 1 - span + pad
    high = min(last // stride + 1, arg(args, OUT_W)) if last >= 0 else 0
    return low, max(low, high)


@kernel
def depthwise(args, tid, nt):
    """Compute this thread's lines and channel blocks of the conv that the record describes."""
    channels, width = arg(args, CHANNELS), arg(args, OUT_W)
    depth, height = arg(args, OUT_D), arg(args, OUT_H)
    patch = arg(args, SCRATCH) + tid * arg(args, SCRATCH_BYTES)
    table = patch + 4 * COLUMNS * LANES
    blocks = (channels + CHANNEL_BLOCK - 1) // CHANNEL_BLOCK
    jobs = arg(args, BATCH) * depth * height * blocks
    low, high = _inner(args)
    for job in range(jobs * tid // nt, jobs * (tid + 1) // nt):
        line, c0 = job // blocks, job % blocks * CHANNEL_BLOCK
        c1 = min(c0 + CHANNEL_BLOCK, channels)
        plane, y = line // height, line % height
        image, z = plane // depth, plane % depth
        number = _lines(args, table, image, z, y)
        at = image * arg(args, OUT_B) + z * arg(args, OUT_Z) + y * arg(args, OUT_Y)
        out = arg(args, OUT) + 4 * at
        res = arg(args, RES)
        if res != 0:
            at = image * arg(args, RES_B) + z * arg(args, RES_Z) + y * arg(args, RES_Y)
            res += 4 * at
        x = 0
        while x < width:
            count, here, after = 1, x, x + 1
            if low <= x < high and high - low >= COLUMNS:
                # The last tile overlaps the one before it: the same outputs twice, no narrow tile.
                here, after, count = min(x, high - COLUMNS), min(x + COLUMNS, high), COLUMNS
            _columns(args, patch, table, number, out, res, here, count, c0, c1)
            x = after
