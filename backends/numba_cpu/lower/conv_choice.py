"""numba_cpu > lower > conv_choice: which algorithm runs a convolution, by a cost model."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from leptonc.backends.numba_cpu.kernels.microkernel import PANEL
from leptonc.backends.numba_cpu.kernels.vectype import LANES


class Algorithm(enum.Enum):
    """How a convolution runs."""

    IGEMM = "igemm"
    WINOGRAD_2 = "winograd2"
    WINOGRAD_4 = "winograd4"
    DEPTHWISE = "depthwise"


@dataclass(frozen=True)
class ConvShape:
    """Sizes and attributes of a convolution; the tuples have one entry per spatial axis."""

    batch: int
    channels: int
    size: tuple[int, ...]
    out_channels: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    out: tuple[int, ...]


def choose(shape: ConvShape, precision: str) -> Algorithm:
    """Return the fastest algorithm for constant weights; ``precision="strict"`` forbids Winograd."""
    if shape.groups == shape.channels == shape.out_channels and shape.channels > 1:
        return Algorithm.DEPTHWISE
    if not _winograd_fits(shape) or precision == "strict":
        return Algorithm.IGEMM
    costs = {
        Algorithm.IGEMM: igemm_cost(shape),
        Algorithm.WINOGRAD_2: winograd_cost(shape, 2),
        Algorithm.WINOGRAD_4: winograd_cost(shape, 4),
    }
    return min(costs, key=lambda a: costs[a])


def _winograd_fits(s: ConvShape) -> bool:
    return (
        s.kernel == (3, 3)
        and s.stride == s.dilation == (1, 1)
        and s.groups == 1
        and min(s.channels, s.out_channels) >= LANES
    )


# Costs are in cycles of one core, from measurements on a core with two 512-bit multipliers.
WEIGHT_BYTES = 12.0  # read per cycle from beyond the second-level cache
INPUT_COST = {2: 45.0, 4: 140.0}  # cycles to transform one vector of channels of one tile
OUTPUT_COST = {2: 45.0, 4: 140.0}


def igemm_cost(s: ConvShape) -> float:
    """Return the estimated cycles of the indirect product."""
    rows = s.batch * math.prod(s.out)
    panels = -(-s.out_channels // PANEL)
    depth = s.channels * math.prod(s.kernel)
    return 1.1 * rows * panels * depth + 4 * depth * panels * PANEL / WEIGHT_BYTES


def winograd_cost(s: ConvShape, m: int) -> float:
    """Return the estimated cycles of F(m x m, 3 x 3)."""
    planes = (m + 2) ** 2
    tiles = s.batch * math.prod(-(-n // m) for n in s.out)
    panels = -(-s.out_channels // PANEL)
    product = max(tiles, 4) * planes * panels * s.channels
    weights = 4 * planes * s.channels * panels * PANEL / WEIGHT_BYTES
    vectors = -(-s.channels // LANES)
    transforms = tiles * (INPUT_COST[m] * vectors + OUTPUT_COST[m] * 2 * panels)
    return 1.1 * product + weights + transforms
