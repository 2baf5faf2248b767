"""numba_cpu > kernels > attention: softmax(scale q k^T + mask) v, a block of query rows at a time.

One block's scores stay in this thread's scratch: no S x T matrix is ever in memory. Keys and values
of a head are packed once a thread into the panels of the microkernel. Few query rows (decoding)
skip the packing and read keys and values where they lie.

Outputs are stored once, whole rows of a head: before, sums lie in the scratch. Beside them lie
those of the next head, maybe another core's, and a line that two write to travels between them.

The weights are ``2 ** (c score - c max)`` with ``c = scale log2(e)``: scale and shift take one
fused operation. They stay unnormalised; the sums divide the outputs, which are fewer. A mask costs
a pass of its own over the scores, unless it is a bool row that keeps everything.

Work is split over (batch, head, block of queries); a row is computed the same way in whatever
block it lies, so results are bitwise equal for any ``nt``. Addresses are bytes, strides elements;
the last axis of q, k, v and the output has stride 1.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.copy import transpose_tile
from leptonc.backends.numba_cpu.kernels.microkernel import (
    PANEL,
    PREFETCH,
    ROWS,
    TILES,
    equal_tiles,
    run_tiles,
    tile_rows,
)
from leptonc.backends.numba_cpu.kernels.shares import share
from leptonc.backends.numba_cpu.kernels.vec import (
    LANES,
    arg,
    argf,
    ldf,
    ldi64,
    ldu8,
    stf,
    sti64,
    vadd,
    vatleast,
    vexp2_down,
    vfirst,
    vfma,
    vhmax,
    vload,
    vload_n,
    vmul,
    vselect,
    vsplat,
    vstore,
    vstore_n,
    vsum,
    vzero,
)
from leptonc.backends.numba_cpu.kernels.vectype import I8, pointer, vmask

(
    BATCH, HEADS, QUERIES, KEYS, DEPTH, WIDTH, GROUP,
    Q, Q_B, Q_H, Q_S, K, K_B, K_H, K_T, V, V_B, V_H, V_T, OUT, OUT_B, OUT_H, OUT_S,
    MASK, MASK_KIND, MASK_B, MASK_H, MASK_S, MASK_T, SCALE, CAUSAL, NAN_ROWS,
    SCRATCH, SCRATCH_BYTES,
) = range(34)  # fmt: skip
"""Record: sizes (``GROUP`` query heads share a key head), addresses and strides, mask kind
(0 none, 1 bool kept where true, 2 float added), scale (float64 bits), causal flag, whether rows
that are masked out wholly give NaN instead of 0, scratch."""

NO_MASK, BOOL_MASK, FLOAT_MASK = 0, 1, 2
FEW = 4  # up to this many queries, packing keys and values costs more than it saves
BLOCK = 2 * ROWS  # queries at a time: tiles that share a panel are one call
SPARE = ROWS // 2  # queries that the last block takes along: a block of one would be a slow tile
TABLE = 8 * (BLOCK + SPARE + ROWS)  # bytes of a table of rows, of which tiles read beyond the last
TABLES = 4  # rows of queries, of scores, of sums; factors of the rows
SHARES = 8  # blocks a thread: fewer large ones would leave some without work
_INF = float("inf")
_ZERO, _ONE, _NAN = np.float32(0), np.float32(1), np.float32("nan")
_LOG2_E = np.float32(math.log2(math.e))
_TRUE = 0x0101010101010101


def padded(n: int) -> int:
    """Return ``n`` rounded up to whole panels."""
    return -(-n // PANEL) * PANEL


def scratch_bytes(queries: int, keys: int, depth: int, width: int) -> int:
    """Return the bytes one thread needs: row tables, scores, packed keys, values, sums."""
    tables, scores = TABLES * TABLE, 4 * (BLOCK + SPARE) * padded(keys)
    if queries <= FEW:
        return tables + scores
    packed = padded(keys) * depth + padded(width) * keys
    return tables + scores + 4 * packed + 4 * (BLOCK + SPARE) * padded(width)


@inline_njit
def _pad(n):
    return (n + PANEL - 1) // PANEL * PANEL


@inline_njit
def _rows(table, count, start, stride):
    """Write ``count`` row addresses and repeat the last one ROWS times."""
    for i in range(count + ROWS):
        sti64(table, i, start + 4 * min(i, count - 1) * stride)


@inline_njit
def pack_keys(dst, src, keys, depth, stride):
    """Pack ``k: [keys, depth]`` transposed: panel ``p`` holds keys ``p * PANEL ...`` as columns.

    The last vector with keys is filled up with zeros; a vector of no keys is left as it is.
    """
    for t in range(0, keys, LANES):
        to = t // PANEL * PANEL * depth + t % PANEL
        left, here = keys - t, src + 4 * t * stride
        if left >= LANES and depth >= LANES:
            for d0 in range(0, depth, LANES):
                d = min(d0, depth - LANES)  # the last square overlaps the one before it
                transpose_tile(here + 4 * d, 4 * stride, dst + 4 * (to + d * PANEL), 4 * PANEL)
        else:
            for d in range(depth):
                vstore(dst, to + d * PANEL, vzero())
                for c in range(min(left, LANES)):
                    stf(dst, to + d * PANEL + c, ldf(here, c * stride + d))


@inline_njit
def _pack_values(dst, src, keys, width, stride):
    """Pack ``v: [keys, width]``: panel ``p`` holds columns ``p * PANEL ...`` of every key."""
    for p in range(0, width, PANEL):
        for t in range(keys):
            for j in range(0, PANEL, LANES):
                v = vload_n(src + 4 * (t * stride + p), j, width - p - j)
                vstore(dst, p * keys + t * PANEL + j, v)


@intrinsic
def _bytes_set(typingctx, address, index):
    """Return the mask of the LANES bytes at ``address + index`` that are not 0."""

    def build(context, b, sig, args):
        kind = ir.VectorType(I8, LANES)
        found = b.load(pointer(b, *args, 1), align=1, typ=kind)
        return b.icmp_unsigned("!=", found, ir.Constant(kind, [0] * LANES))

    return vmask(types.int64, types.int64), build


@inline_njit
def _keeps_all(mask, n):
    """Return whether ``n`` contiguous bools are all true."""
    words = _TRUE
    for i in range(n // 8):
        words &= ldi64(mask, i)
    for i in range(n // 8 * 8, n):
        if ldu8(mask, i) == 0:
            return False
    return words == _TRUE


@inline_njit
def _mask_row(kind, mask, step, row, keys, scale):
    """Scale a row of scores and add its mask, or put -inf where a bool mask is false."""
    factor, lost, whole = vsplat(scale), vsplat(-_INF), 0
    if step == 1:
        whole = keys // LANES * LANES
        for t in range(0, whole, LANES):
            x = vload(row, t)
            if kind == FLOAT_MASK:
                vstore(row, t, vfma(x, factor, vload(mask, t)))
            else:
                vstore(row, t, vselect(_bytes_set(mask, t), vmul(x, factor), lost))
    for t in range(whole, keys):
        x = ldf(row, t) * scale
        if kind == FLOAT_MASK:
            stf(row, t, x + ldf(mask, t * step))
        else:
            stf(row, t, x if ldu8(mask, t * step) != 0 else -_INF)


@inline_njit
def _top(row, keys):
    """Return the largest score; a NaN may be forgotten, but not in its own lane of the weights."""
    a = b = vsplat(-_INF)
    t = 0
    while t + 2 * LANES <= keys:
        a, b = vatleast(vload(row, t), a), vatleast(vload(row, t + LANES), b)
        t += 2 * LANES
    while t < keys:
        a = vatleast(vselect(vfirst(keys - t), vload(row, t), vsplat(-_INF)), a)
        t += LANES
    return vhmax(vatleast(a, b))


@inline_njit
def _weights(row, keys, high, slope):
    """Turn scores into ``2 ** (slope * (score - high))``; return their sum."""
    c, shift, total = vsplat(slope), vsplat(-high * slope), vzero()
    whole = keys // LANES * LANES
    for t in range(0, whole, LANES):
        e = vexp2_down(vfma(vload(row, t), c, shift))
        vstore(row, t, e)
        total = vadd(total, e)
    if whole < keys:
        e = vexp2_down(vfma(vload(row, whole), c, shift))
        e = vselect(vfirst(keys - whole), e, vzero())
        vstore(row, whole, e)
        total = vadd(total, e)
    return vsum(total)


@inline_njit
def _lost(row, keys, zeros):
    """Return the factor of a row without a largest score: its weights become 0.

    ``zeros``: a row that is masked out wholly gives 0. A NaN among the scores, or scores of -inf
    that no mask made, give NaN.
    """
    bad = not zeros and keys > 0
    for t in range(keys):
        x = ldf(row, t)
        bad = bad or x != x
    for t in range(0, keys, LANES):  # whole vectors: later keys of a causal row lie in the last
        vstore(row, t, vzero())
    return _NAN if bad else _ONE


@inline_njit
def _seen(args, query, keys):
    """Return how many of ``keys`` a query sees."""
    return min(keys, query + 1) if arg(args, CAUSAL) != 0 else keys


@inline_njit
def weigh(args, scores, pitch, factors, b, h, s0, count, keys):
    """Turn the scores of a block of queries into weights, and write the factor of each row.

    First all rows are masked and their largest scores found, then all are weighed: what a row waits
    for at its end is done beside the others. ``factors``: room for two floats a row.
    """
    scale = np.float32(argf(args, SCALE))
    kind, step = arg(args, MASK_KIND), arg(args, MASK_T)
    size = 1 if kind == BOOL_MASK else 4
    slopes = factors + 4 * count
    for i in range(count):
        row = scores + 4 * i * pitch
        seen = _seen(args, s0 + i, keys)
        at = b * arg(args, MASK_B) + h * arg(args, MASK_H) + (s0 + i) * arg(args, MASK_S)
        mask = arg(args, MASK) + size * at
        masked = kind != NO_MASK
        if kind == BOOL_MASK and step == 1:
            masked = not _keeps_all(mask, seen)
        slope = scale * _LOG2_E
        if masked or not scale > 0:
            slope = _LOG2_E
            if masked:
                _mask_row(kind, mask, step, row, seen, scale)
            else:
                for t in range(0, seen, LANES):
                    vstore(row, t, vmul(vload(row, t), vsplat(scale)))
        high = _top(row, seen)
        if high == -_INF:
            high = _lost(row, seen, masked and arg(args, NAN_ROWS) == 0)
            slope = _ZERO  # has its factor
        stf(factors, i, high)
        stf(slopes, i, slope)
    for i in range(count):
        row, slope = scores + 4 * i * pitch, ldf(slopes, i)
        seen = _seen(args, s0 + i, keys)
        if slope != 0:
            stf(factors, i, _ONE / _weights(row, seen, ldf(factors, i), slope))
        for t in range((seen + LANES - 1) // LANES * LANES, keys, LANES):
            vstore(row, t, vzero())


@inline_njit
def _block(args, tables, scores, pitch, keys_packed, values_packed, sums, b, h, s0, count):
    """Compute one block of ``count`` queries from packed keys and values; ``sums``: room for it."""
    depth, width, total = arg(args, DEPTH), arg(args, WIDTH), arg(args, KEYS)
    keys = min(total, s0 + count) if arg(args, CAUSAL) != 0 else total
    q_rows, s_rows, sum_rows = tables, tables + TABLE, tables + 2 * TABLE
    factors = tables + 3 * TABLE
    q = arg(args, Q) + 4 * (b * arg(args, Q_B) + h * arg(args, Q_H) + s0 * arg(args, Q_S))
    out = arg(args, OUT) + 4 * (b * arg(args, OUT_B) + h * arg(args, OUT_H) + s0 * arg(args, OUT_S))
    _rows(q_rows, count, q, arg(args, Q_S))
    _rows(s_rows, count, scores, pitch)
    _rows(sum_rows, count, sums, _pad(width))
    # Both products run through one call site: a microkernel is large and compiled for each.
    for phase in range(2):
        if phase == 1:
            weigh(args, scores, pitch, factors, b, h, s0, count, keys)
        columns = keys if phase == 0 else width
        for p in range(0, columns, PANEL):
            rows = q_rows if phase == 0 else s_rows
            to = s_rows if phase == 0 else sum_rows
            k = depth if phase == 0 else keys
            packed = keys_packed + 4 * p * depth if phase == 0 else values_packed + 4 * p * total
            # Whole vectors of scores: those beyond the keys are 0, see pack_keys.
            room = (keys + LANES - 1) // LANES * LANES - p if phase == 0 else width - p
            i = 0
            while i < count:
                some = tile_rows(count - i, room)
                many = equal_tiles(count - i, some, room)
                run_tiles(some, many, rows + 8 * i, 0, 1, k, 0, packed, 0, to + 8 * i, 4 * p,
                          room, 0, 0, 0, packed + PREFETCH, 4 * PANEL, -_INF, _INF)  # fmt: skip
                i += some * many
    for i in range(count):
        row, to = sums + 4 * i * _pad(width), out + 4 * i * arg(args, OUT_S)
        factor = vsplat(ldf(factors, i))
        for e in range(0, width - LANES + 1, LANES):
            vstore(to, e, vmul(vload(row, e), factor))
        e = width // LANES * LANES
        if e < width:
            vstore_n(to, e, vmul(vload_n(row, e, width - e), factor), width - e)


@inline_njit
def _dot(x, y, n):
    """Return the product of two contiguous vectors of ``n`` elements."""
    acc = vzero()
    for i in range(0, n, LANES):
        acc = vfma(vload_n(x, i, n - i), vload_n(y, i, n - i), acc)
    return vsum(acc)


@inline_njit
def _few(args, scores, pitch, factors, b, h, s0, count):
    """Compute a block of few queries straight from keys and values."""
    depth, width, total = arg(args, DEPTH), arg(args, WIDTH), arg(args, KEYS)
    keys = min(total, s0 + count) if arg(args, CAUSAL) != 0 else total
    g = h // arg(args, GROUP)
    q = arg(args, Q) + 4 * (b * arg(args, Q_B) + h * arg(args, Q_H) + s0 * arg(args, Q_S))
    k = arg(args, K) + 4 * (b * arg(args, K_B) + g * arg(args, K_H))
    v = arg(args, V) + 4 * (b * arg(args, V_B) + g * arg(args, V_H))
    out = arg(args, OUT) + 4 * (b * arg(args, OUT_B) + h * arg(args, OUT_H) + s0 * arg(args, OUT_S))
    for i in range(count):
        for t in range(keys):
            x, y = q + 4 * i * arg(args, Q_S), k + 4 * t * arg(args, K_T)
            stf(scores, i * pitch + t, _dot(x, y, depth))
    weigh(args, scores, pitch, factors, b, h, s0, count, keys)
    for i in range(count):
        to = out + 4 * i * arg(args, OUT_S)
        for e in range(0, width, LANES):
            left, acc = width - e, vzero()
            for t in range(keys):
                w = vsplat(ldf(scores, i * pitch + t))
                acc = vfma(w, vload_n(v + 4 * t * arg(args, V_T), e, left), acc)
            vstore_n(to, e, vmul(acc, vsplat(ldf(factors, i))), left)


@inline_njit
def _blocks(queries, size):
    """Return how many blocks of ``size`` queries there are; the last takes what is left."""
    return max(1, (queries + size - 1 - SPARE) // size)


@kernel(parts=(TILES,))
def attention(args, tid, nt, cuts):
    """Compute this thread's blocks of queries of every head."""
    heads, queries, total = arg(args, HEADS), arg(args, QUERIES), arg(args, KEYS)
    depth, width = arg(args, DEPTH), arg(args, WIDTH)
    lines, pitch = arg(args, BATCH) * heads, _pad(total)
    # All rows of a causal block get scores up to the last one's key: the fewer the better.
    large = nt == 1 or lines * _blocks(queries, BLOCK) >= SHARES * nt
    size = BLOCK if large and arg(args, CAUSAL) == 0 else ROWS
    blocks = _blocks(queries, size)
    jobs = lines * blocks
    tables = arg(args, SCRATCH) + tid * arg(args, SCRATCH_BYTES)
    scores = tables + TABLES * TABLE
    keys_packed = scores + 4 * (BLOCK + SPARE) * pitch
    values_packed = keys_packed + 4 * pitch * depth
    sums, packed = values_packed + 4 * _pad(width) * total, -1
    for job in range(*share(jobs, tid, nt, cuts)):
        head, block = job // blocks, job % blocks
        b, h, s0 = head // heads, head % heads, block * size
        count = queries - s0 if block + 1 == blocks else size
        if queries <= FEW:
            _few(args, scores, pitch, tables, b, h, s0, count)
            continue
        g = h // arg(args, GROUP)
        shared = b * heads + g
        if shared != packed:
            packed = shared
            k = arg(args, K) + 4 * (b * arg(args, K_B) + g * arg(args, K_H))
            v = arg(args, V) + 4 * (b * arg(args, V_B) + g * arg(args, V_H))
            pack_keys(keys_packed, k, total, depth, arg(args, K_T))
            _pack_values(values_packed, v, total, width, arg(args, V_T))
        _block(args, tables, scores, pitch, keys_packed, values_packed, sums, b, h, s0, count)
