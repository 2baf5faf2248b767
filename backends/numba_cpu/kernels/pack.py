"""numba_cpu > kernels > pack: weights and run-time matrices into the panels that ``igemm`` reads.

Packed B of one outer index is ``f32[ceil(N / PANEL)][taps * depth][PANEL]``, zero beyond N.
Constant weights are packed once with numpy; :data:`pack_b` packs run-time matrices;
:data:`pad_image` prepares the input of a first layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL
from leptonc.backends.numba_cpu.kernels.shares import share
from leptonc.backends.numba_cpu.kernels.vec import (
    LANES,
    arg,
    argf,
    ldf,
    stf,
    vload,
    vload_n,
    vsplat,
    vstore,
    vstore_n,
)
from leptonc.backends.numba_cpu.kernels.vectype import i64, load_vec, pointer, shuffle, vf32

CACHE_LINE = 64  # bytes; also the widest vector register
PACE = 128 << 10  # bytes of a weight that are read at once

# Gives the elements of an array that lies elsewhere, maybe in memory that the next call reuses.
Fetch = Callable[[np.ndarray], np.ndarray]


def at_hand(array: np.ndarray) -> np.ndarray:
    """Return ``array``: a :data:`Fetch` for what is in memory."""
    return array


def panel_count(columns: int) -> int:
    """Return the number of panels that hold ``columns`` columns."""
    return -(-columns // PANEL)


def packed_size(columns: int, depth: int) -> int:
    """Return the floats of packed B with ``depth`` rows (all taps together)."""
    return panel_count(columns) * depth * PANEL


def aligned_empty(shape: Sequence[int], dtype: type[np.generic] = np.float32) -> np.ndarray:
    """Return a new array at a cache line, with a vector's room behind it."""
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(nbytes + 2 * CACHE_LINE, np.uint8)
    at = -raw.ctypes.data % CACHE_LINE
    raw[at + nbytes :] = 0
    return raw[at : at + nbytes].view(dtype).reshape(shape)


