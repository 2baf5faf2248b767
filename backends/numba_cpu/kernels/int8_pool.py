"""numba_cpu > kernels > int8_pool: the largest code of each window, on channels-last images.

The record is that of :mod:`pool`; ``mean`` and what belongs to it is not read. LANES channels at a
time are in one register. A window without elements gives the smallest code.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels import pool as floats
from leptonc.backends.numba_cpu.kernels.base import Kernel, inline_njit, make_kernel
from leptonc.backends.numba_cpu.kernels.int8_tile import V8, load_bytes, store_bytes
from leptonc.backends.numba_cpu.kernels.vec import LANES, arg, vi_splat
from leptonc.backends.numba_cpu.kernels.vectype import VI, first_lanes, pointer, vi32

_SMALLEST = {False: np.int32(0), True: np.int32(-128)}


def _largest(signed: bool):
    @intrinsic
    def largest(typingctx, best, address, left):
        """Return the larger of each lane and the code at ``address``; ``left``: codes there."""

        def build(context, b: ir.IRBuilder, sig, args):
            best, address, left = args
            mask = first_lanes(b, left)
            codes = load_bytes(b, pointer(b, address), mask)
            wide = b.sext(codes, VI) if signed else b.zext(codes, VI)
            return b.select(b.icmp_signed(">", wide, best), wide, best)

        return vi32(vi32, types.int64, types.int64), build

    return largest


@intrinsic
def _store(typingctx, address, best, left):
    """Store the first ``left`` lanes as codes."""

    def build(context, b, sig, args):
        address, best, left = args
        store_bytes(b, b.trunc(best, V8), pointer(b, address), first_lanes(b, left))
        return context.get_dummy_value()

    return types.void(types.int64, vi32, types.int64), build


@inline_njit
def _existing(start, size, kernel, dilation):
    """Return the taps ``first .. last`` of a window that exist."""
    first = 0 if start >= 0 else (-start + dilation - 1) // dilation
    last = min(kernel, (size - 1 - start) // dilation + 1) if start < size else 0
    return first, max(first, last)


def _make(signed: bool) -> Kernel:
    largest, least = _largest(signed), _SMALLEST[signed]

    @inline_njit
    def window(args, image, z, y, x, c, left):
        """Return the largest codes of one window."""
        z0 = z * arg(args, floats.STRIDE_Z) - arg(args, floats.PAD_Z)
        y0 = y * arg(args, floats.STRIDE_Y) - arg(args, floats.PAD_Y)
        x0 = x * arg(args, floats.STRIDE_X) - arg(args, floats.PAD_X)
        d_z, d_y = arg(args, floats.DILATION_Z), arg(args, floats.DILATION_Y)
        d_x = arg(args, floats.DILATION_X)
        z1, z2 = _existing(z0, arg(args, floats.IN_D), arg(args, floats.KERNEL_Z), d_z)
        y1, y2 = _existing(y0, arg(args, floats.IN_H), arg(args, floats.KERNEL_Y), d_y)
        x1, x2 = _existing(x0, arg(args, floats.IN_W), arg(args, floats.KERNEL_X), d_x)
        best = vi_splat(least)
        step = d_x * arg(args, floats.X_X)
        for i in range(z1, z2):
            plane = image + (z0 + i * d_z) * arg(args, floats.X_Z)
            for j in range(y1, y2):
                line = plane + (y0 + j * d_y) * arg(args, floats.X_Y)
                at = line + (x0 + x1 * d_x) * arg(args, floats.X_X) + c
                for _ in range(x1, x2):
                    best = largest(best, at, left)
                    at += step
        return best

    def body(args, tid, nt):
        depth, height = arg(args, floats.OUT_D), arg(args, floats.OUT_H)
        lines = arg(args, floats.BATCH) * depth * height
        channels = arg(args, floats.CHANNELS)
        for line in range(lines * tid // nt, lines * (tid + 1) // nt):
            plane, y = line // height, line % height
            b, z = plane // depth, plane % depth
            image = arg(args, floats.X) + b * arg(args, floats.X_B)
            out = arg(args, floats.OUT) + b * arg(args, floats.OUT_B)
            out += z * arg(args, floats.OUT_Z) + y * arg(args, floats.OUT_Y)
            for x in range(arg(args, floats.OUT_W)):
                for c in range(0, channels, LANES):
                    best = window(args, image, z, y, x, c, channels - c)
                    _store(out + x * arg(args, floats.OUT_X) + c, best, channels - c)

    return make_kernel(body, "int8_pool", ("i8" if signed else "u8",))


int8_pool = {"u8": _make(False), "i8": _make(True)}
