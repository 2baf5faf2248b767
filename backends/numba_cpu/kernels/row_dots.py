"""numba_cpu > kernels > row_dots: one row times a matrix of few columns, each a long sum.

A panel of :mod:`igemm` is ``PANEL`` columns wide. Of ten, it would load and multiply three times as
many, most of them zeros, and a step of the sum would end after a vector or two. Here the lanes are
those of the sum: a column of the matrix is one stretch of memory, as torch keeps the weights of a
linear layer. The lanes of :data:`CHAINS` partial sums are added up at the end.

Every sum is the same for any number of threads. Error: a product is part of at most
:func:`additions` roundings, far fewer than in a sum from term to term.
"""

from __future__ import annotations

import numpy as np

from leptonc.backends.numba_cpu.kernels.activation import vact
from leptonc.backends.numba_cpu.kernels.base import inline_njit, kernel
from leptonc.backends.numba_cpu.kernels.pack import Fetch, aligned_empty, at_hand, copy_by_pieces
from leptonc.backends.numba_cpu.kernels.prefetch import ask_soon
from leptonc.backends.numba_cpu.kernels.shares import share
from leptonc.backends.numba_cpu.kernels.vec import (
    LANES,
    arg,
    argf,
    stf,
    vadd,
    vfma,
    vload,
    vload_n,
    vstore_n,
    vsum,
    vzero,
)

NAMES = ("columns", "depth", "a", "weights", "bias", "out", "act", "act_p0", "act_p1")
"""Slots of the record, in order. ``a``: address of ``f32[depth]``; ``weights``: of ``f32[columns,
depth]``; ``bias``: of ``f32[columns]``, or 0; ``out``: of ``f32[columns]``; ``act``: an ``Act``."""

COLUMNS, DEPTH, A, WEIGHTS, BIAS, OUT, ACT, ACT_P0, ACT_P1 = range(len(NAMES))
CHAINS = 4  # partial sums: additions that need not wait for each other
MOST = LANES  # columns from which on a panel of igemm is at least half full
LEAST = 16 * LANES  # terms below which adding up lanes takes too large a part
_STEP = CHAINS * LANES
_AHEAD = 2048  # bytes of weights to ask for before they are read


def pack_columns(weight: np.ndarray, fetch: Fetch = at_hand) -> np.ndarray:
    """Return the weights ``[out, in]`` of a linear layer row by row; ``fetch``: see :mod:`pack`."""
    packed = aligned_empty(weight.shape)
    copy_by_pieces(packed, weight, fetch)
    return packed


def additions(depth: int) -> int:
    """Return how many roundings a term of a sum of ``depth`` may meet, a bias included.

    Those of its chain and of what is left of the depth, then those of chains and of lanes.
    """
    return depth // _STEP + CHAINS + 2 + LANES.bit_length() + 1


@inline_njit
def _dot(a, w, depth):
    """Return the sum of the products of ``depth`` floats at ``a`` and at ``w``."""
    c0, c1, c2, c3 = vzero(), vzero(), vzero(), vzero()
    k = 0
    while k + _STEP <= depth:
        for line in range(0, 4 * _STEP, 64):
            ask_soon(w + 4 * k + _AHEAD + line)
        c0 = vfma(vload(a, k), vload(w, k), c0)
        c1 = vfma(vload(a, k + LANES), vload(w, k + LANES), c1)
        c2 = vfma(vload(a, k + 2 * LANES), vload(w, k + 2 * LANES), c2)
        c3 = vfma(vload(a, k + 3 * LANES), vload(w, k + 3 * LANES), c3)
        k += _STEP
    while k < depth:
        c0 = vfma(vload_n(a, k, depth - k), vload_n(w, k, depth - k), c0)
        k += LANES
    return vsum(vadd(vadd(c0, c1), vadd(c2, c3)))


@kernel
def row_dots(args, tid, nt, cuts):
    """Compute this thread's columns of the product that the record describes."""
    columns, depth, a, out = arg(args, COLUMNS), arg(args, DEPTH), arg(args, A), arg(args, OUT)
    bias, code = arg(args, BIAS), arg(args, ACT)
    p0, p1 = argf(args, ACT_P0), argf(args, ACT_P1)
    begin, end = share(columns, tid, nt, cuts)
    for j in range(begin, end):
        stf(out, j, _dot(a, arg(args, WEIGHTS) + 4 * j * depth, depth))
    for j in range(begin, end, LANES):
        v = vload_n(out, j, end - j)
        if bias != 0:
            v = vadd(v, vload_n(bias, j, end - j))
        vstore_n(out, j, vact(code, v, p0, p1), end - j)
