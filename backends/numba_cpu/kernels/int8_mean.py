"""numba_cpu > kernels > int8_mean: means of windows of codes, on channels-last images.

Codes are added in int32, exactly; a sum, less the zero point of every code in it, is a float once
and times ``float32(scale / count)`` is the result, or the codes of it. The record is that of
:mod:`pool` and ``MORE``. Four vectors of channels go over a window together, then one at a time.
"""

from __future__ import annotations

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels import pool as floats
from leptonc.backends.numba_cpu.kernels.base import Kernel, inline_njit, make_kernel
from leptonc.backends.numba_cpu.kernels.int8_tile import (
    V8,
    codes_of,
    load_bytes,
    number_of,
    store_bytes,
)
from leptonc.backends.numba_cpu.kernels.shares import share
from leptonc.backends.numba_cpu.kernels.vec import (
    LANES,
    arg,
    argf,
    vi_splat,
    vi_sub,
    vmul,
    vsplat,
    vstore_n,
    vtofloat,
)
from leptonc.backends.numba_cpu.kernels.vectype import VI, first_lanes, pointer, vf32, vi32

MORE = ("zero", "scale", "coded", "out_zero", "inverse", "low", "high")
"""Slots behind those of ``pool.NAMES``: zero point and scale of what is read; whether codes are
written, and their zero point, ``1 / scale`` and bounds less the zero point."""
NAMES = (*floats.NAMES, *MORE)
ZERO, SCALE, CODED, OUT_ZERO, INVERSE, LOW, HIGH = range(len(floats.NAMES), len(NAMES))
MOST_COUNT = (2**31 - 1) // 255  # positions of a window whose sum int32 holds
BLOCK = 4 * LANES


def _adder(signed: bool, masked: bool):
    """Return ``add(sums, address, left)``: LANES codes more; masked, only ``left`` are there."""

    @intrinsic
    def add(typingctx, sums, address, left):
        def build(context, b, sig, args):
            sums, address, left = args
            place = pointer(b, address)
            if masked:
                x = load_bytes(b, place, first_lanes(b, left))
            else:
                x = b.load(place, align=1, typ=V8)
            return b.add(sums, (b.sext if signed else b.zext)(x, VI))

        return vi32(vi32, types.int64, types.int64), build

    return add


@intrinsic
def _store_codes(typingctx, address, x, left, zero, inverse, low, high):
    """Store the codes of the first ``left`` of LANES floats. Bounds: see ``codes_of``."""

    def build(context, b, sig, args):
        address, x, left, zero, inverse, low, high = args
        codes = b.trunc(codes_of(b, number_of(b, x), inverse, low, high, zero), V8)
        store_bytes(b, codes, pointer(b, address), first_lanes(b, left))
        return context.get_dummy_value()

    ints, reals = types.int64, types.float32
    return types.void(ints, vf32, ints, ints, reals, reals, reals), build


@inline_njit(forceinline=True)
def _end(args, to, sums, by, lost, left):
    """Write the results of up to LANES sums; ``lost``: what the zero point adds to each."""
    v = vmul(vtofloat(vi_sub(sums, vi_splat(np.int32(lost)))), vsplat(by))
    if arg(args, CODED) != 0:
        _store_codes(to, v, left, arg(args, OUT_ZERO), np.float32(argf(args, INVERSE)),
                     np.float32(argf(args, LOW)), np.float32(argf(args, HIGH)))  # fmt: skip
    else:
        vstore_n(to, 0, v, left)


def _sums(signed: bool):
    """Return ``(block, vector)``: sums over a window of BLOCK channels, or of up to LANES."""
    whole, part = _adder(signed, False), _adder(signed, True)

    @inline_njit
    def block(x, step_z, step_y, step_x, n_z, n_y, n_x):
        a = b = c = d = vi_splat(np.int32(0))
        for i in range(n_z):
            for j in range(n_y):
                at = x + i * step_z + j * step_y
                for _ in range(n_x):
                    a, b = whole(a, at, LANES), whole(b, at + LANES, LANES)
                    c, d = whole(c, at + 2 * LANES, LANES), whole(d, at + 3 * LANES, LANES)
                    at += step_x
        return a, b, c, d

    @inline_njit
    def vector(x, step_z, step_y, step_x, n_z, n_y, n_x, left):
        a = vi_splat(np.int32(0))
        for i in range(n_z):
            for j in range(n_y):
                at = x + i * step_z + j * step_y
                for _ in range(n_x):
                    a = part(a, at, left)
                    at += step_x
        return a

    return block, vector


def _pixel(signed: bool):
    """Return the function that writes ``wide`` channels of one output pixel."""
    block, vector = _sums(signed)

    @inline_njit
    def pixel(args, out, size, wide, by, x, step_z, step_y, step_x, n_z, n_y, n_x):
        lost, c = arg(args, ZERO) * n_z * n_y * n_x, 0
        while c + BLOCK <= wide:
            p, q, r, s = block(x + c, step_z, step_y, step_x, n_z, n_y, n_x)
            to = out + size * c
            _end(args, to, p, by, lost, LANES)
            _end(args, to + size * LANES, q, by, lost, LANES)
            _end(args, to + 2 * size * LANES, r, by, lost, LANES)
            _end(args, to + 3 * size * LANES, s, by, lost, LANES)
            c += BLOCK
        while c < wide:
            p = vector(x + c, step_z, step_y, step_x, n_z, n_y, n_x, wide - c)
            _end(args, out + size * c, p, by, lost, wide - c)
            c += LANES

    return pixel


def _make(signed: bool) -> Kernel:
    pixel = _pixel(signed)

    @inline_njit
    def line(args, image, z, y, c, wide):
        z0, n_z, depth = floats.window(args, 0, z)
        y0, n_y, height = floats.window(args, 1, y)
        step_z, step_y = arg(args, floats.X_Z), arg(args, floats.X_Y)
        step_x = arg(args, floats.X_X)
        x = arg(args, floats.X) + image * arg(args, floats.X_B) + z0 * step_z + y0 * step_y + c
        size = 1 if arg(args, CODED) != 0 else 4
        at = image * arg(args, floats.OUT_B) + z * arg(args, floats.OUT_Z)
        out = arg(args, floats.OUT) + size * (at + y * arg(args, floats.OUT_Y) + c)
        divisor, include = arg(args, floats.DIVISOR), arg(args, floats.INCLUDE_PAD)
        for i in range(arg(args, floats.OUT_W)):
            x0, n_x, width = floats.window(args, 2, i)
            count = divisor if divisor != 0 else n_z * n_y * n_x
            if divisor == 0 and include != 0:
                count = depth * height * width
            by = np.float32(argf(args, SCALE) / count)
            to = out + size * i * arg(args, floats.OUT_X)
            pixel(args, to, size, wide, by, x + x0 * step_x, step_z, step_y, step_x, n_z, n_y, n_x)

    def body(args, tid, nt, cuts):
        channels, depth = arg(args, floats.CHANNELS), arg(args, floats.OUT_D)
        height = arg(args, floats.OUT_H)
        lines = arg(args, floats.BATCH) * depth * height
        wide = channels if nt == 1 or lines >= 4 * nt else BLOCK
        blocks = (channels + wide - 1) // wide
        jobs = lines * blocks
        for job in range(*share(jobs, tid, nt, cuts)):
            at, c = job // blocks, job % blocks * wide
            plane, y = at // height, at % height
            line(args, plane // depth, plane % depth, y, c, min(wide, channels - c))

    return make_kernel(body, "int8_mean", ("i8" if signed else "u8",))


int8_mean = {"u8": _make(False), "i8": _make(True)}