def copy_by_pieces(to: np.ndarray, source: np.ndarray, fetch: Fetch) -> None:
    """Copy ``source``, of which no two elements fetched at once lie much over ``PACE`` apart.

    Pieces are cut where elements lie farthest apart, so that each is read from one stretch.
    """
    steps = [abs(s) if n > 1 else 0 for s, n in zip(source.strides, source.shape, strict=True)]
    axis = int(np.argmax(steps)) if steps else 0
    some = max(1, PACE // max(1, steps[axis])) if steps else 1
    if not steps or some >= source.shape[axis]:
        to[...] = fetch(source)
        return
    for i in range(0, source.shape[axis], some):
        piece = (*(slice(None),) * axis, slice(i, i + some))
        to[piece] = fetch(source[piece])


def pack_matrix(b: np.ndarray, depth_axes: int = 1, fetch: Fetch = at_hand) -> np.ndarray:
    """Return ``b: [..., *k, n]`` as panels ``f32[..., ceil(n / PANEL), prod(k), PANEL]``.

    ``depth_axes`` is the number of axes ``k``. A panel at a time stays in the cache, whatever the
    strides of ``b`` are. What lies in a file comes through ``fetch``, piece by piece.
    """
    n, split = b.shape[-1], b.ndim - 1 - depth_axes
    outer, depth, count = b.shape[:split], b.shape[split:-1], panel_count(n)
    panels = aligned_empty((*outer, count, *depth, PANEL))
    for *index, p in np.ndindex(*outer, count):
        part = b[tuple(index)][..., p * PANEL : (p + 1) * PANEL]
        panel = panels[(*index, p)]
        copy_by_pieces(panel[..., : part.shape[-1]], part, fetch)
        panel[..., part.shape[-1] :] = 0.0
    return panels.reshape(*outer, count, math.prod(depth), PANEL)


def pack_linear(weight: np.ndarray, fetch: Fetch = at_hand) -> np.ndarray:
    """Return packed panels of a linear layer's ``weight: [out, in]``; ``fetch``: see above."""
    return pack_matrix(weight.T, fetch=fetch)


def merge_groups(weight: np.ndarray, channels: int, groups: int) -> np.ndarray:
    """Return ``weight: [n, c, *kernel]`` of small groups as that of fewer, ``groups``."""
    n, c, *kernel = weight.shape
    factor = channels // c // groups
    if factor == 1:
        return weight
    columns = n // (groups * factor)
    wide = np.zeros((groups, factor, columns, factor, c, *kernel), weight.dtype)
    parts = weight.reshape(groups, factor, columns, c, *kernel)
    for i in range(factor):
        wide[:, i, :, i] = parts[:, i]
    return wide.reshape(n, factor * c, *kernel)


def pack_conv(weight: np.ndarray, groups: int = 1, fetch: Fetch = at_hand) -> np.ndarray:
    """Return panels ``f32[groups, panels, taps * in, PANEL]`` of a conv's weight.

    ``weight: [out, in / groups, *kernel]`` as in ``torch.nn.Conv*``; ``fetch``: as above.

    Taps are in row-major kernel order, so a run of taps along the last axis is also one long row of
    channels (what :func:`igemm_plan.merged_conv` relies on).
    """
    out, inner, *kernel_size = weight.shape
    taps = int(np.prod(kernel_size))
    w = weight.reshape(groups, out // groups, inner, taps)
    return pack_matrix(w.transpose(0, 3, 2, 1), depth_axes=2, fetch=fetch)


def pack_conv_taps(weight: np.ndarray, taps: list[tuple[int, ...]], groups: int = 1) -> np.ndarray:
    """Like :func:`pack_conv` for the kernel positions ``taps`` of a transposed conv.

    Args:
        weight: ``[in, out / groups, *kernel]``, the layout of ``torch.nn.ConvTranspose*``.
        taps: kernel positions of one phase.
        groups: number of groups.
    """
    inner, out, *_ = weight.shape
    w = weight.reshape(groups, inner // groups, *weight.shape[1:])
    chosen = np.zeros((groups, len(taps), inner // groups, out), np.float32)
    for i, tap in enumerate(taps):
        chosen[:, i] = w[(slice(None), slice(None), slice(None), *tap)]
    return pack_matrix(chosen.reshape(groups, len(taps) * (inner // groups), out))


(
    P_OUTER0, P_OUTER1, P_K, P_N, P_SRC, P_O0, P_O1, P_ROW, P_COL, P_DST, P_D0, P_D1, P_SCALE,
) = range(13)  # fmt: skip


@intrinsic
def transpose_block(typingctx, src, step, dst, to_step, factor):
    """Store ``dst[k * to_step + n] = src[n * step + k] * factor`` for ``k, n < LANES``.

    Swaps blocks of halving size between pairs of registers (Eklundh's method).
    """

    def build(context, b, sig, args):
        src, step, dst, to_step, factor = args
        rows = [
            b.fmul(load_vec(b, pointer(b, src, b.mul(step, i64(n)))), factor) for n in range(LANES)
        ]
        half = LANES // 2
        while half:
            for n in (n for n in range(LANES) if not n & half):
                x, y = rows[n], rows[n + half]
                low = [j if not j & half else LANES + j - half for j in range(LANES)]
                high = [j + half if not j & half else LANES + j for j in range(LANES)]
                rows[n], rows[n + half] = (shuffle(b, x, y, lanes) for lanes in (low, high))
            half //= 2
        for k in range(LANES):
            b.store(rows[k], pointer(b, dst, b.mul(to_step, i64(k))), align=4)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 4, vf32), build


@intrinsic
def _store_three(typingctx, dst, x, y, z):
    """Store ``x[0], y[0], z[0], x[1], ...``: LANES pixels of three channels."""

    def build(context, b, sig, args):
        dst, x, y, z = args
        for part in range(3):
            place = [divmod(part * LANES + j, 3) for j in range(LANES)]
            two = shuffle(b, x, y, [n + LANES * (c == 1) for n, c in place])
            all_ = shuffle(
                b, two, z, [LANES + n if c == 2 else j for j, (n, c) in enumerate(place)]
            )
            b.store(all_, pointer(b, dst, i64(part * LANES)), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, vf32, vf32, vf32), build


@inline_njit
def _pack_few(src, dst, k0, k1, row, col, n, scale):
    """Pack rows ``k0 .. k1`` of ``n`` <= PANEL columns that are ``col`` floats apart."""
    for k in range(k0, k1):
        for c in range(n):
            stf(dst, k * PANEL + c, ldf(src, k * row + c * col) * scale)
        for c in range(n, PANEL):
            stf(dst, k * PANEL + c, 0.0)


@inline_njit
def _pack_panel(args, src, dst, n):
    """Pack the first ``n`` columns from ``src`` into one panel."""
    depth, row, col, scale = arg(args, P_K), arg(args, P_ROW), arg(args, P_COL), argf(args, P_SCALE)
    factor = vsplat(scale)
    if col == 1:
        for k in range(depth):
            for j in range(0, PANEL, LANES):
                vstore(dst, k * PANEL + j, vload_n(src, k * row + j, n - j) * factor)
        return
    done = 0
    if row == 1 and n >= PANEL:
        done = depth - depth % LANES
        for k in range(0, done, LANES):
            for j in range(0, PANEL, LANES):
                to = dst + 4 * (k * PANEL + j)
                transpose_block(src + 4 * (j * col + k), col, to, PANEL, factor)
    _pack_few(src, dst, done, depth, row, col, min(n, PANEL), scale)


@kernel
def pack_b(args, tid, nt, cuts):
    """Pack run-time matrices ``B[o0, o1][k, n] * scale``, whole panels per thread.

    Slots: outer0, outer1, K, N, source, its strides o0, o1, k, n, destination, its strides o0, o1,
        scale (float).
    """
    n, panels = arg(args, P_N), (arg(args, P_N) + PANEL - 1) // PANEL
    outer1 = arg(args, P_OUTER1)
    jobs = arg(args, P_OUTER0) * outer1 * panels
    for job in range(*share(jobs, tid, nt, cuts)):
        o, p = job // panels, job % panels
        o0, o1 = o // outer1, o % outer1
        src = o0 * arg(args, P_O0) + o1 * arg(args, P_O1) + p * PANEL * arg(args, P_COL)
        dst = o0 * arg(args, P_D0) + o1 * arg(args, P_D1) + p * PANEL * arg(args, P_K)
        _pack_panel(args, arg(args, P_SRC) + 4 * src, arg(args, P_DST) + 4 * dst, n - p * PANEL)


(
    I_LINES, I_W, I_C, I_SRC, I_N, I_H, I_LINE0, I_X, I_CH, I_DST, I_LEFT, I_WIDTH,
) = range(12)  # fmt: skip


@inline_njit
def _copy_line(src, dst, w, c, step, step_c):
    """Copy ``w`` pixels of ``c`` channels, ``step`` and ``step_c`` floats apart, densely."""
    done = 0
    if step == c and (step_c == 1 or c == 1):
        for i in range(0, w * c, LANES):
            vstore_n(dst, i, vload_n(src, i, w * c - i), w * c - i)
        return
    if step == 1 and c == 3:
        done = w - w % LANES
        for x in range(0, done, LANES):
            red, green, blue = vload(src, x), vload(src, x + step_c), vload(src, x + 2 * step_c)
            _store_three(dst + 12 * x, red, green, blue)
    for x in range(done, w):
        for ch in range(c):
            stf(dst, x * c + ch, ldf(src, x * step + ch * step_c))


@kernel
def pad_image(args, tid, nt, cuts):
    """Copy images of any layout to channels-last lines with zero columns left and right.

    Slots: lines (all images' ``N * H``), W, C, source, its strides n and h, H, its strides w and c,
        destination ``f32[lines][width][C]``, zero columns on the left, width.
    """
    lines, w, c = arg(args, I_LINES), arg(args, I_W), arg(args, I_C)
    height, step, step_c = arg(args, I_LINE0), arg(args, I_X), arg(args, I_CH)
    left, width = arg(args, I_LEFT), arg(args, I_WIDTH)
    for line in range(*share(lines, tid, nt, cuts)):
        n, h = line // height, line % height
        src = arg(args, I_SRC) + 4 * (n * arg(args, I_N) + h * arg(args, I_H))
        dst = arg(args, I_DST) + 4 * line * width * c
        for i in range(left * c):
            stf(dst, i, 0.0)
        _copy_line(src, dst + 4 * left * c, w, c, step, step_c)
        for i in range((left + w) * c, width * c):
            stf(dst, i, 0.0)
