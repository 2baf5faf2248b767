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
from leptonc.backends.numba_cpu.kernels.shares import share
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


REGISTERED = (_Model,)


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
def _existing(size, kernel, dilation, start):
    """Return the taps ``first .. last`` of a window from ``start`` that exist."""
    if start >= 0 and start + (kernel - 1) * dilation < size:
        return 0, kernel  # by far the most, without a division
    first = 0 if start >= 0 else (-start + dilation - 1) // dilation
    last = min(kernel, (size - 1 - start) // dilation + 1) if start < size else 0
    return first, max(first, last)


@inline_njit
def _of_axis(args, axis, start):
    """Return :func:`_existing` of an axis of the record; axis z is 0."""
    size, kernel = arg(args, floats.IN_D + axis), arg(args, floats.KERNEL_Z + axis)
    return _existing(size, kernel, arg(args, floats.DILATION_Z + axis), start)


def _pixel(signed: bool, width: int):
    """Return the function that pools ``width`` channels of one output pixel.

    Of it: the address of its first tap, how many taps there are along each axis, and the bytes from
    tap to tap.
    """
    first, larger, store = _vectors(signed, width)

    @inline_njit
    def pixel(at, counts, steps, to, left):
        best = first()
        for _ in range(counts[0]):
            line = at
            for _ in range(counts[1]):
                code = line
                for _ in range(counts[2]):
                    best = larger(best, code, left)
                    code += steps[2]
                line += steps[1]
            at += steps[0]
        store(to, best, left)

    return pixel


def _make(signed: bool) -> Kernel:
    whole, part = _pixel(signed, WIDE), _pixel(signed, LANES)

    def body(args, tid, nt, cuts):
        depth, height = arg(args, floats.OUT_D), arg(args, floats.OUT_H)
        lines = arg(args, floats.BATCH) * depth * height
        # Read once: for all the compiler knows, a store to the result changes the record.
        channels, out_w = arg(args, floats.CHANNELS), arg(args, floats.OUT_W)
        out_x, x_x = arg(args, floats.OUT_X), arg(args, floats.X_X)
        size, kernel = arg(args, floats.IN_W), arg(args, floats.KERNEL_X)
        dilation, stride = arg(args, floats.DILATION_X), arg(args, floats.STRIDE_X)
        pad = arg(args, floats.PAD_X)
        z_step = arg(args, floats.DILATION_Z) * arg(args, floats.X_Z)
        y_step = arg(args, floats.DILATION_Y) * arg(args, floats.X_Y)
        steps = (z_step, y_step, dilation * x_x)
        for line in range(*share(lines, tid, nt, cuts)):
            plane, y = line // height, line % height
            b, z = plane // depth, plane % depth
            image = arg(args, floats.X) + b * arg(args, floats.X_B)
            out = arg(args, floats.OUT) + b * arg(args, floats.OUT_B)
            out += z * arg(args, floats.OUT_Z) + y * arg(args, floats.OUT_Y)
            z0 = z * arg(args, floats.STRIDE_Z) - arg(args, floats.PAD_Z)
            y0 = y * arg(args, floats.STRIDE_Y) - arg(args, floats.PAD_Y)
            z_tap, z_end = _of_axis(args, 0, z0)
            y_tap, y_end = _of_axis(args, 1, y0)
            image += z0 * arg(args, floats.X_Z) + z_tap * z_step
            image += y0 * arg(args, floats.X_Y) + y_tap * y_step
            for x in range(out_w):
                x0 = x * stride - pad
                first, last = _existing(size, kernel, dilation, x0)
                counts = (z_end - z_tap, y_end - y_tap, last - first)
                at, to, c = image + x0 * x_x + first * steps[2], out + x * out_x, 0
                while c + WIDE <= channels:
                    whole(at + c, counts, steps, to + c, WIDE)
                    c += WIDE
                while c < channels:
                    part(at + c, counts, steps, to + c, channels - c)
                    c += LANES

    return make_kernel(body, "int8_pool", ("i8" if signed else "u8",))


int8_pool = {"u8": _make(False), "i8": _make(True)}
