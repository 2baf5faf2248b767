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
    after: tuple[int, ...] = ()  # zeros behind each axis; as ``padding`` if empty


def choose(shape: ConvShape, precision: str) -> Algorithm:
    """Return the algorithm that :func:`costs` thinks fastest."""
    found = costs(shape, precision)
    return min(found, key=lambda a: found[a])


def costs(shape: ConvShape, precision: str) -> dict[Algorithm, float]:
    """Return the algorithms for constant weights with their estimated cycles of one core.

    ``precision="strict"`` forbids Winograd, whose rounding errors are larger (see :mod:`winograd`).
    """
    if shape.groups == shape.channels == shape.out_channels and shape.channels > 1:
        return {Algorithm.DEPTHWISE: 0.0}  # nothing to compare it with
    if not _winograd_fits(shape) or precision == "strict":
        return {Algorithm.IGEMM: igemm_cost(shape)}
    return {
        Algorithm.IGEMM: igemm_cost(shape),
        Algorithm.WINOGRAD_2: winograd_cost(shape, 2),
        Algorithm.WINOGRAD_4: winograd_cost(shape, 4),
    }


def _winograd_fits(s: ConvShape) -> bool:
    return (
        s.kernel == (3, 3)
        and s.stride == s.dilation == (1, 1)
        and s.groups == 1
        and max(*s.padding, *s.after) <= 2
        and min(s.channels, s.out_channels) >= LANES
    )


# Costs are in cycles of one core with two multipliers, fitted to 43 shapes (the 3x3 convolutions of
# ResNet, VGG, DenseNet, GoogLeNet and Inception among them) on one with AVX-512, big weights in no
# cache: root mean square error 12 % (Winograd) and 8 % (product); the choice cost at most 2 %. A
# multiply-add of a row with a panel is one cycle.
PRODUCT = {Algorithm.IGEMM: 1.1, Algorithm.WINOGRAD_2: 1.15, Algorithm.WINOGRAD_4: 1.15}
TRANSFORM = {2: 60.0, 4: 150.0}  # cycles for one vector of channels of one tile, in and out
FEWEST_ROWS = 4  # a product of fewer rows takes as long
IGEMM_RATE = 24.0  # bytes of weights per cycle, in addition to the product
FAR_RATE, NEAR_RATE, NEAR = 12.0, 32.0, 5 << 18  # of Winograd's: up to NEAR bytes they are cached
OVERLAP = 0.75  # of the shorter of product and reading weights, which go on together


def igemm_cost(s: ConvShape) -> float:
    """Return the estimated cycles of the indirect product."""
    rows, depth = s.batch * math.prod(s.out), s.channels * math.prod(s.kernel)
    panels = -(-s.out_channels // PANEL)
    product = PRODUCT[Algorithm.IGEMM] * max(rows, FEWEST_ROWS) * panels * depth
    return product + 4 * depth * panels * PANEL / IGEMM_RATE


def winograd_cost(s: ConvShape, m: int) -> float:
    """Return the estimated cycles of F(m x m, 3 x 3)."""
    algorithm = Algorithm.WINOGRAD_2 if m == 2 else Algorithm.WINOGRAD_4
    tiles = s.batch * math.prod(-(-n // m) for n in s.out)
    vectors, panels = -(-s.channels // LANES), -(-s.out_channels // PANEL)
    depth = (m + 2) ** 2 * vectors * LANES
    rows = max(tiles + tiles % 2, FEWEST_ROWS)
    product = PRODUCT[algorithm] * rows * panels * depth
    weights = 4.0 * depth * panels * PANEL
    reading = weights / (FAR_RATE if weights > NEAR else NEAR_RATE)
    transforms = tiles * TRANSFORM[m] * (vectors + -(-s.out_channels // LANES))
    return product + reading - OVERLAP * min(product, reading) + transforms
