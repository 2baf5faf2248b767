"""numba_cpu > kernels > int8_pool: the largest code of each window, on channels-last images.

The record is that of :mod:`pool`; ``mean`` and what belongs to it is not read. Whole registers of
channels go over a window, then LANES at a time. A window without elements gives the smallest code.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, models, register_model

from leptonc.backends.numba_cpu.kernels import pool as floats
from leptonc.backends.numba_cpu.kernels.base import Kernel, inline_njit, make_kernel
from leptonc.backends.numba_cpu.kernels.int8_tile import load_bytes, store_bytes
from leptonc.backends.numba_cpu.kernels.vec import LANES, arg
from leptonc.backends.numba_cpu.kernels.vectype import I8, first_lanes, pointer

_SMALLEST = {False: 0, True: -128}
WIDE = 4 * LANES  # codes of a whole register


class VecCodes(types.Type):
    """``<width x i8>``: codes of one register or of a part of it."""

    def __init__(self, width: int) -> None:
        super().__init__(name=f"vec{width}i8")
        self.llvm = ir.VectorType(I8, width)


_TYPES = {width: VecCodes(width) for width in (WIDE, LANES)}


@register_model(VecCodes)
class _Model(models.PrimitiveModel):
    def __init__(self, dmm, fe_type) -> None:
        super().__init__(dmm, fe_type, fe_type.llvm)


def _vectors(signed: bool, width: int):
    """Return ``first() -> vector``, ``larger(vector, address, left)``, ``store(address, v, left)``.

    A vector of LANES codes may hold fewer, ``left``; a whole register is always full.
    """
    made, kind = _TYPES[width], _TYPES[width].llvm
    masked = width == LANES

    @intrinsic
    def first(typingctx):
        def build(context, b, sig, args):
            return ir.Constant(kind, [_SMALLEST[signed]] * width)

        return made(), build

    @intrinsic
    def larger(typingctx, best, address, left):
        def build(context, b, sig, args):
            best, address, left = args
            place = pointer(b, address)
            if masked:
                x = load_bytes(b, place, first_lanes(b, left))
            else:
                x = b.load(place, align=1, typ=kind)
            more = (b.icmp_signed if signed else b.icmp_unsigned)(">", x, best)
            return b.select(more, x, best)

        return made(made, types.int64, types.int64), build

    @intrinsic
    def store(typingctx, address, best, left):
        def build(context, b, sig, args):
            address, best, left = args
            if masked:
                store_bytes(b, best, pointer(b, address), first_lanes(b, left))
            else:
                b.store(best, pointer(b, address), align=1)
            return context.get_dummy_value()

        return types.void(types.int64, made, types.int64), build

    return first, larger, store


@inline_njit
def _existing(args, axis, start):
    """Return the taps ``first .. last`` of a window from ``start`` that exist; axis z is 0."""
    size, kernel = arg(args, floats.IN_D + axis), arg(args, floats.KERNEL_Z + axis)
    dilation = arg(args, floats.DILATION_Z + axis)
    first = 0 if start >= 0 else (-start + dilation - 1) // dilation
    last = min(kernel, (size - 1 - start) // dilation + 1) if start < size else 0
    return first, max(first, last)


def _pixel(signed: bool, width: int):
    """Return the function that pools ``width`` channels of one output pixel."""
    first, larger, store = _vectors(signed, width)

    @inline_njit
    def pixel(args, image, z0, y0, x0, zs, ys, xs, to, left):
        d_z, d_y = arg(args, floats.DILATION_Z), arg(args, floats.DILATION_Y)
        step = arg(args, floats.DILATION_X) * arg(args, floats.X_X)
        best = first()
        for i in range(zs[0], zs[1]):
            plane = image + (z0 + i * d_z) * arg(args, floats.X_Z)
            for j in range(ys[0], ys[1]):
                at = plane + (y0 + j * d_y) * arg(args, floats.X_Y)
                at += x0 * arg(args, floats.X_X) + xs[0] * step
                for _ in range(xs[0], xs[1]):
                    best = larger(best, at, left)
                    at += step
        store(to, best, left)

    return pixel


def _make(signed: bool) -> Kernel:
    whole, part = _pixel(signed, WIDE), _pixel(signed, LANES)

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
            z0 = z * arg(args, floats.STRIDE_Z) - arg(args, floats.PAD_Z)
            y0 = y * arg(args, floats.STRIDE_Y) - arg(args, floats.PAD_Y)
            zs = _existing(args, 0, z0)
            ys = _existing(args, 1, y0)
            for x in range(arg(args, floats.OUT_W)):
                x0 = x * arg(args, floats.STRIDE_X) - arg(args, floats.PAD_X)
                xs = _existing(args, 2, x0)
                to, c = out + x * arg(args, floats.OUT_X), 0
                while c + WIDE <= channels:
                    whole(args, image + c, z0, y0, x0, zs, ys, xs, to + c, WIDE)
                    c += WIDE
                while c < channels:
                    part(args, image + c, z0, y0, x0, zs, ys, xs, to + c, channels - c)
                    c += LANES

    return make_kernel(body, "int8_pool", ("i8" if signed else "u8",))


int8_pool = {"u8": _make(False), "i8": _make(True)}
