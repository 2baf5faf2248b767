"""numba_cpu > kernels > winograd_plan: packed weights and blocks of :mod:`winograd`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from leptonc.backends.numba_cpu.kernels.base import inline_njit
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL, ROWS, VECTORS
from leptonc.backends.numba_cpu.kernels.pack import Fetch, aligned_empty, at_hand, copy_by_pieces
from leptonc.backends.numba_cpu.kernels.vectype import LANES
from leptonc.backends.numba_cpu.kernels.winograd_late import Late
from leptonc.backends.numba_cpu.kernels.winograd_points import Form, matrices
from leptonc.backends.numba_cpu.kernels.winograd_product import HEIGHTS, UNROLL

_BLOCK = 1 << 16  # float64 elements of transformed weights that are made at once
_SECOND = 1 << 20  # bytes of a second-level cache


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
    shares = math.prod(sum(axis.shares(k) for k in range(axis.n)) for axis in form)
    return shares * _vectors(channels) * LANES


def slots(form: Form, channels: int) -> dict[str, int]:
    """Return what the record says of a form and its channels, but for its transforms."""
    y, x = form
    return {
        "stride": form.stride, "m_y": y.m, "m_x": x.m,
        "n_y": y.n, "n_x": x.n, "side_y": y.side, "side_x": x.side, "steps": -(-channels // UNROLL),
    }  # fmt: skip


def blocking(
    form: Form, tiles: int, channels: int, columns: int, late: Late | None = None
) -> Blocking:
    """Return the blocks of a conv with ``tiles`` tiles for each thread, its weights ``late``."""
    panels, vector = -(-columns // PANEL), 4 * LANES
    # V of a group of ROWS.
    v = form.planes * (form.stride**2 * _vectors(channels) * ROWS + 1) * vector
    panel_block = min(panels, 2)
    group = v + panel_block * _product(form)
    most = 2 if channels <= 4 * LANES else 4
    if late is None:
        most = min(most, _near_groups(form, channels, columns, group) or most)
    groups = min(most, -(-tiles // ROWS))
    memory = _most_groups(groups * ROWS) * group
    tables, block = 2 * 8 * groups * ROWS, groups * ROWS
    if late is not None:
        tables = -(-tables // vector) * vector + late.made_bytes(form)
    if late is not None and late.products is not None:
        panel_block = 1  # M goes in and out with each block of channels
        v = form.planes * _vectors(channels) * late.height * vector
        together = -(-min(tiles, block) // late.height)
        memory, block = together * (v + _product(form)), together * late.height
    return Blocking(block, panel_block, _patch(form) + memory + tables)


def _near_groups(form: Form, channels: int, columns: int, group: int) -> int:
    """Return how many groups of tiles, of so many bytes of scratch, the second-level cache holds.

    With all weights, and the groups' parts of the image and of the result. Where that is 0, weights
    come from far for each block, which should be large then.
    """
    pixels = form.y.m * form.x.m * (form.stride**2 * channels + columns)
    weights = 4 * PANEL * depth(form, channels) * -(-columns // PANEL)
    return max(0, _SECOND - weights) // (group + 4 * ROWS * pixels)


@functools.cache
def _most_groups(count: int) -> int:
    """Return how many groups up to ``count`` tiles make at most."""
    rows: Callable[[int], int] = getattr(rows_of_groups, "py_func", rows_of_groups)
    return max(-(-tiles // rows(tiles)) for tiles in range(1, count + 1))


@inline_njit
def rows_of_groups(count):
    """Return how many of ``count`` tiles to put into a group, so that the products take least."""
    best, best_rows = -1, ROWS
    for rows in HEIGHTS:
        rest = count % rows
        cost = count // rows * rows + (0 if rest == 0 else max(rest + rest % 2, HEIGHTS[-1]))
        # A group also reads the weights once more from the second-level cache.
        cost = 4 * cost + (count + rows - 1) // rows
        if best < 0 or cost < best:
            best, best_rows = cost, rows
    return best_rows


def _product(form: Form) -> int:
    """Return the bytes of M of one group and panel."""
    return form.planes * VECTORS * ROWS * 4 * LANES


def _patch(form: Form) -> int:
    return form.y.side * form.x.side * 4 * LANES


def transform_weights(weight: np.ndarray, form: Form, fetch: Fetch = at_hand) -> np.ndarray:
    """Return ``G g GT`` of ``weight: [out, in, *kernel]``, panels ``f32[panels, depth, PANEL]``.

    Plane by plane, within it phase by phase, within that ``in`` channels and zeros up to whole
    vectors. Computed in float64 and rounded once, some outputs at a time, read by ``fetch``.
    """
    out, inner = weight.shape[:2]
    wide, taps = _vectors(inner) * LANES, math.prod(form.kernel)
    panels = aligned_empty((-(-out // PANEL), depth(form, inner) // wide, wide, PANEL))
    panels[:, :, inner:] = 0.0
    panels[-1] = 0.0
    # The rows of the transform of all taps, in the order of the panels.
    rows = [
        _row(form, i, j, py, px)
        for i in range(form.y.n)
        for j in range(form.x.n)
        for py in range(form.y.shares(i))
        for px in range(form.x.shares(j))
    ]
    both = np.stack(rows)
    step = min(PANEL, 1 << max(0, (_BLOCK // (len(rows) * max(1, inner))).bit_length() - 1))
    for first in range(0, out, step):
        # Columns of one panel: those of the next begin with a block of their own.
        p, j = divmod(first, PANEL)
        some = fetch(weight[first : first + step]).reshape(-1, inner, taps)
        by_tap = np.ascontiguousarray(some.transpose(2, 1, 0), dtype=np.float64)
        made = (both @ by_tap.reshape(taps, -1)).reshape(-1, inner, len(some))
        panels[p, :, :inner, j : j + len(some)] = made
    return panels.reshape(len(panels), -1, PANEL)


def _row(form: Form, i: int, j: int, py: int, px: int) -> np.ndarray:
    """Return what plane ``(i, j)`` of phase ``(py, px)`` is made of: f64[taps] for all taps."""
    made = np.zeros(form.kernel)
    down, across = form.y.phases[py], form.x.phases[px]
    g_y, g_x = matrices(form.y).g[i], matrices(form.x).g[j]
    made[np.ix_(down, across)] = np.outer(g_y[: len(down)], g_x[: len(across)])
    return made.reshape(-1)


def pack_late(weight: np.ndarray, vectors: int, fetch: Fetch = at_hand) -> np.ndarray:
    """Return ``weight: [out, in, *kernel]`` as ``f32[out by columns, in, taps, columns]``.

    ``vectors``: that lie side by side, of which columns are made up; the panel is a multiple.
    """
    out, inner = weight.shape[:2]
    taps, columns = weight.reshape(out, inner, -1).transpose(1, 2, 0), vectors * LANES
    made = aligned_empty((-(-out // PANEL) * PANEL // columns, inner, taps.shape[1], columns))
    for j, some in enumerate(made):
        part = taps[..., j * columns : (j + 1) * columns]
        copy_by_pieces(some[..., : part.shape[-1]], part, fetch)
        some[..., part.shape[-1] :] = 0.0
    return made
