"""numba_cpu > kernels > int8_finish: between float32 and codes of 8 bits.

``store_codes`` ends rows that a tile staged as floats; ``quantize_cells`` and ``dequantize_cells``
are the kernels of ``quantize`` and ``dequantize`` with one scale, ``quantize_rows`` that of its
kind.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.int8_tile import (
    V8,
    codes_of,
    load_bytes,
    number_of,
    store_bytes,
)
from leptonc.backends.numba_cpu.kernels.ir_loops import Loop
from leptonc.backends.numba_cpu.kernels.shares import share
from leptonc.backends.numba_cpu.kernels.vec import (
    LANES,
    arg,
    argf,
    ldi64,
    stf,
    vabs,
    vhmax,
    vload_n,
    vmax,
    vsplat,
    vstore_n,
)
from leptonc.backends.numba_cpu.kernels.vectype import (
    F32,
    I32,
    I64,
    VF,
    VI,
    first_lanes,
    i64,
    masked_load,
    pointer,
    prefetch,
    shared_function,
    splat,
    vf32,
)

AHEAD = 2048  # bytes: floats to be codes come from far away, and are read once


@intrinsic
def encode(typingctx, source, target, left, zero, inverse, low, high):
    """Store the codes of up to LANES floats; ``left``: how many there are. See ``codes_of``."""

    def write(b, source, target, left, zero, inverse, low, high):
        mask = first_lanes(b, left)
        x = number_of(b, masked_load(b, pointer(b, source), mask))
        codes = codes_of(b, x, inverse, low, high, zero)
        bytes_ = b.trunc(codes, V8)
        whole = b.icmp_signed(">=", left, ir.Constant(I64, LANES))
        with b.if_else(whole) as (then, otherwise):
            with then:
                b.store(bytes_, pointer(b, target), align=1)
            with otherwise:
                store_bytes(b, bytes_, pointer(b, target), mask)

    def build(context, builder, sig, args):
        params = [I64] * 4 + [F32] * 3
        fn = shared_function(builder.module, "lepencode", ir.VoidType(), params, write, True)
        builder.call(fn, args)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 4, *(types.float32,) * 3), build


@intrinsic
def encode_whole(typingctx, source, target, vectors, zero, inverse, low, high):
    """Store the codes of ``vectors >= 1`` whole vectors of floats; see :func:`encode`."""

    def write(b, source, target, vectors, zero, inverse, low, high):
        loop = Loop(b, "vector", [i64(0), source, target])
        index, at, to = loop.values
        prefetch(b, pointer(b, at, i64(AHEAD), 1))
        x = number_of(b, b.load(pointer(b, at), align=4, typ=VF))
        b.store(b.trunc(codes_of(b, x, inverse, low, high, zero), V8), pointer(b, to), align=1)
        after = b.add(index, i64(1))
        loop.close(
            b.icmp_signed("<", after, vectors),
            [after, b.add(at, i64(4 * LANES)), b.add(to, i64(LANES))],
        )

    def build(context, builder, sig, args):
        params = [I64] * 4 + [F32] * 3
        fn = shared_function(builder.module, "lep_encode_whole", ir.VoidType(), params, write)
        builder.call(fn, args)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 4, *(types.float32,) * 3), build


@inline_njit
def encode_run(source, target, count, zero, inverse, low, high):
    """Store the codes of ``count`` dense floats; see :func:`encode`."""
    vectors = count // LANES
    if vectors > 0:
        encode_whole(source, target, vectors, zero, inverse, low, high)
    i = vectors * LANES
    if i < count:
        encode(source + 4 * i, target + i, count - i, zero, inverse, low, high)


def _decoder(signed: bool):
    @intrinsic
    def decode(typingctx, source, left, zero, scale):
        """Return up to LANES codes as floats."""

        def build(context, b, sig, args):
            source, left, zero, scale = args
            codes = load_bytes(b, pointer(b, source), first_lanes(b, left))
            wide = b.sext(codes, VI) if signed else b.zext(codes, VI)
            wide = b.sub(wide, splat(b, b.trunc(zero, I32), VI))
            return b.fmul(b.sitofp(wide, VF), splat(b, scale))

        return vf32(types.int64, types.int64, types.int64, types.float32), build

    return decode


decode_u8, decode_i8 = _decoder(False), _decoder(True)


@inline_njit
def store_codes(rows, out_rows, count, column, width, zero, inverse, low, high):
    """Store rows of floats as codes; ``column``: elements added to the addresses of both tables."""
    for i in range(count):
        source, target = ldi64(rows, i) + 4 * column, ldi64(out_rows, i) + column
        for k in range(0, min(width, 2 * LANES), LANES):
            encode(source + 4 * k, target + k, width - k, zero, inverse, low, high)


(
    C_COUNT, C_SOURCE, C_TARGET, C_ZERO, C_SIGNED, C_SCALE, C_LOW, C_HIGH,
) = range(8)  # fmt: skip


@inline_njit
def _share(count, tid, nt, cuts):
    """Return the elements of this thread, whole vectors but for the last."""
    vectors = (count + LANES - 1) // LANES
    begin, end = share(vectors, tid, nt, cuts)
    return LANES * begin, min(LANES * end, count)


@kernel
def quantize_cells(args, tid, nt, cuts):
    """Quantize ``count`` dense floats with one scale.

    Slots: count, source, target, zero, unused, 1 / scale (float), bounds less zero (floats).
    """
    zero, inverse = arg(args, C_ZERO), argf(args, C_SCALE)
    low, high = argf(args, C_LOW), argf(args, C_HIGH)
    source, target = arg(args, C_SOURCE), arg(args, C_TARGET)
    begin, end = _share(arg(args, C_COUNT), tid, nt, cuts)
    encode_run(source + 4 * begin, target + begin, end - begin, zero, inverse, low, high)


@kernel
def dequantize_cells(args, tid, nt, cuts):
    """Write ``count`` dense codes as floats, with one scale.

    Slots: count, source, target, zero, whether codes are signed, scale (float).
    """
    zero, scale = arg(args, C_ZERO), argf(args, C_SCALE)
    source, target, signed = arg(args, C_SOURCE), arg(args, C_TARGET), arg(args, C_SIGNED)
    begin, end = _share(arg(args, C_COUNT), tid, nt, cuts)
    for i in range(begin, end, LANES):
        if signed != 0:
            v = decode_i8(source + i, end - i, zero, scale)
        else:
            v = decode_u8(source + i, end - i, zero, scale)
        vstore_n(target, i, v, end - i)


(R_ROWS, R_DEPTH, R_SOURCE, R_SOURCE_ROW, R_TARGET, R_SCALE) = range(6)


@kernel
def quantize_rows(args, tid, nt, cuts):
    """Quantize each row of floats by its own scale ``max |row| / 127``, NaN as 0.

    Slots: rows, depth, source, floats from row to row, target (dense codes), target of the scales.
    """
    depth, step = arg(args, R_DEPTH), arg(args, R_SOURCE_ROW)
    rows = arg(args, R_ROWS)
    for row in range(*share(rows, tid, nt, cuts)):
        source, target = arg(args, R_SOURCE) + 4 * row * step, arg(args, R_TARGET) + row * depth
        most = vsplat(np.float32(0.0))
        for k in range(0, depth, LANES):
            most = vmax(most, vabs(vload_n(source, k, depth - k)))
        scale = np.float32(vhmax(most)) / np.float32(127.0)
        stf(arg(args, R_SCALE), row, scale)
        inverse = np.float32(1.0) / scale if scale > np.float32(0.0) else np.float32(0.0)
        encode_run(source, target, depth, 0, inverse, np.float32(-127.0), np.float32(127.0))
