"""numba_cpu > kernels > sparse: rows times a matrix most of whose elements are zero.

Every output has a list of the inputs that it reads, and their weights. A block of ROWS rows is
turned over first, so that a vector holds one input of LANES rows: an element of the matrix is then
one broadcast and a multiply-add for each vector of rows, nearly as fast as in a dense product, and
zeros cost nothing. (The order of Elsen et al. 2020, Fast Sparse ConvNets, arXiv 1911.09723.) The
sums of even and of odd elements of a list are kept apart, to hide the latency.

Zeros that are left out do not meet the row: an infinity or a NaN in it gives no NaN where the
weight is zero. Hence not with ``precision="strict"``.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.activation import Act, clamp_of, vact
from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.igemm_record import Res
from leptonc.backends.numba_cpu.kernels.pack import transpose_block
from leptonc.backends.numba_cpu.kernels.shares import share
from leptonc.backends.numba_cpu.kernels.vec import (
    LANES,
    arg,
    argf,
    ldf,
    ldi64,
    stf,
    vload_n,
    vmax,
    vmin,
    vsplat,
    vstore_n,
)
from leptonc.backends.numba_cpu.kernels.vectype import (
    F32,
    I64,
    VF,
    fconst,
    fma,
    i64,
    pointer,
    shared_function,
    splat,
)

VECTORS = 4
ROWS = VECTORS * LANES  # of a block


@dataclass(frozen=True)
class Sparse:
    """One call of :data:`sparse`; the fields are the slots of its record, in this order.

    Attributes:
        rows, depth, columns: extents. x: address of ``f32[rows]``, ``x_row``: floats from row to
            row. starts: address of ``i64[columns + 1]``, places in the lists; inputs: of ``i64``,
            weights: of ``f32``. bias: address of ``f32[columns]`` or 0. out, out_row: the result.
        res, res_row: the residual or 0; res_mode: a ``Res``. act, act_p0, act_p1: an ``Act``.
        scratch, scratch_bytes: see :func:`scratch_bytes`.
    """

    rows: int
    depth: int
    columns: int
    x: int
    x_row: int
    starts: int
    inputs: int
    weights: int
    bias: int
    out: int
    out_row: int
    res: int
    res_row: int
    res_mode: int
    act: int
    act_p0: float
    act_p1: float
    scratch: int
    scratch_bytes: int


REALS = ("act_p0", "act_p1")
(
    N_ROWS, DEPTH, COLUMNS, X, X_ROW, STARTS, INPUTS, WEIGHTS, BIAS, OUT, OUT_ROW, RES, RES_ROW,
    RES_MODE, ACT, ACT_P0, ACT_P1, SCRATCH, SCRATCH_BYTES,
) = range(len(fields(Sparse)))  # fmt: skip

_NONE = int(Act.NONE)
_BEFORE, _TIMES = int(Res.BEFORE), int(Res.TIMES)


def scratch_bytes(depth: int) -> int:
    """Return the bytes of scratch a thread needs: a block turned over, and LANES columns of it."""
    return 4 * ROWS * (depth + LANES)


def lists(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return starts, inputs and weights of the elements of ``weight: [n,k]`` that are not zero."""
    columns, inputs = np.nonzero(weight)
    starts = np.zeros(len(weight) + 1, np.int64)
    np.cumsum(np.bincount(columns, minlength=len(weight)), out=starts[1:])
    return starts, inputs.astype(np.int64), weight[columns, inputs].astype(np.float32)


