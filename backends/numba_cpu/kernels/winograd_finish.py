"""numba_cpu > kernels > winograd_finish: the end of a tile that its transform cannot finish.

A tile that is cut off by the border of the image, a vector that is cut off, an activation that is
more than a clamp: such sums are transformed into memory, and finished from there, pixel by pixel,
by one part for all forms.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels import vecmath as vm
from leptonc.backends.numba_cpu.kernels.activation import activated
from leptonc.backends.numba_cpu.kernels.igemm_record import Res
from leptonc.backends.numba_cpu.kernels.ir_loops import Loop
from leptonc.backends.numba_cpu.kernels.part import part
from leptonc.backends.numba_cpu.kernels.vectype import (
    F32,
    I8,
    I64,
    LANES,
    PTR,
    first_lanes,
    i64,
    load_vec,
    masked_load,
    masked_store,
)

_PARAMS = [*[I64] * 11, F32, F32, *[I64] * 4]


@part("wino_finish", _PARAMS)
def FINISH(
    b: ir.IRBuilder, patch, side, rows, columns, pool, bias, res, res_y, res_x, mode, act, p0, p1,
    out, out_y, out_x, width,
) -> None:  # fmt: skip
    """Write the function: see :func:`finish_pixels`."""
    mask, pixel = first_lanes(b, width), i64(4 * LANES)
    shift = masked_load(b, b.inttoptr(bias, PTR), _only(b, mask, b.icmp_signed("!=", bias, i64(0))))
    residual = b.icmp_signed("!=", res, i64(0))
    added, line = _only(b, mask, residual), b.mul(side, pixel)

    def value(at: ir.Value) -> ir.Value:
        return b.fadd(load_vec(b, at), shift)

    def when_mode(wanted: Res, x: ir.Value, made: ir.Value) -> ir.Value:
        here = b.and_(residual, b.icmp_signed("==", mode, i64(int(wanted))))
        return b.select(here, made, x)

    def plain(at: ir.Value, res_at: ir.Value) -> ir.Value:
        r, x = masked_load(b, res_at, added), value(at)
        x = activated(b, act, when_mode(Res.BEFORE, x, b.fadd(x, r)), p0, p1)
        x = when_mode(Res.AFTER, x, b.fadd(x, r))
        return when_mode(Res.TIMES, x, b.fmul(x, r))

    def largest(at: ir.Value, _: ir.Value) -> ir.Value:
        places = [at, _on(b, at, pixel), _on(b, at, line), _on(b, at, b.add(line, pixel))]
        x, y, z, w = (activated(b, act, value(place), p0, p1) for place in places)
        return vm.maximum(b, vm.maximum(b, x, y), vm.maximum(b, z, w))

    whole, pooled, end = (b.append_basic_block(name) for name in ("whole", "pooled", "end"))
    b.cbranch(b.icmp_signed("==", pool, i64(2)), pooled, whole)
    for block, made in ((whole, plain), (pooled, largest)):
        b.position_at_end(block)
        steps = [(line, out_y, res_y), (pixel, out_x, res_x)]
        starts = [b.inttoptr(a, PTR) for a in (patch, out, res)]
        _pixels(b, (rows, columns), pool, steps, starts, mask, made)
        b.branch(end)
    b.position_at_end(end)


def _on(b: ir.IRBuilder, at: ir.Value, nbytes: ir.Value) -> ir.Value:
    return b.gep(at, [nbytes], source_etype=I8)


def _only(b: ir.IRBuilder, mask: ir.Value, condition: ir.Value) -> ir.Value:
    """Return the mask, or no lane."""
    return b.select(condition, mask, ir.Constant(mask.type, [0] * LANES))


def _pixels(
    b: ir.IRBuilder, counts, pool: ir.Value, steps, starts, mask, made: Callable[..., ir.Value]
) -> None:
    """Write each ``pool``-th pixel of ``counts`` lines and columns, all at least 1."""
    outer = Loop(b, "line", [i64(0), *starts])
    i, *lines = outer.values
    inner = Loop(b, "pixel", [i64(0), *lines])
    j, at, to, res_at = inner.values
    masked_store(b, made(at, res_at), to, mask)
    for loop, k, places, count, (patch, out, res) in (
        (inner, j, (at, to, res_at), counts[1], steps[1]),
        (outer, i, lines, counts[0], steps[0]),
    ):
        after = b.add(k, pool)
        moved = [_on(b, p, n) for p, n in zip(places, (b.mul(patch, pool), out, res), strict=True)]
        loop.close(b.icmp_signed("<", after, count), [after, *moved])


@intrinsic
def finish_pixels(
    typingctx, patch, side, rows, columns, pool, bias, res, res_y, res_x, mode, act, p0, p1, out,
    out_y, out_x, width,
):  # fmt: skip
    """Write ``width`` channels, at most LANES, of the pixels of a tile: bias, residual, activation.

    ``patch``: address of ``f32[.., side, LANES]``, of which ``rows`` lines of ``columns`` pixels
    exist. ``pool``: 1, or 2 where the largest of each two by two is written. ``bias``, ``res``:
    addresses, or 0; ``res_y``, ``res_x``: bytes from line to line and pixel to pixel; ``mode``: a
    ``Res``. ``act``, ``p0``, ``p1``: an ``Act`` and its parameters. ``out``, ``out_y``, ``out_x``:
    address and steps of what is written.
    """
    numbers = (types.int64,) * 11
    sig = types.void(*numbers, types.float32, types.float32, *(types.int64,) * 4)
    return sig, FINISH.code
