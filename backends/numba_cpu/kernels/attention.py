"""numba_cpu > kernels > attention: softmax(scale q k^T + mask) v, a block of query rows at a time.

One block's scores stay in this thread's scratch: no S x T matrix is ever in memory. Keys and values
of a head are packed once a thread into the panels of the microkernel. Few query rows (decoding)
skip the packing and read keys and values where they lie.

Work is split over (batch, head, block of ROWS queries); a block is computed the same way whoever
takes it, so results are bitwise equal for any ``nt``. Addresses are bytes, strides elements; the
last axis of q, k, v and the output has stride 1.
"""

from __future__ import annotations

from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL, ROWS, run_tile
from leptonc.backends.numba_cpu.kernels.vec import (
    LANES,
    arg,
    argf,
    ldf,
    ldu8,
    stf,
    sti64,
    vadd,
    vexp,
    vfirst,
    vfma,
    vhmax,
    vload,
    vload_n,
    vload_step,
    vmax,
    vmul,
    vselect,
    vsplat,
    vstore,
    vstore_n,
    vsub,
    vsum,
    vzero,
)

(
    BATCH, HEADS, QUERIES, KEYS, DEPTH, WIDTH, GROUP,
    Q, Q_B, Q_H, Q_S, K, K_B, K_H, K_T, V, V_B, V_H, V_T, OUT, OUT_B, OUT_H, OUT_S,
    MASK, MASK_KIND, MASK_B, MASK_H, MASK_S, MASK_T, SCALE, CAUSAL, SCRATCH, SCRATCH_BYTES,
) = range(33)  # fmt: skip
"""Record: sizes (``GROUP`` query heads share a key head), addresses and strides, mask kind
(0 none, 1 bool kept where true, 2 float added), scale (float64 bits), causal flag, scratch."""

NO_MASK, BOOL_MASK, FLOAT_MASK = 0, 1, 2
FEW = 4  # up to this many queries, packing keys and values costs more than it saves
_INF = float("inf")


