"""numba_cpu > kernels > code_rows: rows of codes times a matrix of 4 or 8 bit codes, few rows.

The product of a decoder's step: all of the matrix is read once, so its bytes are what counts. It
lies in panels of LANES outputs, ``[panels][groups][steps][LANES]`` cells of 4 bytes. A step is four
inputs of 8 bits, or eight of 4 bits: the low nibbles hold the first four. Up to ROWS rows share
what was read. Sums of a group are exact int32; then ``sum * scale`` is added in the order of the
groups, each rounded, as ``int_linear`` says; then the row's scale and the bias.

One factor of a sum of four products must be unsigned (:mod:`int8_dot`). Codes of 4 bits are stored
8 higher, what is too much is 8 times the row's sum over the group; of 8 bits, rows are moved by
128, and a correction for each output and group is stored.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.activation import vact
from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.int8_dot import DOT, FORMS, MOST_DEPTH, PROVEN
from leptonc.backends.numba_cpu.kernels.ir_loops import counted
from leptonc.backends.numba_cpu.kernels.pack import aligned_empty
from leptonc.backends.numba_cpu.kernels.shares import share
from leptonc.backends.numba_cpu.kernels.vec import (
    LANES,
    arg,
    argf,
    ldf,
    ldi8,
    sti32,
    vload_n,
    vsplat,
    vstore_n,
)
from leptonc.backends.numba_cpu.kernels.vectype import (
    I32,
    I64,
    PTR,
    VF,
    VI,
    fconst,
    first_lanes,
    i64,
    iconst,
    masked_store,
    pointer,
    prefetch,
    shared_function,
    splat,
)

HEIGHTS = (8, 4, 2, 1)  # rows that share what was read of the matrix
ROWS = HEIGHTS[0]
INPUTS = {4: 8, 8: 4}  # of a step, by bits
OFFSET = {4: 8, 8: 128}  # what makes codes unsigned: of the matrix, of the rows
AHEAD = 8192  # bytes of the matrix asked for ahead, two pages: the processor's own ends with one


@dataclass(frozen=True)
class CodeRows:
    """One call of :data:`code_rows`; the fields are the slots of its record, in this order.

    Attributes:
        rows, columns: of the result. depth: inputs. bits: 4 or 8, of the matrix. groups: of depth.
        x: address of ``i8[rows][depth]``, ``x_row``: bytes from row to row.
        w: address of the panels. scale: address of ``f32[panels][groups][LANES]``.
        excess: address of ``i32[panels][groups][LANES]``, ``128 * sum of weights`` (8 bits), or 0.
        row_scale: address of ``f32[rows]``, or 0. bias: address of ``f32[columns]`` or 0.
        out: address of ``f32``, ``out_row``: elements from row to row.
        act, act_p0, act_p1: an ``Act`` and its parameters.
        scratch, scratch_bytes: see :func:`scratch_bytes`.
    """

    rows: int
    columns: int
    depth: int
    bits: int
    groups: int
    x: int
    x_row: int
    w: int
    scale: int
    excess: int
    row_scale: int
    bias: int
    out: int
    out_row: int
    act: int
    act_p0: float
    act_p1: float
    scratch: int
    scratch_bytes: int


REALS = ("act_p0", "act_p1")
(
    N_ROWS, COLUMNS, DEPTH, BITS, GROUPS, X, X_ROW, W, SCALE, EXCESS, ROW_SCALE, BIAS, OUT, OUT_ROW,
    ACT, ACT_P0, ACT_P1, SCRATCH, SCRATCH_BYTES,
) = range(len(fields(CodeRows)))  # fmt: skip


def scratch_bytes(groups: int) -> int:
    """Return the bytes of scratch a thread needs: sums of a block of rows over each group."""
    return 4 * ROWS * groups


def fits(depth: int, groups: int, bits: int) -> bool:
    """Return whether the kernel takes such a matrix: whole steps in each group, sums in int32."""
    size = depth // max(groups, 1)
    return depth % max(groups, 1) == 0 and size % INPUTS[bits] == 0 and size <= MOST_DEPTH


def pack(codes: np.ndarray, groups: int, bits: int) -> np.ndarray:
    """Return the panels of ``codes: i8[n,k]`` as bytes; zeros behind the columns."""
    n, k = codes.shape
    panels, inputs = -(-n // LANES), INPUTS[bits]
    padded = np.zeros((panels * LANES, k), np.int8)
    padded[:n] = codes
    cells = padded.reshape(panels, LANES, groups, k // groups // inputs, inputs)
    cells = cells.transpose(0, 2, 3, 1, 4)
    if bits == 8:
        made = aligned_empty(cells.shape, np.int8)
        made[...] = cells
        return made
    unsigned = (cells + OFFSET[4]).astype(np.uint8)
    made = aligned_empty((*cells.shape[:-1], 4), np.uint8)
    made[...] = unsigned[..., :4] | (unsigned[..., 4:] << 4)
    return made


def pack_columns(values: np.ndarray) -> np.ndarray:
    """Return ``values: [n,groups]`` as ``[panels, groups, LANES]``, zeros behind the columns."""
    n, groups = values.shape
    panels = -(-n // LANES)
    made = aligned_empty((panels, groups, LANES), values.dtype.type)
    padded = np.zeros((panels * LANES, groups), values.dtype)
    padded[:n] = values
    made[...] = padded.reshape(panels, LANES, groups).transpose(0, 2, 1)
    return made


def excess(codes: np.ndarray, groups: int) -> np.ndarray:
    """Return ``i32[n,groups]``: what rows that were moved by 128 add to each sum."""
    sums = codes.reshape(len(codes), groups, -1).astype(np.int64).sum(2)
    return (sums * OFFSET[8]).astype(np.int32)


# ----- the tile -----------------------------------------------------------------------------------


class _Tile:
    """Writes the function of ``rows`` rows for matrices of ``bits`` bits."""

    def __init__(self, b: ir.IRBuilder, rows: int, bits: int, args: tuple[ir.Value, ...]) -> None:
        self.b, self.rows, self.bits = b, rows, bits
        (self.x, self.x_row, self.w, self.scale, self.excess, self.groups, self.steps, self.sums,
         self.sum_row, self.out, self.out_row, self.left) = args  # fmt: skip
        self.starts = [b.add(self.x, b.mul(self.x_row, i64(i))) for i in range(rows)]

    def write(self) -> None:
        """Write the loops over groups and steps, and the stores."""
        b = self.b
        start = [b.inttoptr(self.w, PTR), i64(0), *[fconst(0.0)] * self.rows]
        results = counted(self.b, self.groups, start, self.group)
        mask = first_lanes(b, self.left)
        for i, value in enumerate(results[2:]):
            to = b.add(self.out, b.mul(self.out_row, i64(4 * i)))
            masked_store(b, value, pointer(b, to), mask)

    def group(self, g: ir.Value, values: list[ir.Value]) -> list[ir.Value]:
        """Add one group; ``values``: panel, first byte of the rows, results."""
        b = self.b
        panel, at, *results = values
        zeros = [iconst(0)] * self.rows
        panel, at, *sums = counted(self.b, self.steps, [panel, at, *zeros], self.step)
        place = b.mul(g, i64(LANES))
        scale = b.load(pointer(b, self.scale, place), align=4, typ=VF)
        more = None
        if self.bits == 8:
            more = b.load(pointer(b, self.excess, place), align=4, typ=VI)
        new = []
        for i, (total, result) in enumerate(zip(sums, results, strict=True)):
            if more is None:
                row = b.add(self.sums, b.mul(self.sum_row, i64(i)))
                of_row = splat(b, b.load(pointer(b, row, g), align=4, typ=I32), VI)
            exact = b.sub(total, of_row if more is None else more)
            new.append(b.fadd(result, b.fmul(b.sitofp(exact, VF), scale)))
        return [panel, at, *new]

    def step(self, _: ir.Value, values: list[ir.Value]) -> list[ir.Value]:
        """Add one step; ``values``: panel, byte of the rows, sums."""
        b = self.b
        panel, at, *sums = values
        cells = b.load(panel, align=4, typ=VI)
        prefetch(b, b.gep(panel, [i64(AHEAD)], source_etype=ir.IntType(8)))
        parts = [cells]
        if self.bits == 4:
            low = iconst(0x0F0F0F0F)
            parts = [b.and_(cells, low), b.and_(b.lshr(cells, iconst(4)), low)]
        for k, part in enumerate(parts):
            for i in range(self.rows):
                place = pointer(b, b.add(self.starts[i], at), i64(4 * k), 1)
                four = b.load(place, align=1, typ=I32)
                if self.bits == 4:  # a pair is at most 2 * 15 * 128, far inside int16
                    sums[i] = FORMS[PROVEN](b, sums[i], part, splat(b, four, VI))
                else:
                    moved = b.xor(four, ir.Constant(I32, -0x7F7F7F80))
                    sums[i] = FORMS[DOT](b, sums[i], splat(b, moved, VI), part)
        panel = b.gep(panel, [i64(4 * LANES)], source_etype=ir.IntType(8))
        return [panel, b.add(at, i64(INPUTS[self.bits])), *sums]


def _body(rows: int, bits: int, b: ir.IRBuilder, *args: ir.Value) -> None:
    _Tile(b, rows, bits, args).write()


def _dispatch(b: ir.IRBuilder, count: ir.Value, bits: ir.Value, *args: ir.Value) -> None:
    """Call the function of exactly ``count`` rows, one of HEIGHTS."""
    end = b.append_basic_block("end")
    for width in (4, 8):
        for height in HEIGHTS:
            here, other = (b.function.append_basic_block(n) for n in ("here", "other"))
            fits = b.and_(b.icmp_signed("==", count, i64(height)),
                          b.icmp_signed("==", bits, i64(width)))  # fmt: skip
            b.cbranch(fits, here, other)
            b.position_at_end(here)
            body, name = functools.partial(_body, height, width), f"lep_codes_{width}x{height}"
            b.call(shared_function(b.module, name, ir.VoidType(), [I64] * 12, body), args)
            b.branch(end)
            b.position_at_end(other)
    b.branch(end)
    b.position_at_end(end)


@intrinsic
def _run(typingctx, count, bits, x, x_row, w, scale, excess, groups, steps, sums, sum_row, out,
         out_row, left):  # fmt: skip
    """Compute LANES columns of ``count`` rows, one of HEIGHTS; all int64, see ``_Tile``."""

    def build(context, builder, sig, args):
        params = [I64] * 14
        fn = shared_function(builder.module, "lep_codes", ir.VoidType(), params, _dispatch)
        builder.call(fn, args)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 14), build


# ----- the kernel ---------------------------------------------------------------------------------


@inline_njit
def _row_sums(args, sums, first, count):
    """Write 8 times the sum of each row's codes over each group."""
    groups = arg(args, GROUPS)
    size = arg(args, DEPTH) // groups
    for i in range(count):
        row = arg(args, X) + (first + i) * arg(args, X_ROW)
        for g in range(groups):
            total = 0
            for k in range(size):
                total += ldi8(row, g * size + k)
            sti32(sums, i * groups + g, np.int32(8 * total))


