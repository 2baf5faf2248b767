"""numba_cpu > kernels > int8_winograd_plan: packed weights and blocks of :mod:`int8_winograd`."""

from __future__ import annotations

import numpy as np

from leptonc.backends.numba_cpu.kernels.int8_winograd_forms import Form
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL, ROWS
from leptonc.backends.numba_cpu.kernels.pack import aligned_empty
from leptonc.backends.numba_cpu.kernels.vectype import LANES

V_BYTES = 192 * 1024  # of transformed codes that a block of tiles takes of the second-level cache
FEWEST_GROUPS, MOST_GROUPS = 2, 16  # of ROWS tiles, in a block


def pairs(channels: int) -> int:
    """Return the pairs of channels, a step of depth each."""
    return -(-channels // 2)


def pitch(channels: int) -> int:
    """Return the bytes of a transformed pixel: whole vectors of int16."""
    return 4 * LANES * -(-channels // (2 * LANES))


def tile_block(form: Form, tiles: int, channels: int) -> int:
    """Return the tiles of a block, whole groups of ROWS, all blocks about as large."""
    most = V_BYTES // (form.planes * ROWS * pitch(channels))
    most = ROWS * min(max(most, FEWEST_GROUPS), MOST_GROUPS)
    blocks = max(1, -(-tiles // most))
    return max(1, -(-tiles // (blocks * ROWS))) * ROWS


def transform_weights(form: Form, weight: np.ndarray) -> np.ndarray:
    """Return ``G g GT`` of ``weight: i8[out, in, 3, 3]``: ``i16[panels, planes, pairs, PANEL, 2]``.

    Zeros stand behind the columns, and behind the channels where they are odd.
    """
    out, inner = weight.shape[:2]
    made = aligned_empty((-(-out // PANEL), form.planes, pairs(inner), PANEL, 2), np.int16)
    made[...] = 0
    # In float32, of which all of it is whole numbers: products of int32 take ten times as long.
    both = np.einsum("ia,jb->ijab", form.g, form.g).reshape(form.planes, 9).astype(np.float32)
    for p, panel in enumerate(made):
        some = weight[p * PANEL : (p + 1) * PANEL].astype(np.float32)
        taps = some.transpose(2, 3, 1, 0).reshape(9, -1)
        planes = (both @ taps).reshape(form.planes, inner, len(some))
        for k in range(2):
            panel[:, : inner // 2 + (inner % 2 > k), : len(some), k] = planes[:, k::2]
    return made
