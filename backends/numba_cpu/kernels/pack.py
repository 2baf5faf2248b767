"""numba_cpu > kernels > pack: weights and run-time matrices into the panels that ``igemm`` reads.

Packed B of one outer index is ``f32[ceil(N / PANEL)][taps * depth][PANEL]``, zero beyond N.
Constant weights are packed once with numpy; :data:`pack_b` packs run-time matrices;
:data:`pad_image` prepares the input of a first layer.
"""

from __future__ import annotations

import numpy as np

from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL
from leptonc.backends.numba_cpu.kernels.vec import (
    LANES,
    arg,
    argf,
    ldf,
    stf,
    vload_n,
    vload_step,
    vmul,
    vsplat,
    vstore,
)


def panel_count(columns: int) -> int:
    """Return the number of panels that hold ``columns`` columns."""
    return -(-columns // PANEL)


def packed_size(columns: int, depth: int) -> int:
    """Return the floats of packed B with ``depth`` rows (all taps together)."""
    return panel_count(columns) * depth * PANEL


def pack_matrix(b: np.ndarray) -> np.ndarray:
    """Return ``b: [..., k, n]`` as panels ``f32[..., ceil(n / PANEL), k, PANEL]``."""
    *outer, k, n = b.shape
    count = panel_count(n)
    padded = np.zeros((*outer, k, count * PANEL), np.float32)
    padded[..., :n] = b
    panels = np.moveaxis(padded.reshape(*outer, k, count, PANEL), -2, -3)
    return np.ascontiguousarray(panels)


def pack_linear(weight: np.ndarray) -> np.ndarray:
    """Return packed panels of a linear layer's ``weight: [out, in]``."""
    return pack_matrix(weight.T)


def pack_conv(weight: np.ndarray, groups: int = 1) -> np.ndarray:
    """Return panels ``f32[groups, panels, taps * in, PANEL]`` of a conv's weight.

    ``weight: [out, in / groups, *kernel]`` as in ``torch.nn.Conv*``.

    Taps are in row-major kernel order, so a run of taps along the last axis is also one long row of
    channels (what :func:`igemm_plan.merged_conv` relies on).
    """
    out, inner, *kernel_size = weight.shape
    taps = int(np.prod(kernel_size))
    w = weight.reshape(groups, out // groups, inner, taps)
    return pack_matrix(w.transpose(0, 3, 2, 1).reshape(groups, taps * inner, out // groups))


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


@inline_njit
def _pack_vector(src, step, n):
    """Return ``n`` elements ``step`` apart, 0 in the other lanes."""
    if step == 1:
        return vload_n(src, 0, n)
    if n >= LANES:
        return vload_step(src, 0, step)
    return vsplat(0.0)


@inline_njit
def _pack_panel(args, src, dst, n):
    """Pack ``n`` columns."""
    depth, row, col, scale = arg(args, P_K), arg(args, P_ROW), arg(args, P_COL), argf(args, P_SCALE)
    factor = vsplat(scale)
    for k in range(depth):
        for j in range(0, PANEL, LANES):
            here, left = src + 4 * (k * row + j * col), n - j
            vstore(dst, k * PANEL + j, vmul(_pack_vector(here, col, left), factor))
            if col != 1 and left < LANES:
                for c in range(left):
                    stf(dst, k * PANEL + j + c, ldf(here, c * col) * scale)


@kernel
def pack_b(args, tid, nt):
    """Pack run-time matrices ``B[o0, o1][k, n] * scale``, whole panels per thread.

    Slots: outer0, outer1, K, N, source, its strides o0, o1, k, n, destination, its strides o0, o1,
        scale (float).
    """
    n, panels = arg(args, P_N), (arg(args, P_N) + PANEL - 1) // PANEL
    outer1 = arg(args, P_OUTER1)
    jobs = arg(args, P_OUTER0) * outer1 * panels
    for job in range(jobs * tid // nt, jobs * (tid + 1) // nt):
        o, p = job // panels, job % panels
        o0, o1 = o // outer1, o % outer1
        src = o0 * arg(args, P_O0) + o1 * arg(args, P_O1) + p * PANEL * arg(args, P_COL)
        dst = o0 * arg(args, P_D0) + o1 * arg(args, P_D1) + p * PANEL * arg(args, P_K)
        _pack_panel(args, arg(args, P_SRC) + 4 * src, arg(args, P_DST) + 4 * dst, n - p * PANEL)


(
    I_LINES, I_W, I_C, I_SRC, I_N, I_H, I_LINE0, I_X, I_CH, I_DST, I_LEFT, I_WIDTH,
) = range(12)  # fmt: skip


@kernel
def pad_image(args, tid, nt):
    """Copy images of any layout to channels-last lines with zero columns left and right.

    Slots: lines (all images' ``N * H``), W, C, source, its strides n and h, H, its strides w and c,
        destination ``f32[lines][width][C]``, zero columns on the left, width.
    """
    lines, w, c = arg(args, I_LINES), arg(args, I_W), arg(args, I_C)
    height, step, step_c = arg(args, I_LINE0), arg(args, I_X), arg(args, I_CH)
    left, width = arg(args, I_LEFT), arg(args, I_WIDTH)
    for line in range(lines * tid // nt, lines * (tid + 1) // nt):
        n, h = line // height, line % height
        src = arg(args, I_SRC) + 4 * (n * arg(args, I_N) + h * arg(args, I_H))
        dst = arg(args, I_DST) + 4 * line * width * c
        for i in range(left * c):
            stf(dst, i, 0.0)
        for x in range(w):
            for ch in range(c):
                stf(dst, (left + x) * c + ch, ldf(src, x * step + ch * step_c))
        for i in range((left + w) * c, width * c):
            stf(dst, i, 0.0)
