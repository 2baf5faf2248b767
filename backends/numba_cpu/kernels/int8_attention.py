"""numba_cpu > kernels > int8_attention: both products of attention on codes, the softmax in floats.

It goes over batches, heads and blocks of queries as :mod:`attention` does, with its record and its
softmax; :data:`V_SCALE` comes last. Codes of queries are moved by 128, for the products of unsigned
and signed bytes, and 128 times the sums of the keys are taken off. A row's largest weight is 1 and
gets code 255, so that weights need no other scale; the sum of a row's codes divides its outputs.

Packed keys are ``[panels][depth / 4][PANEL][4]`` bytes, packed values ``[panels][keys / 4][PANEL]
[4]``. Bytes are read four at a time: the depth is a multiple of 4, and so are the strides of keys.
"""

from __future__ import annotations

import functools

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels import attention as floats
from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.int8_dot import DOT, FORMS, MOST_DEPTH
from leptonc.backends.numba_cpu.kernels.int8_tile import V8, load_bytes, nearest, number_of
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL, ROWS
from leptonc.backends.numba_cpu.kernels.shares import share
from leptonc.backends.numba_cpu.kernels.vec import (
    LANES,
    arg,
    argf,
    ldf,
    ldi32,
    stf,
    sti32,
    vfirst,
    vi_add,
    vi_load,
    vi_shl,
    vi_splat,
    vi_store,
    vi_sub,
    vload,
    vmul,
    vselect,
    vsplat,
    vstore,
    vstore_n,
    vtofloat,
    vzero,
)
from leptonc.backends.numba_cpu.kernels.vectype import (
    I32,
    I64,
    VI,
    first_lanes,
    i64,
    iconst,
    pointer,
    shared_function,
    splat,
    vf32,
    vi32,
)

