"""numba_cpu > kernels > winograd_plan: packed weights and blocks of :mod:`winograd`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leptonc.backends.numba_cpu.kernels.microkernel import PANEL, ROWS, VECTORS
from leptonc.backends.numba_cpu.kernels.pack import Fetch, aligned_empty, at_hand
from leptonc.backends.numba_cpu.kernels.vectype import LANES
from leptonc.backends.numba_cpu.kernels.winograd_points import Form, matrices

_BLOCK = 1 << 16  # float64 elements of transformed weights that are made at once


@dataclass(frozen=True)
class Blocking:
    """How one thread walks: tiles and panels at a time, and the scratch that takes in bytes."""

    tile_block: int
    panel_block: int
    scratch_bytes: int


def _vectors(channels: int) -> int:
    return -(-channels // LANES)


def depth(form: Form, channels: int) -> int:
    """Return the rows of a packed panel: of all planes, the whole vectors of channels of phases."""
    return sum(form.shares(k) for k in range(form.n)) ** 2 * _vectors(channels) * LANES


def blocking(form: Form, tiles: int, channels: int, columns: int) -> Blocking:
    """Return the blocks of a conv with ``tiles`` tiles (over the batch) of ``m x m`` outputs."""
    planes, panels, vector = form.n**2, -(-columns // PANEL), 4 * LANES
    v = planes * (form.stride**2 * _vectors(channels) * ROWS + 1) * vector  # of a group of ROWS
    product = planes * VECTORS * ROWS * vector  # M of one group and panel
    groups = min(2 if channels <= 4 * LANES else 4, -(-tiles // ROWS))
    panel_block = min(panels, 2)
    # Where tiles do not fill groups, they are spread over more of them.
    memory = 2 * groups * (v + panel_block * product)
    tables = 2 * 8 * groups * ROWS
    return Blocking(groups * ROWS, panel_block, form.side**2 * vector + memory + tables)


def transform_weights(weight: np.ndarray, form: Form, fetch: Fetch = at_hand) -> np.ndarray:
    """Return ``G g GT`` of ``weight: [out, in, 3, 3]``, panels ``f32[panels, depth, PANEL]``.

    Plane by plane, within it phase by phase, within that ``in`` channels and zeros up to whole
    vectors. Computed in float64 and rounded once, some outputs at a time, read by ``fetch``.
    """
    out, inner = weight.shape[:2]
    g, n, wide = matrices(form).g, form.n, _vectors(inner) * LANES
    panels = aligned_empty((-(-out // PANEL), depth(form, inner) // wide, wide, PANEL))
    panels[:, :, inner:] = 0.0
    panels[-1] = 0.0
    # The rows of the transform of all nine taps, in the order of the panels.
    rows = [
        _nine(form, g, i, j, py, px)
        for i in range(n)
        for j in range(n)
        for py in range(form.shares(i))
        for px in range(form.shares(j))
    ]
    both = np.stack(rows)
    step = min(PANEL, 1 << max(0, (_BLOCK // (len(rows) * max(1, inner))).bit_length() - 1))
    for first in range(0, out, step):
        # Columns of one panel: those of the next begin with a block of their own.
        p, j = divmod(first, PANEL)
        some = fetch(weight[first : first + step]).reshape(-1, inner, 9)
        taps = np.ascontiguousarray(some.transpose(2, 1, 0), dtype=np.float64)
        made = (both @ taps.reshape(9, -1)).reshape(-1, inner, len(some))
        panels[p, :, :inner, j : j + len(some)] = made
    return panels.reshape(len(panels), -1, PANEL)


def _nine(form: Form, g: np.ndarray, i: int, j: int, py: int, px: int) -> np.ndarray:
    """Return what plane ``(i, j)`` of phase ``(py, px)`` is made of: f64[9] for the nine taps."""
    made = np.zeros((3, 3))
    down, across = form.taps[py], form.taps[px]
    made[np.ix_(down, across)] = np.outer(g[i, : len(down)], g[j, : len(across)])
    return made.reshape(9)
