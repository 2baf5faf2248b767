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
columns; tiles are square (``EDGE``, or ``SMALL`` where a side is short), and two or three dense
rows or columns are interleaved.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.base import Kernel, inline_njit, kernel, make_kernel
from leptonc.backends.numba_cpu.kernels.ew_loop import copy_bytes
from leptonc.backends.numba_cpu.kernels.shares import share
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
from leptonc.backends.numba_cpu.kernels.vectype import I8, I16, I32, I64, PTR, i64, shuffle

HEAD = 14
EDGE = {1: 16, 2: max(LANES, 8), 4: LANES, 8: max(LANES // 2, 4)}  # of a tile, by element size
SMALL = 4  # edge of the tiles where a side is too short for EDGE
_ELEMENT = {1: I8, 2: I16, 4: I32, 8: I64}
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
def copy_rows(args, tid, nt, cuts):
    """Copy runs of bytes."""
    blocks = arg(args, 13)
    src_step, dst_step = arg(args, 5), arg(args, 7)
    for block in range(*share(blocks, tid, nt, cuts)):
        src, dst, rows, cols, row, col = _block(args, block)
        for r in range(row, row + rows):
            copy_bytes(dst + r * dst_step + col, src + r * src_step + col, cols)


def _make_strided(size: int) -> Kernel:
    """Return the kernel that copies element by element."""
    load, store = _ACCESS[size]

    def body(args, tid, nt, cuts):
        blocks = arg(args, 13)
        src_row, src_col, dst_row, dst_col = arg(args, 5), arg(args, 6), arg(args, 7), arg(args, 8)
        for block in range(*share(blocks, tid, nt, cuts)):
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


def _tile(size: int, edge: int):
    """Return the intrinsic that transposes ``edge x edge`` elements of ``size`` bytes.

    ``tile(src, src_step, dst, dst_step)``: addresses and row steps in bytes.
    """
    vector = ir.VectorType(_ELEMENT[size], edge)

    @intrinsic
    def tile(typingctx, src, src_step, dst, dst_step):
        def code(context, b, sig, args):
            src, src_step, dst, dst_step = args
            rows, at = [], src
            for _ in range(edge):
                rows.append(b.load(b.inttoptr(at, PTR), align=size, typ=vector))
                at = b.add(at, src_step)
            for row in _transposed(b, rows):
                b.store(row, b.inttoptr(dst, PTR), align=size)
                dst = b.add(dst, dst_step)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4), code

    return tile


# ``transpose_tile(src, src_step, dst, dst_step)``: LANES x LANES floats.
transpose_tile = _tile(4, LANES)


def _transposed(b: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """Return the transpose of a square of vectors: exchange ever larger off-diagonal blocks."""
    rows, bit, edge = list(rows), 1, len(rows)
    while bit < edge:
        low = [lane if not lane & bit else lane - bit + edge for lane in range(edge)]
        high = [lane + bit if not lane & bit else lane + edge for lane in range(edge)]
        for i in range(edge):
            if not i & bit:
                x, y = rows[i], rows[i | bit]
                rows[i], rows[i | bit] = (shuffle(b, x, y, p) for p in (low, high))
        bit *= 2
    return rows


def _picked(b: ir.IRBuilder, parts: list[ir.Value], wanted: list[tuple[int, int]]) -> ir.Value:
    """Return the vector of ``(part, lane)`` for each lane."""
    edge, made = len(wanted), parts[0]
    for n, part in enumerate(parts[1:], 1):
        first = [lane if p == 0 else 0 for p, lane in wanted] if n == 1 else range(edge)
        lanes = [
            edge + lane if p == n else keep for (p, lane), keep in zip(wanted, first, strict=True)
        ]
        made = shuffle(b, made, part, lanes)
    return made


def _braid(size: int, count: int, unbraid: bool):
    """Return the intrinsic that interleaves ``count`` rows of EDGE elements, or takes them apart.

    ``braid(many, step, one)``: the rows' address, the bytes between them, the dense block's
    address.
    """
    edge = EDGE[size]
    vector = ir.VectorType(_ELEMENT[size], edge)
    ends = range(count)

    @intrinsic
    def braid(typingctx, many, step, one):
        def code(context, b, sig, args):
            many, step, one = args
            rows = [b.inttoptr(b.add(many, b.mul(step, i64(n))), PTR) for n in ends]
            dense = [b.inttoptr(b.add(one, i64(n * edge * size)), PTR) for n in ends]
            source, target = (dense, rows) if unbraid else (rows, dense)
            parts = [b.load(p, align=size, typ=vector) for p in source]
            for n, to in enumerate(target):
                places = [lane * count + n if unbraid else n * edge + lane for lane in range(edge)]
                wanted = [divmod(g, edge) if unbraid else (g % count, g // count) for g in places]
                b.store(_picked(b, parts, wanted), to, align=size)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 3), code

    return braid


def _braids(size: int, count: int):
    """Return ``(zip, unzip)``: whole blocks of ``count`` columns or rows next to each other."""
    edge, braid, unbraid = EDGE[size], _braid(size, count, False), _braid(size, count, True)

    @inline_njit
    def zipped(src, dst, row, rows, all_rows, src_step):
        for r0 in range(row, row + rows, edge):
            r = min(r0, all_rows - edge)
            braid(src + r * size, src_step, dst + r * count * size)

    @inline_njit
    def unzipped(src, dst, col, cols, all_cols, dst_step):
        for c0 in range(col, col + cols, edge):
            c = min(c0, all_cols - edge)
            unbraid(dst + c * size, dst_step, src + c * count * size)

    return zipped, unzipped


def _elements(size: int):
    """Return the loop over single elements of a block."""
    load, store = _ACCESS[size]

    @inline_njit
    def elements(src, dst, row, rows, col, cols, src_step, dst_step):
        for r in range(row, row + rows):
            s, d = src + r * size, dst + r * dst_step
            for c in range(col, col + cols):
                store(d, c, load(s + c * src_step, 0))

    return elements


def _squares(size: int, edge: int):
    """Return the loop over square tiles of a block."""
    tile = _tile(size, edge)

    @inline_njit
    def squares(src, dst, row, rows, all_rows, col, cols, all_cols, src_step, dst_step):
        for r0 in range(row, row + rows, edge):
            # The last tile overlaps the one before it: it writes the same values again.
            r = min(r0, all_rows - edge)
            for c0 in range(col, col + cols, edge):
                c = min(c0, all_cols - edge)
                at = dst + r * dst_step + c * size
                tile(src + r * size + c * src_step, src_step, at, dst_step)

    return squares


def _make_tiles(size: int) -> Kernel:
    """Return the kernel that transposes: src contiguous along rows, dst along columns."""
    edge, elements = EDGE[size], _elements(size)
    large, small = _squares(size, edge), _squares(size, SMALL)
    (zip2, unzip2), (zip3, unzip3) = _braids(size, 2), _braids(size, 3)

    def body(args, tid, nt, cuts):
        blocks = arg(args, 13)
        all_rows, all_cols = arg(args, 1), arg(args, 2)
        src_step, dst_step = arg(args, 6), arg(args, 7)
        narrow = min(all_rows, all_cols)
        braids = 2 <= narrow <= 3 and max(all_rows, all_cols) >= edge
        zips = braids and all_cols == narrow and dst_step == narrow * size
        unzips = braids and all_rows == narrow and src_step == narrow * size
        for block in range(*share(blocks, tid, nt, cuts)):
            src, dst, rows, cols, row, col = _block(args, block)
            if narrow >= edge:
                large(src, dst, row, rows, all_rows, col, cols, all_cols, src_step, dst_step)
            elif narrow >= SMALL:
                small(src, dst, row, rows, all_rows, col, cols, all_cols, src_step, dst_step)
            elif zips and narrow == 2:
                zip2(src, dst, row, rows, all_rows, src_step)
            elif zips:
                zip3(src, dst, row, rows, all_rows, src_step)
            elif unzips and narrow == 2:
                unzip2(src, dst, col, cols, all_cols, dst_step)
            elif unzips:
                unzip3(src, dst, col, cols, all_cols, dst_step)
            else:
                elements(src, dst, row, rows, col, cols, src_step, dst_step)

    return make_kernel(body, "copy_tiles", (size,), vectors=True)


STRIDED = {size: _make_strided(size) for size in _ACCESS}
TILES = {size: _make_tiles(size) for size in _ACCESS}
