"""numba_cpu > kernels > int8_winograd_plan: packed weights and blocks of :mod:`int8_winograd`."""

from __future__ import annotations

import numpy as np

from leptonc.backends.numba_cpu.kernels.microkernel import PANEL, ROWS
from leptonc.backends.numba_cpu.kernels.pack import aligned_empty
from leptonc.backends.numba_cpu.kernels.vectype import LANES

SIDE, PLANES = 4, 16  # of a tile of codes; what it is transformed to
V_BYTES = 192 * 1024  # of transformed codes that a block of tiles takes of the second-level cache
FEWEST_GROUPS, MOST_GROUPS = 2, 16  # of ROWS tiles, in a block
#: Twice the matrix of Lavin & Gray, so that it is whole: both sides make the sums 4 times as large.
G = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]], np.int32)
#: int32 must hold four times a sum, and the products of the plane of all nine weights, which reach
#: as far: codes up to 4 * 255, weights to 9 * 128.
MOST_CHANNELS = (2**31 - 1) // (4 * 255 * 9 * 128)


def fits(channels: int) -> bool:
    """Return whether int32 holds every sum over ``channels``."""
    return channels <= MOST_CHANNELS


def pairs(channels: int) -> int:
    """Return the pairs of channels, a step of depth each."""
    return -(-channels // 2)


def pitch(channels: int) -> int:
    """Return the bytes of a transformed pixel: whole vectors of int16."""
    return 4 * LANES * -(-channels // (2 * LANES))


def tile_block(tiles: int, channels: int) -> int:
    """Return the tiles of a block, whole groups of ROWS, all blocks about as large."""
    most = V_BYTES // (PLANES * ROWS * pitch(channels))
    most = ROWS * min(max(most, FEWEST_GROUPS), MOST_GROUPS)
    blocks = max(1, -(-tiles // most))
    return max(1, -(-tiles // (blocks * ROWS))) * ROWS


def transform_weights(weight: np.ndarray) -> np.ndarray:
    """Return ``G g GT`` of ``weight: i8[out, in, 3, 3]`` as ``i16[panels, 16, pairs, PANEL, 2]``.

    Zeros stand behind the columns, and behind the channels where they are odd.
    """
    out, inner = weight.shape[:2]
    planes = np.einsum("ia,ncab,jb->nijc", G, weight.astype(np.int32), G)
    made = aligned_empty((-(-out // PANEL), PLANES, pairs(inner), PANEL, 2), np.int16)
    padded = np.zeros((len(made) * PANEL, PLANES, 2 * pairs(inner)), np.int16)
    padded[:out, :, :inner] = planes.reshape(out, PLANES, inner)
    cut = padded.reshape(len(made), PANEL, PLANES, pairs(inner), 2)
    made[...] = cut.transpose(0, 2, 3, 1, 4)
    return made
