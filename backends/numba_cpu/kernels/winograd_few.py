"""numba_cpu > kernels > winograd_few: Winograd convolution of an image of up to four channels.

:mod:`winograd` gives every tile a vector of channels, of which few channels would leave most lanes
idle. Here the lanes are those of all tiles of a line of tiles: the image comes as lines padded with
zeros (:func:`pack.pad_image`), and of the six lines that a line of tiles reads (F(4x4, 3x3)) pixel
``j`` of every tile is copied to row ``j`` of a scratch, ``[tile][channel]``. The input transform
works on such rows as it does on channels. The products are sums of one to four terms: weights of a
plane stay in registers while tiles pass. The output transform is that of :mod:`winograd`.

The record is that of :mod:`winograd` (:mod:`winograd_slots`), ``x`` the padded lines: ``x_y``
floats each, ``in_h`` an image, zeros left of the image included; ``pad_x`` is not used.
"""

from __future__ import annotations

import functools

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.ir_loops import Loop
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL, ROWS, VECTORS
from leptonc.backends.numba_cpu.kernels.shares import share
from leptonc.backends.numba_cpu.kernels.vec import LANES, arg, ldi64, sti64, vload, vstore, vzero
from leptonc.backends.numba_cpu.kernels.vectype import (
    F32,
    I64,
    PTR,
    fma,
    i64,
    load_vec,
    shared_function,
    splat,
)
from leptonc.backends.numba_cpu.kernels.winograd_calls import transform_input
from leptonc.backends.numba_cpu.kernels.winograd_plan import Blocking
from leptonc.backends.numba_cpu.kernels.winograd_points import Form
from leptonc.backends.numba_cpu.kernels.winograd_slots import (
    BATCH,
    CHANNELS,
    COLUMNS,
    IN_H,
    M_X,
    M_Y,
    N_X,
    N_Y,
    OUT_H,
    OUT_W,
    PAD_Y,
    READ,
    SCRATCH,
    SCRATCH_BYTES,
    SIDE_X,
    SIDE_Y,
    WEIGHTS,
    X_Y,
    X,
)
from leptonc.backends.numba_cpu.kernels.winograd_tiles import write_line

MOST = 4  # channels
_GROUP = min(4, ROWS)  # tiles at a time: their products stay in the first-level cache
_BYTES = 4 * LANES
_PLANE = ROWS * _BYTES  # of M: bytes from plane to plane


def row_floats(across: int, channels: int) -> int:
    """Return the floats of a row of ``across`` tiles: whole vectors, one of them for surplus."""
    return -(-across * channels // LANES) * LANES + LANES


def blocking(form: Form, across: int, channels: int) -> Blocking:
    """Return what a thread takes at a time, and its scratch: a patch, rows of pixels, V and M."""
    pixels = form.y.side * form.x.side
    rows = 4 * row_floats(across, channels) * (pixels + form.planes)
    return Blocking(ROWS, 1, pixels * _BYTES + rows + VECTORS * form.planes * _PLANE)


def _products(
    channels: int, b: ir.IRBuilder, count, v, v_plane, w, w_plane, out, column, planes
) -> None:  # fmt: skip
    """Write the products of all planes with tiles of so many channels."""
    outer = Loop(b, "plane", [planes, *(b.inttoptr(x, PTR) for x in (v, w, out))])
    left, v, w, out = outer.values

    def weight(c: int, j: int) -> ir.Value:
        return load_vec(b, b.gep(w, [i64(c * PANEL + j * LANES)], source_etype=F32))

    weights = [[weight(c, j) for j in range(VECTORS)] for c in range(channels)]
    inner = Loop(b, "tile", [count, v, out])
    tiles, x, to = inner.values
    sums: list[ir.Value] = []
    for c, line in enumerate(weights):
        one = splat(b, b.load(b.gep(x, [i64(c)], source_etype=F32), align=4, typ=F32))
        sums = [
            b.fmul(one, line[j]) if c == 0 else fma(b, one, line[j], sums[j])
            for j in range(VECTORS)
        ]
    for j, total in enumerate(sums):
        at = b.gep(to, [b.mul(column, i64(j))], source_etype=ir.IntType(8))
        b.store(total, at, align=4)
    after = b.sub(tiles, i64(1))
    inner.close(
        b.icmp_signed(">", after, i64(0)),
        [
            after,
            b.gep(x, [i64(channels)], source_etype=F32),
            b.gep(to, [i64(LANES)], source_etype=F32),
        ],
    )
    after = b.sub(left, i64(1))
    byte = ir.IntType(8)
    outer.close(
        b.icmp_signed(">", after, i64(0)),
        [after, b.gep(v, [v_plane], source_etype=byte), b.gep(w, [w_plane], source_etype=byte),
         b.gep(out, [i64(_PLANE)], source_etype=byte)],
    )  # fmt: skip


_PARAMS = [I64] * 8


def _choice(b: ir.IRBuilder, channels: ir.Value, *args: ir.Value) -> None:
    """Write the products for any number of channels up to MOST."""
    end = b.append_basic_block("end")
    switch = b.switch(channels, end)
    for n in range(1, MOST + 1):
        here = b.append_basic_block("channels")
        switch.add_case(i64(n), here)
        b.position_at_end(here)
        body = functools.partial(_products, n)
        b.call(shared_function(b.module, f"lep_few_{n}", ir.VoidType(), _PARAMS, body), args)
        b.branch(end)
    b.position_at_end(end)


@intrinsic
def multiply_few(typingctx, channels, count, v, v_plane, w, w_plane, out, column, planes):
    """Multiply ``count`` tiles of ``channels`` with a panel of weights, in every plane.

    ``v``: address of ``f32[count][channels]`` of plane 0, ``v_plane`` the bytes to that of the
    next. ``w``: address of ``f32[channels][PANEL]``, with ``w_plane``. ``out``: address of the
    first vector of columns of plane 0, ``f32[ROWS][LANES]``; ``column``: bytes to the next vector.
    """

    def build(context, builder, sig, args):
        fn = shared_function(builder.module, "lep_few", ir.VoidType(), [I64, *_PARAMS], _choice)
        builder.call(fn, args)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 9), build


