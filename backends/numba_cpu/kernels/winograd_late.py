"""numba_cpu > kernels > winograd_late: products of :mod:`winograd` with weights as they are.

Transformed once for all calls, the weights of F(4x4, 3x3) are four times the bytes, with stride 2
2.8 times, of F(4, 3) along one axis twice, and a layer of few tiles waits for them. Here they stay
as they are, and each call transforms them. Of few tiles that is done in the registers of the
products (:mod:`winograd_late_few`): storing what is made would take longer than making it anew. For
more tiles, and with stride 2, the planes of one line are made of some channels of a panel
(:func:`make_line`), stored in a near cache, and multiplied by :mod:`winograd_product` as if they
had been made before; sums of some channels, and of the phases, are added up in M.

The points of :mod:`winograd_points` are small powers of two for 3x3. The denominators of ``G`` are
left out until the end of a row, so that it takes few roundings. Weights are ``f32[columns of wide
vectors, channels, *taps, wide, LANES]`` (:func:`winograd_plan.pack_late`), of whole vectors of
channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.base import inline_njit
from leptonc.backends.numba_cpu.kernels.ir_loops import case_of
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL, ROWS, VECTORS
from leptonc.backends.numba_cpu.kernels.part import Part, part
from leptonc.backends.numba_cpu.kernels.vec import arg
from leptonc.backends.numba_cpu.kernels.vectype import I64, LANES
from leptonc.backends.numba_cpu.kernels.winograd_calls import call_of, name_of
from leptonc.backends.numba_cpu.kernels.winograd_late_few import (
    FEW_BLOCK,
    MOST_FEW,
    TALL,
    TALL_BLOCK,
    half_bytes,
    half_lines,
    products,
    taps_of,
)
from leptonc.backends.numba_cpu.kernels.winograd_late_tile import (
    APART,
    VECTOR,
    emit_line,
    line_of,
    slots_of,
)
from leptonc.backends.numba_cpu.kernels.winograd_points import ONE, Axis, Form
from leptonc.backends.numba_cpu.kernels.winograd_product import UNROLL, multiply_tile
from leptonc.backends.numba_cpu.kernels.winograd_quads import FEW
from leptonc.backends.numba_cpu.kernels.winograd_slots import (
    BLOCK,
    CHANNELS,
    LINE,
    N_X,
    N_Y,
    STRIDE,
    WEIGHTS,
)

#: Vectors of channels that are taken at a time: by up to SOME tiles, whose planes of a line the
#: first-level cache holds; by more, which add up seldom and wait less for the second-level one.
_SOME_BLOCK, _MANY_BLOCK = 1, 8
SOME = 20


@dataclass(frozen=True)
class Late:
    """What multiplies with weights as they are.

    ``wide``: vectors of columns side by side in the weights. ``block``: vectors of channels at a
    time. ``line``: makes the planes of a line. In its place few tiles have ``products``, of groups
    of ``height``, and ``low`` of FEW, if less are left; ``half`` makes what the former need.
    """

    wide: int
    block: int
    line: Part | None = None
    products: Part | None = None
    low: Part | None = None
    half: Part | None = None

    @property
    def parts(self) -> tuple[Part, ...]:
        """Those that it runs."""
        found = (self.line, self.products, self.low, self.half)
        return tuple(dict.fromkeys(p for p in found if p is not None))

    @property
    def height(self) -> int:
        """The tiles of a group of few."""
        return FEW if self.half is None else TALL

    def made_bytes(self, form: Form) -> int:
        """Return the bytes of what is made of a block of channels at a time, whole vectors."""
        if self.line is not None:
            return len(slots_of(form, 0)) * 4 * (self.block * LANES * PANEL + APART)
        return 0 if self.half is None else half_bytes(form, self.block)

    def slots(self) -> dict[str, Part | int]:
        """Return what the record says of it."""
        names = ("line", "products", "low", "half")
        return {**{n: getattr(self, n) or 0 for n in names}, "block": self.block}


#: What the record says where weights are transformed before.
EARLY: Mapping[str, Part | int] = {"line": 0, "products": 0, "low": 0, "half": 0, "block": 0}
_LINE = [I64] * 4


def _few(form: Form) -> tuple[Late, ...]:
    """Return what few tiles are multiplied by, and more of them if there are such products."""
    few = products(form, FEW, of_taps=True)
    found = (Late(1, FEW_BLOCK, products=few, low=few),)
    if MOST_FEW == FEW:
        return found
    low, tall = (products(form, height, of_taps=False) for height in (FEW, TALL))
    return *found, Late(1, TALL_BLOCK, products=tall, low=low, half=half_lines(form))


def _many(form: Form) -> Late:
    """Return what makes the planes of a line for more tiles."""

    @part(name_of(form, "late_line"), _LINE)
    def line(b: ir.IRBuilder, i, raw, to, channels):
        def one(k: int) -> None:
            phases = range(form.y.shares(k))
            lines = [line_of(form, b, k, raw, VECTORS, phase) for phase in phases]
            emit_line(form, k, b, lines, to, channels)

        case_of(b, i, range(form.y.n), one)

    return Late(VECTORS, _MANY_BLOCK, line)


#: F(2x2) has fewer planes than tiles to spread their transform over: kept, it is faster.
LATE: Mapping[Form, tuple[Late, ...]] = {
    Form.square(3, 4): (*_few(Form.square(3, 4)), _many(Form.square(3, 4))),
    Form.square(3, 2, 2): (_many(Form.square(3, 2, 2)),),
    Form(ONE, Axis(3, 4)): (_many(Form(ONE, Axis(3, 4))),),
    Form(Axis(3, 4), ONE): (_many(Form(Axis(3, 4), ONE)),),
}
"""For each form that may be late: the products of few tiles, if it has them, and last what more are
multiplied by."""


def late_of(form: Form, tiles: int) -> Late:
    """Return what is late for so many tiles over the batch."""
    *few, many = LATE[form]
    if few and tiles <= MOST_FEW:
        return few[0] if tiles <= FEW else few[-1]
    return replace(many, block=_SOME_BLOCK) if tiles <= SOME else many


_CALL_LINE = call_of(_LINE)


@intrinsic
def make_line(typingctx, code, i, raw, to, channels):
    """Write the planes of line ``i`` of a panel of weights.

    ``code``: the address of the form's part. ``raw``: address of ``f32[channels, *taps, PANEL]``.
    ``to``: address of ``f32[n_x of each phase, channels, PANEL]``, each followed by APART floats.
    ``channels``: at least 1.
    """
    return types.void(*(types.int64,) * 5), _CALL_LINE


@inline_njit
def multiply_lines(args, groups, rows, count, v, v_plane, v_group, m_base, m_group, planes,
                   panel0, panels):  # fmt: skip
    """Multiply every plane of V with ``panels`` panels, made line by line at ``planes``, into M.

    Meanwhile the weights of the next panel are asked for, a share with each product.
    """
    n_y, n_x, stride = arg(args, N_Y), arg(args, N_X), arg(args, STRIDE)
    channels = arg(args, CHANNELS) // LANES  # vectors of them
    # Of a vector of channels: weights, V of a plane; of M: from vector to vector of columns.
    size, step = LANES * 4 * PANEL * taps_of(args), ROWS * VECTOR
    column, block = n_y * n_x * ROWS * VECTOR, arg(args, BLOCK)
    products = (stride * (n_y - 1) + 1) * (stride * (n_x - 1) + 1)  # of all planes and phases
    raw = arg(args, WEIGHTS) + panel0 * channels * size
    for p in range(panels):
        for k in range(0, channels, block):
            vectors = min(block, channels - k)
            ahead = raw + vectors * size  # of the next block, or of the next panel
            share = vectors * size // (products * groups)
            apart, made = 4 * (vectors * LANES * PANEL + APART), planes
            steps = vectors * (LANES // UNROLL)
            for plane in range(n_y * n_x):
                i, j = plane // n_x, plane % n_x
                if j == 0:
                    make_line(arg(args, LINE), i, raw, planes, vectors * LANES)
                    made = planes
                phases = (stride if i < n_y - 1 else 1) * (stride if j < n_x - 1 else 1)
                out = m_base + VECTORS * p * column + plane * step
                for phase in range(phases):
                    for g in range(groups):
                        multiply_tile(
                            min(rows, count - g * rows),
                            v + g * v_group + plane * v_plane + (phase * channels + k) * step,
                            made, out + g * m_group, column, steps, ahead, share // steps,
                            k + phase, 0,
                        )  # fmt: skip
                        ahead += share
                    made += apart
            raw += vectors * size
