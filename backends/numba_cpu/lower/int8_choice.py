"""numba_cpu > lower > int8_choice: which algorithm runs a convolution of codes, by a cost model."""

from __future__ import annotations

import math

from leptonc.backends.numba_cpu.kernels import int8_winograd_forms, int8_winograd_plan
from leptonc.backends.numba_cpu.kernels.int8_dot import DOT
from leptonc.backends.numba_cpu.kernels.int8_winograd_forms import LARGEST_CODE
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL
from leptonc.backends.numba_cpu.kernels.vectype import LANES
from leptonc.backends.numba_cpu.lower.conv_choice import (
    HELD,
    OVERLAP,
    Algorithm,
    ConvShape,
    winograd_fits,
)
from leptonc.backends.numba_cpu.lower.product_cost import FEWEST_ROWS, IGEMM_RATE
from leptonc.passes.fusing.policy import FEW_CHANNELS

#: The Winograd convolutions of codes.
CODE_FORMS = {
    Algorithm.WINOGRAD_2: int8_winograd_forms.FORMS[2],
    Algorithm.WINOGRAD_4: int8_winograd_forms.FORMS[4],
}

# Products of codes: cycles of a row with a panel for a step, which is four codes or two int16, by
# the form of :mod:`int8_dot`. ``vpdpbusd`` does twice what ``vpdpwssd`` does in the same time.
# Without them four codes take three instructions (more for steps apart, see :mod:`int8_pairs`), two
# int16 take two.
CODES_STEP = {"vnni": 1.1, "split": 2.6, "plain": 9.0}
CODES_FAR_RATE = 12.0  # bytes of weights a cycle
WORDS_STEP = {"vnni": 1.22, "split": 1.4, "plain": 4.5}
#: To transform a register of int16 of a tile, a panel of sums, by the side of an output tile.
CODES_TRANSFORM = {2: (45.0, 45.0), 4: (100.0, 150.0)}
#: The multiple of the best estimate up to which a way of a convolution of codes is timed. With
#: VNNI estimates are within a few percent.
CODES_CLOSE = {"vnni": 1.25}
STRICT_HELD = 4.0  # times the bytes of a direct convolution of codes are too many


def int_costs(s: ConvShape, reach: int, precision: str) -> dict[Algorithm, float]:
    """Return the algorithms for a convolution of codes with their estimated cycles of one core.

    All give the same bits. ``precision="strict"``, which is also that of the least memory, forbids
    what holds ``STRICT_HELD`` times the weights.

    Args:
        s: the convolution.
        reach: of the weight (``meaning.row_reach``).
        precision: of the kernels.
    """
    panels, steps = -(-s.out_channels // PANEL), math.prod(s.kernel) * -(-s.channels // 4)
    rows = max(s.batch * math.prod(s.out), FEWEST_ROWS)
    direct = CODES_STEP[DOT] * rows * panels * steps + 4.0 * PANEL * panels * steps / IGEMM_RATE
    found = {Algorithm.IGEMM: direct}
    plain = winograd_fits(s) and s.kernel == (3, 3) and s.stride == (1, 1)
    plain = plain and s.channels > FEW_CHANNELS
    for algorithm, form in CODE_FORMS.items():
        small = precision != "strict" or _held(s, form) < STRICT_HELD
        if plain and small and form.fits(LARGEST_CODE * reach):
            found[algorithm] = _int_winograd_cost(s, form)
    return found


def _int_winograd_cost(s: ConvShape, form: int8_winograd_forms.Form) -> float:
    """Return the estimated cycles; many small products read weights no faster from a cache."""
    tiles = s.batch * math.prod(-(-n // form.m) for n in s.out)
    panels, pairs = -(-s.out_channels // PANEL), int8_winograd_plan.pairs(s.channels)
    steps = form.planes * pairs * panels
    product = WORDS_STEP[DOT] * max(tiles, FEWEST_ROWS) * steps
    reading = 4.0 * PANEL * steps / CODES_FAR_RATE
    vectors = (-(-s.channels // (2 * LANES)), panels)
    transforms = tiles * sum(t * v for t, v in zip(CODES_TRANSFORM[form.m], vectors, strict=True))
    total = product + reading - OVERLAP * min(product, reading) + transforms
    return total * (1 + HELD * math.log2(_held(s, form)))


def _held(s: ConvShape, form: int8_winograd_forms.Form) -> float:
    """Return how many times the bytes of the weights of codes a form holds: in int16."""
    return 2 * form.planes / math.prod(s.kernel)