V_SCALE = floats.SCRATCH_BYTES + 1
MOST_KEYS = MOST_DEPTH  # keys whose products with codes of weights int32 holds the sum of
HEIGHTS = tuple(sorted({2, ROWS // 2, ROWS}))
_MOVE = 0x80808080 - (1 << 32)  # exclusive or with it moves four codes by 128
_ONES = 0x01010101


def _fours(n: int) -> int:
    return -(-n // 4) * 4


def scratch_bytes(keys: int, depth: int, width: int) -> int:
    """Return the bytes one thread needs."""
    pitch = floats.padded(keys)
    small = 8 * ROWS + 4 * ROWS * PANEL + 4 * pitch + 64
    blocks = ROWS * (depth + 8) + 5 * ROWS * pitch
    return small + blocks + pitch * depth + floats.padded(width) * _fours(keys) + 64


# ----- the tile -----------------------------------------------------------------------------------


def _tile(height: int, b: ir.IRBuilder, a, a_row, panel, steps, out) -> None:
    """Write ``out: i32[height,PANEL]``: rows of ``4 * steps`` unsigned bytes times a panel."""
    dot, parts = FORMS[DOT], PANEL // LANES
    entry, loop, end = b.block, b.append_basic_block("loop"), b.append_basic_block("end")
    b.branch(loop)
    b.position_at_end(loop)
    i = b.phi(I64)
    sums = [[b.phi(VI) for _ in range(parts)] for _ in range(height)]
    at = b.add(panel, b.mul(i, i64(4 * PANEL)))
    columns = [b.load(pointer(b, b.add(at, i64(4 * LANES * p))), align=4, typ=VI)
               for p in range(parts)]  # fmt: skip
    from_ = b.add(a, b.mul(i, i64(4)))
    made = []
    for r in range(height):
        place = pointer(b, b.add(from_, b.mul(a_row, i64(r))))
        four = splat(b, b.load(place, align=1, typ=I32), VI)
        made.append([dot(b, sums[r][p], four, columns[p]) for p in range(parts)])
    after = b.add(i, i64(1))
    i.add_incoming(i64(0), entry)
    i.add_incoming(after, loop)
    for r in range(height):
        for p in range(parts):
            sums[r][p].add_incoming(iconst(0), entry)
            sums[r][p].add_incoming(made[r][p], loop)
    b.cbranch(b.icmp_signed("<", after, steps), loop, end)
    b.position_at_end(end)
    for r in range(height):
        for p in range(parts):
            to = pointer(b, b.add(out, i64(4 * (r * PANEL + p * LANES))))
            b.store(made[r][p], to, align=4)


def _dispatch(b: ir.IRBuilder, count: ir.Value, *args: ir.Value) -> None:
    end = b.append_basic_block("end")
    for height in HEIGHTS:
        here, other = (b.append_basic_block(n) for n in ("here", "other"))
        b.cbranch(b.icmp_signed("<=", count, i64(height)), here, other)
        b.position_at_end(here)
        body, name = functools.partial(_tile, height), f"lep_int8_attention_{height}"
        b.call(shared_function(b.module, name, ir.VoidType(), [I64] * 5, body), args)
        b.branch(end)
        b.position_at_end(other)
    b.branch(end)
    b.position_at_end(end)


@intrinsic
def _run(typingctx, count, a, a_row, panel, steps, out):
    """Write the sums of ``count`` rows (and of some behind them) by one panel; ``steps >= 1``."""

    def build(context, b, sig, args):
        fn = shared_function(b.module, "lep_int8_attention", ir.VoidType(), [I64] * 6, _dispatch)
        b.call(fn, args)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 6), build


# ----- codes --------------------------------------------------------------------------------------


@intrinsic
def _interleave(typingctx, to, source, stride, rows, left):
    """Store LANES words, of a byte of each of up to four ``rows`` of ``left`` columns; else 0."""

    def build(context, b, sig, args):
        to, source, stride, rows, left = args
        word = iconst(0)
        for i in range(4):
            there = b.icmp_signed("<", i64(i), rows)
            place = b.add(source, b.mul(stride, b.select(there, i64(i), i64(0))))
            mask = first_lanes(b, b.select(there, left, i64(0)))
            wide = b.zext(load_bytes(b, pointer(b, place), mask), VI)
            word = b.or_(word, b.shl(wide, iconst(8 * i)))
        b.store(word, pointer(b, to), align=4)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 5), build


@intrinsic
def _encode(typingctx, to, weights):
    """Store ``round(255 * weight)`` of LANES weights of 0 to 1 as bytes and return them."""

    def build(context, b, sig, args):
        to, weights = args
        x = b.fmul(number_of(b, weights), ir.Constant(weights.type, [255.0] * LANES))
        codes = nearest(b, x)
        over = b.icmp_signed(">", codes, iconst(255))
        codes = b.select(over, iconst(255), codes)
        b.store(b.trunc(codes, V8), pointer(b, to), align=1)
        return codes

    return vi32(types.int64, vf32), build


@intrinsic
def _total(typingctx, v):
    """Return the sum of the lanes of an int32 vector."""

    def build(context, b, sig, args):
        (v,) = args
        total = b.extract_element(v, ir.Constant(I32, 0))
        for i in range(1, LANES):
            total = b.add(total, b.extract_element(v, ir.Constant(I32, i)))
        return b.sext(total, I64)

    return types.int64(vi32), build


@inline_njit
def _pack_values(dst, src, keys, width, stride):
    steps = (keys + 3) // 4
    for p in range(0, width, PANEL):
        for s in range(steps):
            for j in range(0, PANEL, LANES):
                to = dst + p * 4 * steps + 4 * (s * PANEL + j)
                source = src + 4 * s * stride + min(p + j, width - 1)
                _interleave(to, source, stride, keys - 4 * s, width - p - j)


@inline_njit
def _key_sums(lost, packed, sums, ones, keys, depth):
    """Write 128 times the sum of each key's codes; ``ones``: scratch of ``depth`` bytes."""
    for d in range(depth // 4):
        sti32(ones, d, np.int32(_ONES))
    for p in range(0, keys, PANEL):
        _run(1, ones, 0, packed + p * depth, depth // 4, sums)
        for j in range(0, PANEL, LANES):
            vi_store(lost, p + j, vi_shl(vi_load(sums, j), vi_splat(np.int32(7))))


@inline_njit
def _queries(to, src, count, depth, stride):
    """Copy ``count`` rows of codes, moved by 128."""
    for i in range(count):
        for d in range(depth // 4):
            word = ldi32(src + i * stride, d) ^ np.int32(_MOVE)
            sti32(to + i * depth, d, np.int32(word))


@inline_njit
def _coded(args, scores, pitch, codes, factors, count, s0, keys):
    """Turn weights into codes, and the factor of each row into that of its sums."""
    scale = np.float32(argf(args, V_SCALE))
    for i in range(count):
        row, to = scores + 4 * i * pitch, codes + i * pitch
        seen = min(keys, s0 + i + 1) if arg(args, floats.CAUSAL) != 0 else keys
        total = vi_splat(np.int32(0))
        for t in range(0, keys, LANES):
            v = vselect(vfirst(seen - t), vload(row, t), vzero())
            total = vi_add(total, _encode(to + t, v))
        n, factor = _total(total), ldf(factors, i)
        if n > 0:
            stf(factors, i, scale / np.float32(n))
        elif factor == factor:
            stf(factors, i, np.float32(0.0))


# ----- the kernel ---------------------------------------------------------------------------------


@inline_njit
def _scores(args, scores, pitch, sums, q, count, packed, lost, keys):
    """Write the products of a block of queries with the keys, exact as floats."""
    depth = arg(args, floats.DEPTH)
    for p in range(0, keys, PANEL):
        _run(count, q, depth, packed + p * depth, depth // 4, sums)
        for i in range(count):
            for j in range(0, PANEL, LANES):
                whole = vi_sub(vi_load(sums, i * PANEL + j), vi_load(lost, p + j))
                vstore(scores, i * pitch + p + j, vtofloat(whole))


@inline_njit
def _outputs(args, out, codes, pitch, sums, factors, count, packed, keys):
    """Write the products of codes of weights with the values."""
    width, total = arg(args, floats.WIDTH), (arg(args, floats.KEYS) + 3) // 4
    for p in range(0, width, PANEL):
        _run(count, codes, pitch, packed + 4 * p * total, (keys + 3) // 4, sums)
        for i in range(count):
            to, factor = out + 4 * i * arg(args, floats.OUT_S), vsplat(ldf(factors, i))
            for j in range(0, min(PANEL, width - p), LANES):
                v = vmul(vtofloat(vi_load(sums, i * PANEL + j)), factor)
                vstore_n(to, p + j, v, width - p - j)


@inline_njit
def _block(args, scratch, b, h, s0):
    """Compute one block of up to ROWS queries; ``scratch``: see ``_places``."""
    factors, sums, lost, q, scores, codes, keys_packed, values_packed = scratch
    count, total = min(ROWS, arg(args, floats.QUERIES) - s0), arg(args, floats.KEYS)
    keys = min(total, s0 + count) if arg(args, floats.CAUSAL) != 0 else total
    pitch = (total + PANEL - 1) // PANEL * PANEL
    at = b * arg(args, floats.Q_B) + h * arg(args, floats.Q_H) + s0 * arg(args, floats.Q_S)
    _queries(q, arg(args, floats.Q) + at, count, arg(args, floats.DEPTH), arg(args, floats.Q_S))
    _scores(args, scores, pitch, sums, q, count, keys_packed, lost, keys)
    floats.weigh(args, scores, pitch, factors, b, h, s0, count, keys)
    _coded(args, scores, pitch, codes, factors, count, s0, keys)
    at = b * arg(args, floats.OUT_B) + h * arg(args, floats.OUT_H) + s0 * arg(args, floats.OUT_S)
    out = arg(args, floats.OUT) + 4 * at
    _outputs(args, out, codes, pitch, sums, factors, count, values_packed, keys)


@inline_njit
def _places(args, tid):
    """Return the addresses of a thread's scratch.

    In order: factors, sums, key sums, queries, scores, codes, packed keys, packed values.
    """
    depth, total = arg(args, floats.DEPTH), arg(args, floats.KEYS)
    pitch = (total + PANEL - 1) // PANEL * PANEL
    factors = arg(args, floats.SCRATCH) + tid * arg(args, floats.SCRATCH_BYTES)
    sums = factors + 8 * ROWS  # room for what the rows' factors are made from
    lost = sums + 4 * ROWS * PANEL
    q = lost + 4 * pitch
    scores = q + ROWS * depth
    codes = scores + 4 * ROWS * pitch
    keys = codes + ROWS * pitch
    return factors, sums, lost, q, scores, codes, keys, keys + pitch * depth


@kernel
def int8_attention(args, tid, nt, cuts):
    """Compute this thread's blocks of queries of every head; there are keys."""
    heads, queries = arg(args, floats.HEADS), arg(args, floats.QUERIES)
    total, depth = arg(args, floats.KEYS), arg(args, floats.DEPTH)
    blocks = (queries + ROWS - 1) // ROWS
    jobs, packed = arg(args, floats.BATCH) * heads * blocks, -1
    scratch = _places(args, tid)
    for job in range(*share(jobs, tid, nt, cuts)):
        head, s0 = job // blocks, job % blocks * ROWS
        b, h = head // heads, head % heads
        g = h // arg(args, floats.GROUP)
        if b * heads + g != packed:
            packed = b * heads + g
            k_t, v_t = arg(args, floats.K_T), arg(args, floats.V_T)
            k = arg(args, floats.K) + b * arg(args, floats.K_B) + g * arg(args, floats.K_H)
            v = arg(args, floats.V) + b * arg(args, floats.V_B) + g * arg(args, floats.V_H)
            floats.pack_keys(scratch[6], k, total, depth // 4, k_t // 4)
            _key_sums(scratch[2], scratch[6], scratch[1], scratch[3], total, depth)
            _pack_values(scratch[7], v, total, arg(args, floats.WIDTH), v_t)
        _block(args, scratch, b, h, s0)