def _write(vectors: int, b: ir.IRBuilder, *args: ir.Value) -> None:
    """Write the sums of one output for ``vectors`` vectors of rows."""
    begin, end, inputs, weights, block, start, out = args
    first = [splat(b, start)] * vectors + [fconst(0.0)] * vectors

    def element(p: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
        k = b.load(pointer(b, inputs, p, 8), align=8, typ=I64)
        w = splat(b, b.load(pointer(b, weights, p), align=4, typ=F32))
        row = b.mul(k, i64(ROWS))
        new = []
        for v, total in enumerate(sums):
            x = b.load(pointer(b, block, b.add(row, i64(v * LANES))), align=4, typ=VF)
            new.append(fma(b, w, x, total))
        return new

    def loop(name, start, stop, step, sums, body):
        before = b.block
        run, done = b.append_basic_block(name), b.append_basic_block(f"{name}_end")
        last = b.sub(stop, i64(step))
        b.cbranch(b.icmp_signed("<=", start, last), run, done)
        b.position_at_end(run)
        p, phis = b.phi(I64), [b.phi(VF) for _ in sums]
        new, after = body(p, phis), b.add(p, i64(step))
        for phi, first, later in zip([p, *phis], [start, *sums], [after, *new], strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(later, run)
        b.cbranch(b.icmp_signed("<=", after, last), run, done)
        b.position_at_end(done)
        merged = []
        for old, value in zip([start, *sums], [after, *new], strict=True):
            phi = b.phi(old.type)
            phi.add_incoming(old, before)
            phi.add_incoming(value, run)
            merged.append(phi)
        return merged[0], merged[1:]

    def pair(p, sums):
        return [*element(p, sums[:vectors]), *element(b.add(p, i64(1)), sums[vectors:])]

    at, sums = loop("pairs", begin, end, 2, first, pair)
    _, one = loop("last", at, end, 1, sums[:vectors], element)
    for v, (x, y) in enumerate(zip(one, sums[vectors:], strict=True)):
        b.store(b.fadd(x, y), pointer(b, out, i64(v * LANES)), align=4)


def _dispatch(b: ir.IRBuilder, vectors: ir.Value, *args: ir.Value) -> None:
    """Call the function of so many vectors, one of 1 .. VECTORS."""
    end = b.append_basic_block("end")
    switch = b.switch(vectors, end)
    for n in range(1, VECTORS + 1):
        case = b.append_basic_block(f"v{n}")
        switch.add_case(i64(n), case)
        b.position_at_end(case)
        params = [I64] * 5 + [F32, I64]
        body = functools.partial(_write, n)
        b.call(shared_function(b.module, f"lep_sparse_{n}", ir.VoidType(), params, body), args)
        b.branch(end)
    b.position_at_end(end)


@intrinsic
def _column(typingctx, vectors, begin, end, inputs, weights, block, start, out):
    """Write the sums of one output, from ``start`` on, for ``vectors`` vectors of rows."""

    def build(context, builder, sig, args):
        params = [I64] * 6 + [F32, I64]
        fn = shared_function(builder.module, "lep_sparse", ir.VoidType(), params, _dispatch)
        builder.call(fn, args)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 6, types.float32, types.int64), build


@inline_njit(forceinline=True)
def _turn(source, step, rows, columns, target, to_step):
    """Write ``target[c * to_step + r] = source[r * step + c]``."""
    whole_rows, whole = rows - rows % LANES, columns - columns % LANES
    one = vsplat(np.float32(1.0))
    for r in range(0, whole_rows, LANES):
        for c in range(0, whole, LANES):
            transpose_block(source + 4 * (r * step + c), step, target + 4 * (c * to_step + r),
                            to_step, one)  # fmt: skip
        for c in range(whole, columns):
            for i in range(r, r + LANES):
                stf(target, c * to_step + i, ldf(source, i * step + c))
    for r in range(whole_rows, rows):
        for c in range(columns):
            stf(target, c * to_step + r, ldf(source, r * step + c))


@inline_njit
def _finish(args, row0, rows, column, left):
    """Apply residual and activation to LANES columns of some rows, which are near."""
    act, mode, res = arg(args, ACT), arg(args, RES_MODE), arg(args, RES)
    if act == _NONE and res == 0:
        return
    p0, p1 = np.float32(argf(args, ACT_P0)), np.float32(argf(args, ACT_P1))
    low, high, plain = clamp_of(act, p0, p1)
    for i in range(row0, row0 + rows):
        out = arg(args, OUT) + 4 * (i * arg(args, OUT_ROW) + column)
        v = vload_n(out, 0, left)
        r = vsplat(np.float32(0.0))
        if res != 0:
            r = vload_n(res + 4 * (i * arg(args, RES_ROW) + column), 0, left)
            if mode == _BEFORE:
                v = v + r
        v = vmin(vmax(v, vsplat(low)), vsplat(high)) if plain else vact(act, v, p0, p1)
        if res != 0 and mode != _BEFORE:
            v = v * r if mode == _TIMES else v + r
        vstore_n(out, 0, v, left)


@kernel
def sparse(args, tid, nt, cuts):
    """Compute this thread's blocks of rows, or of columns where the rows are few."""
    rows, depth, columns = arg(args, N_ROWS), arg(args, DEPTH), arg(args, COLUMNS)
    blocks, stripes = (rows + ROWS - 1) // ROWS, (columns + LANES - 1) // LANES
    b0, b1, s0, s1 = 0, blocks, 0, stripes
    if blocks >= nt:
        b0, b1 = share(blocks, tid, nt, cuts)
    else:
        s0, s1 = share(stripes, tid, nt, cuts)
    block = arg(args, SCRATCH) + tid * arg(args, SCRATCH_BYTES)
    made = block + 4 * ROWS * depth
    starts, bias = arg(args, STARTS), arg(args, BIAS)
    if s1 <= s0:
        return
    for j in range(b0, b1):
        row0 = j * ROWS
        some = min(ROWS, rows - row0)
        x = arg(args, X) + 4 * row0 * arg(args, X_ROW)
        _turn(x, arg(args, X_ROW), some, depth, block, ROWS)
        vectors = (some + LANES - 1) // LANES
        for s in range(s0, s1):
            column = s * LANES
            left = min(LANES, columns - column)
            for c in range(left):
                start = ldf(bias, column + c) if bias != 0 else np.float32(0.0)
                _column(vectors, ldi64(starts, column + c), ldi64(starts, column + c + 1),
                        arg(args, INPUTS), arg(args, WEIGHTS), block, start,
                        made + 4 * c * ROWS)  # fmt: skip
            out = arg(args, OUT) + 4 * (row0 * arg(args, OUT_ROW) + column)
            _turn(made, ROWS, left, some, out, arg(args, OUT_ROW))
            _finish(args, row0, some, column, left)