@inline_njit
def _copy_vectors(src, dst, size):
    """Copy ``size`` bytes and up to a vector more."""
    for k in range(0, size, _BYTES):
        vstore(dst + k, 0, vload(src + k, 0))


@inline_njit
def _read_line(args, to, image, y, row, across):
    """Copy a line of an image, or zeros, to rows ``row`` bytes apart: pixel j of all tiles to j.

    Pixels beyond a tile's own are the first ones of the next tile.
    """
    c, m, side = arg(args, CHANNELS), arg(args, M_X), arg(args, SIDE_X)
    if y < 0 or y >= arg(args, IN_H):
        for k in range(0, side * row, _BYTES):
            vstore(to + k, 0, vzero())
        return
    line, pixel = arg(args, X) + 4 * (image * arg(args, IN_H) + y) * arg(args, X_Y), 4 * c
    for j in range(m):
        src, dst = line + pixel * j, to + j * row
        # Words of two floats: what is too much is written over by the next tile's.
        if c > 2:
            for _ in range(across + 1):
                low, high = ldi64(src, 0), ldi64(src, 1)  # both first: they may become one
                sti64(dst, 0, low)
                sti64(dst, 1, high)
                src += pixel * m
                dst += pixel
        else:
            for _ in range(across + 1):
                sti64(dst, 0, ldi64(src, 0))
                src += pixel * m
                dst += pixel
    for j in range(m, side):
        _copy_vectors(to + (j - m) * row + pixel, to + j * row, pixel * across)


@inline_njit
def _read_lines(args, index, first, across, row, rows):
    """Copy the lines that line ``index`` of tiles reads; those that the one before it read stay."""
    m_y, side = arg(args, M_Y), arg(args, SIDE_Y)
    down, line = (arg(args, OUT_H) + m_y - 1) // m_y, arg(args, SIDE_X) * row
    image, y, begin = index // down, index % down * m_y - arg(args, PAD_Y), 0
    if index > first and index % down > 0:
        begin = side - m_y
        _copy_vectors(rows + m_y * line, rows, begin * line)
    for i in range(begin, side):
        _read_line(args, rows + i * line, image, y + i, row, across)


@inline_njit
def _line_of_tiles(args, patch, index, across, row, v, m):
    """Compute line ``index`` of tiles, all columns, of V."""
    c, planes, columns = arg(args, CHANNELS), arg(args, N_Y) * arg(args, N_X), arg(args, COLUMNS)
    column, w_plane = planes * _PLANE, 4 * PANEL * LANES
    for n in range(0, columns, PANEL):
        weights = arg(args, WEIGHTS) + n // PANEL * planes * w_plane
        for t0 in range(0, across, _GROUP):
            count = min(_GROUP, across - t0)
            multiply_few(c, count, v + 4 * c * t0, row, weights, w_plane, m, column, planes)
            tile, end = index * across + t0, min(n + PANEL, columns)
            write_line(args, patch, tile, count, m, column, n, end)


@kernel(vectors=True)
def winograd_few(args, tid, nt, cuts):
    """Compute this thread's lines of tiles of the conv that the record describes."""
    m_y, m_x, side = arg(args, M_Y), arg(args, M_X), arg(args, SIDE_Y) * arg(args, SIDE_X)
    across = (arg(args, OUT_W) + m_x - 1) // m_x
    lines = arg(args, BATCH) * ((arg(args, OUT_H) + m_y - 1) // m_y)
    row = 4 * ((across * arg(args, CHANNELS) + LANES - 1) // LANES * LANES + LANES)
    patch = arg(args, SCRATCH) + tid * arg(args, SCRATCH_BYTES)
    rows = patch + side * _BYTES
    v = rows + side * row
    m = v + arg(args, N_Y) * arg(args, N_X) * row
    vectors = (across * arg(args, CHANNELS) + LANES - 1) // LANES
    first, end = share(lines, tid, nt, cuts)
    for index in range(first, end):
        _read_lines(args, index, first, across, row, rows)
        transform_input(arg(args, READ), rows, arg(args, SIDE_X) * row, row, v, row, vectors,
                        _BYTES, 0)  # fmt: skip
        _line_of_tiles(args, patch, index, across, row, v, m)