def padded(n: int) -> int:
    """Return ``n`` rounded up to whole panels."""
    return -(-n // PANEL) * PANEL


def scratch_bytes(queries: int, keys: int, depth: int, width: int) -> int:
    """Return the bytes one thread needs: row tables, scores, packed keys, packed values."""
    tables, scores = 8 * 3 * (2 * ROWS), 4 * ROWS * padded(keys)
    if queries <= FEW:
        return tables + scores
    return tables + scores + 4 * padded(keys) * depth + 4 * padded(width) * keys


@inline_njit
def _pad(n):
    return (n + PANEL - 1) // PANEL * PANEL


@inline_njit
def _rows(table, count, start, stride):
    """Write ``count`` row addresses and repeat the last one up to ROWS."""
    for i in range(ROWS):
        sti64(table, i, start + 4 * min(i, count - 1) * stride)


@inline_njit
def _pack_keys(dst, src, keys, depth, stride):
    """Pack ``k: [keys, depth]`` transposed: panel ``p`` holds keys ``p * PANEL ...`` as columns."""
    for p in range(0, keys, PANEL):
        for d in range(depth):
            for j in range(0, PANEL, LANES):
                left = keys - p - j
                here, to = src + 4 * ((p + j) * stride + d), p * depth + d * PANEL + j
                if left >= LANES:
                    vstore(dst, to, vload_step(here, 0, stride))
                else:
                    vstore(dst, to, vzero())
                    for c in range(left):
                        stf(dst, to + c, ldf(here, c * stride))


@inline_njit
def _pack_values(dst, src, keys, width, stride):
    """Pack ``v: [keys, width]``: panel ``p`` holds columns ``p * PANEL ...`` of every key."""
    for p in range(0, width, PANEL):
        for t in range(keys):
            for j in range(0, PANEL, LANES):
                v = vload_n(src + 4 * (t * stride + p), j, width - p - j)
                vstore(dst, p * keys + t * PANEL + j, v)


@inline_njit
def _add_mask(args, row, b, h, s, keys):
    """Add this query's mask row to its scores."""
    kind, step = arg(args, MASK_KIND), arg(args, MASK_T)
    at = b * arg(args, MASK_B) + h * arg(args, MASK_H) + s * arg(args, MASK_S)
    mask = arg(args, MASK)
    if kind == BOOL_MASK:
        for t in range(keys):
            if ldu8(mask, at + t * step) == 0:
                stf(row, t, -_INF)
    elif step == 1:
        for t in range(0, keys, LANES):
            left = keys - t
            m = vload_n(mask + 4 * at, t, left)
            vstore_n(row, t, vadd(vload_n(row, t, left), m), left)
    else:
        for t in range(keys):
            stf(row, t, ldf(row, t) + ldf(mask, at + t * step))


@inline_njit
def _softmax(row, keys, end):
    """Turn scores into weights in place; zeros from ``keys`` to ``end``. All -inf gives zeros."""
    top = vsplat(-_INF)
    for t in range(0, keys, LANES):
        left = keys - t
        x = vload(row, t) if left >= LANES else vselect(vfirst(left), vload(row, t), top)
        top = vmax(top, x)
    high = vhmax(top)
    if high == -_INF:
        for t in range(0, end, LANES):
            vstore(row, t, vzero())
        return
    shift, total = vsplat(high), vzero()
    for t in range(0, keys, LANES):
        left = keys - t
        e = vexp(vsub(vload(row, t), shift))
        if left < LANES:
            e = vselect(vfirst(left), e, vzero())
        vstore(row, t, e)
        total = vadd(total, e)
    factor = vsplat(1.0 / vsum(total))
    for t in range(0, keys, LANES):
        vstore(row, t, vmul(vload(row, t), factor))
    for t in range((keys + LANES - 1) // LANES * LANES, end, LANES):
        vstore(row, t, vzero())


@inline_njit
def _weigh(args, scores, pitch, b, h, s0, count, keys):
    """Scale, mask and normalise the scores of a block of queries."""
    scale, causal = vsplat(argf(args, SCALE)), arg(args, CAUSAL)
    for i in range(count):
        row = scores + 4 * i * pitch
        seen = min(keys, s0 + i + 1) if causal != 0 else keys
        for t in range(0, seen, LANES):
            vstore(row, t, vmul(vload(row, t), scale))
        if arg(args, MASK_KIND) != NO_MASK:
            _add_mask(args, row, b, h, s0 + i, seen)
        _softmax(row, seen, _pad(keys))


@inline_njit
def _block(args, tables, scores, pitch, keys_packed, values_packed, b, h, s0):
    """Compute one block of up to ROWS queries from packed keys and values."""
    count = min(ROWS, arg(args, QUERIES) - s0)
    depth, width, total = arg(args, DEPTH), arg(args, WIDTH), arg(args, KEYS)
    keys = min(total, s0 + count) if arg(args, CAUSAL) != 0 else total
    q_rows, s_rows, o_rows = tables, tables + 16 * ROWS, tables + 32 * ROWS
    q = arg(args, Q) + 4 * (b * arg(args, Q_B) + h * arg(args, Q_H) + s0 * arg(args, Q_S))
    out = arg(args, OUT) + 4 * (b * arg(args, OUT_B) + h * arg(args, OUT_H) + s0 * arg(args, OUT_S))
    _rows(q_rows, count, q, arg(args, Q_S))
    _rows(s_rows, count, scores, pitch)
    _rows(o_rows, count, out, arg(args, OUT_S))
    # Both products run through one call site: a microkernel is large and compiled for each.
    for phase in range(2):
        if phase == 1:
            _weigh(args, scores, pitch, b, h, s0, count, keys)
        columns = keys if phase == 0 else width
        for p in range(0, columns, PANEL):
            rows = q_rows if phase == 0 else s_rows
            to = s_rows if phase == 0 else o_rows
            k = depth if phase == 0 else keys
            packed = keys_packed + 4 * p * depth if phase == 0 else values_packed + 4 * p * total
            room = pitch - p if phase == 0 else width - p
            run_tile(count, rows, 0, 1, k, 0, packed, to, 4 * p, room, 0, 0, -_INF, _INF)


@inline_njit
def _dot(x, y, n):
    """Return the product of two contiguous vectors of ``n`` elements."""
    acc = vzero()
    for i in range(0, n, LANES):
        acc = vfma(vload_n(x, i, n - i), vload_n(y, i, n - i), acc)
    return vsum(acc)


@inline_njit
def _few(args, scores, pitch, b, h, s0):
    """Compute a block of few queries straight from keys and values."""
    count = min(ROWS, arg(args, QUERIES) - s0)
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
    _weigh(args, scores, pitch, b, h, s0, count, keys)
    for i in range(count):
        to = out + 4 * i * arg(args, OUT_S)
        for e in range(0, width, LANES):
            left, acc = width - e, vzero()
            for t in range(keys):
                w = vsplat(ldf(scores, i * pitch + t))
                acc = vfma(w, vload_n(v + 4 * t * arg(args, V_T), e, left), acc)
            vstore_n(to, e, acc, left)


@kernel
def attention(args, tid, nt):
    """Compute this thread's blocks of queries of every head."""
    heads, queries, total = arg(args, HEADS), arg(args, QUERIES), arg(args, KEYS)
    depth, width = arg(args, DEPTH), arg(args, WIDTH)
    blocks = (queries + ROWS - 1) // ROWS
    jobs, pitch = arg(args, BATCH) * heads * blocks, _pad(total)
    tables = arg(args, SCRATCH) + tid * arg(args, SCRATCH_BYTES)
    scores = tables + 48 * ROWS
    keys_packed = scores + 4 * ROWS * pitch
    values_packed = keys_packed + 4 * pitch * depth
    packed = -1
    for job in range(jobs * tid // nt, jobs * (tid + 1) // nt):
        head, s0 = job // blocks, job % blocks * ROWS
        b, h = head // heads, head % heads
        if queries <= FEW:
            _few(args, scores, pitch, b, h, s0)
            continue
        g = h // arg(args, GROUP)
        shared = b * heads + g
        if shared != packed:
            packed = shared
            k = arg(args, K) + 4 * (b * arg(args, K_B) + g * arg(args, K_H))
            v = arg(args, V) + 4 * (b * arg(args, V_B) + g * arg(args, V_H))
            _pack_keys(keys_packed, k, total, depth, arg(args, K_T))
            _pack_values(values_packed, v, total, width, arg(args, V_T))
        _block(args, tables, scores, pitch, keys_packed, values_packed, b, h, s0)
