"""numba_cpu > kernels > copy: moving elements between two strided tensors of one shape.

The space ``[outer..., rows, cols]`` is cut into blocks shared out among threads. Three kernels by
what the
strides allow: ``copy_rows`` (runs of bytes), ``copy_tiles`` (the fast axes differ: a transpose,
tile by tile
through registers), ``copy_strided`` (anything).

Record, 64-bit words (strides in bytes)::

    0 n_outer  1 rows  2 cols  3 src  4 dst  5 src row stride  6 src column stride  7 dst row stride
    8 dst column stride  9 block_rows  10 block_cols  11 row_blocks  12 col_blocks  13 n_blocks
    14.. outer sizes, src strides, dst strides [n_outer each]

``copy_rows`` takes ``cols`` in bytes. ``copy_tiles`` wants src contiguous along rows, dst along
columns.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.base import Kernel, inline_njit, kernel, make_kernel
from leptonc.backends.numba_cpu.kernels.ew_loop import copy_bytes
from leptonc.backends.numba_cpu.kernels.vec import (
    LANES,
    arg,
    ldi8,
    ldi16,
    ldi32,
    ldi64,
    sti8,
    sti16,
    sti32,
    sti64,
)
from leptonc.backends.numba_cpu.kernels.vectype import I32, PTR, VF

HEAD = 14
_ACCESS = {1: (ldi8, sti8), 2: (ldi16, sti16), 4: (ldi32, sti32), 8: (ldi64, sti64)}


@inline_njit
def _block(args, block):
    """Return ``(src, dst, rows, cols, row, col)`` of a block."""
    n_outer = arg(args, 0)
    col = block % arg(args, 12) * arg(args, 10)
    rest = block // arg(args, 12)
    row = rest % arg(args, 11) * arg(args, 9)
    left = rest // arg(args, 11)
    src, dst = arg(args, 3), arg(args, 4)
    for d in range(n_outer - 1, -1, -1):
        n = arg(args, HEAD + d)
        index = left % n
        left //= n
        src += index * arg(args, HEAD + n_outer + d)
        dst += index * arg(args, HEAD + 2 * n_outer + d)
    rows = min(arg(args, 9), arg(args, 1) - row)
    cols = min(arg(args, 10), arg(args, 2) - col)
    return src, dst, rows, cols, row, col


@kernel
def copy_rows(args, tid, nt):
    """Copy runs of bytes."""
    blocks = arg(args, 13)
    src_step, dst_step = arg(args, 5), arg(args, 7)
    for block in range(blocks * tid // nt, blocks * (tid + 1) // nt):
        src, dst, rows, cols, row, col = _block(args, block)
        for r in range(row, row + rows):
            copy_bytes(dst + r * dst_step + col, src + r * src_step + col, cols)


def _make_strided(size: int) -> Kernel:
    """Return the kernel that copies element by element."""
    load, store = _ACCESS[size]

    def body(args, tid, nt):
        blocks = arg(args, 13)
        src_row, src_col, dst_row, dst_col = arg(args, 5), arg(args, 6), arg(args, 7), arg(args, 8)
        for block in range(blocks * tid // nt, blocks * (tid + 1) // nt):
            src, dst, rows, cols, row, col = _block(args, block)
            for r in range(row, row + rows):
                s = src + r * src_row + col * src_col
                d = dst + r * dst_row + col * dst_col
                if src_col == 0 and dst_col == size:
                    x = load(s, 0)
                    for i in range(cols):
                        store(d, i, x)
                elif dst_col == size:
                    for i in range(cols):
                        store(d, i, load(s + i * src_col, 0))
                else:
                    for i in range(cols):
                        store(d + i * dst_col, 0, load(s + i * src_col, 0))

    return make_kernel(body, "copy_strided", (size,))


@intrinsic
def transpose_tile(typingctx, src, src_step, dst, dst_step):
    """Transpose ``LANES x LANES`` floats from ``src`` to ``dst`` (row steps in bytes)."""

    def code(context, b, sig, args):
        src, src_step, dst, dst_step = args
        rows, at = [], src
        for _ in range(LANES):
            rows.append(b.load(b.inttoptr(at, PTR), align=4, typ=VF))
            at = b.add(at, src_step)
        for row in _transposed(b, rows):
            b.store(row, b.inttoptr(dst, PTR), align=4)
            dst = b.add(dst, dst_step)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), code


def _transposed(b: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """Return the transpose of a square of vectors: exchange ever larger off-diagonal blocks."""
    rows, bit = list(rows), 1
    while bit < LANES:
        low = [lane if not lane & bit else lane - bit + LANES for lane in range(LANES)]
        high = [lane + bit if not lane & bit else lane + LANES for lane in range(LANES)]
        picks = [ir.Constant(ir.VectorType(I32, LANES), p) for p in (low, high)]
        for i in range(LANES):
            if not i & bit:
                x, y = rows[i], rows[i | bit]
                rows[i], rows[i | bit] = (b.shuffle_vector(x, y, p) for p in picks)
        bit *= 2
    return rows


def _make_tiles(size: int) -> Kernel:
    """Return the kernel that transposes: src contiguous along rows, dst along columns."""
    load, store = _ACCESS[size]
    edge = LANES
    vectors = size == 4

    def body(args, tid, nt):
        blocks = arg(args, 13)
        all_rows, all_cols = arg(args, 1), arg(args, 2)
        src_step, dst_step = arg(args, 6), arg(args, 7)
        for block in range(blocks * tid // nt, blocks * (tid + 1) // nt):
            src, dst, rows, cols, row, col = _block(args, block)
            if vectors and all_rows >= edge and all_cols >= edge:
                for r0 in range(row, row + rows, edge):
                    # The last tile overlaps the one before it: it writes the same values again.
                    r = min(r0, all_rows - edge)
                    for c0 in range(col, col + cols, edge):
                        c = min(c0, all_cols - edge)
                        transpose_tile(
                            src + r * size + c * src_step,
                            src_step,
                            dst + r * dst_step + c * size,
                            dst_step,
                        )
            else:
                for r in range(row, row + rows):
                    s, d = src + r * size, dst + r * dst_step
                    for c in range(col, col + cols):
                        store(d, c, load(s + c * src_step, 0))

    return make_kernel(body, "copy_tiles", (size,))


STRIDED = {size: _make_strided(size) for size in _ACCESS}
TILES = {size: _make_tiles(size) for size in _ACCESS}