@inline_njit
def _finish(args, first, count, column, left):
    """Apply the rows' scales, the bias and the activation to LANES columns."""
    row_scale, bias, act = arg(args, ROW_SCALE), arg(args, BIAS), arg(args, ACT)
    if row_scale == 0 and bias == 0 and act == 0:
        return
    p0, p1 = np.float32(argf(args, ACT_P0)), np.float32(argf(args, ACT_P1))
    for i in range(first, first + count):
        out = arg(args, OUT) + 4 * (i * arg(args, OUT_ROW) + column)
        v = vload_n(out, 0, left)
        if row_scale != 0:
            v = v * vsplat(ldf(row_scale, i))
        if bias != 0:
            v = v + vload_n(bias, column, left)
        vstore_n(out, 0, vact(act, v, p0, p1), left)


@inline_njit
def _height(left):
    """Return the rows of the next block."""
    height = 1
    for h in HEIGHTS:
        if h <= left:
            height = max(height, h)
    return height


@kernel
def code_rows(args, tid, nt, cuts):
    """Compute this thread's columns of the product that a :class:`CodeRows` record describes."""
    columns, groups, bits = arg(args, COLUMNS), arg(args, GROUPS), arg(args, BITS)
    panels = (columns + LANES - 1) // LANES
    begin, end = share(panels, tid, nt, cuts)
    inputs = 8 if bits == 4 else 4
    steps = arg(args, DEPTH) // groups // inputs
    sums = arg(args, SCRATCH) + tid * arg(args, SCRATCH_BYTES)
    i = 0
    while i < arg(args, N_ROWS):
        some = _height(arg(args, N_ROWS) - i)
        if bits == 4:
            _row_sums(args, sums, i, some)
        for p in range(begin, end):
            left, cells = columns - p * LANES, p * groups * LANES
            out = arg(args, OUT) + 4 * (i * arg(args, OUT_ROW) + p * LANES)
            _run(some, bits, arg(args, X) + i * arg(args, X_ROW), arg(args, X_ROW),
                 arg(args, W) + 4 * cells * steps, arg(args, SCALE) + 4 * cells,
                 arg(args, EXCESS) + 4 * cells, groups, steps, sums, 4 * groups, out,
                 arg(args, OUT_ROW), left)  # fmt: skip
            _finish(args, i, some, p * LANES, left)
        i += some
