"""numba_cpu > lower > conv_choice: which algorithm runs a convolution, by a cost model."""

from __future__ import annotations

import enum
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from leptonc.backends.numba_cpu.kernels import winograd_few
from leptonc.backends.numba_cpu.kernels.machine_code import adds_beside
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL, ROWS, VECTORS
from leptonc.backends.numba_cpu.kernels.vectype import LANES
from leptonc.backends.numba_cpu.kernels.winograd_late import LATE as LATE_FORMS
from leptonc.backends.numba_cpu.kernels.winograd_late import SOME, late_of
from leptonc.backends.numba_cpu.kernels.winograd_plan import depth
from leptonc.backends.numba_cpu.kernels.winograd_points import FORMS, ONE, Axis, Form
from leptonc.backends.numba_cpu.kernels.winograd_product import UNROLL
from leptonc.backends.numba_cpu.kernels.winograd_quads import FEW
from leptonc.backends.numba_cpu.lower.product_cost import (
    FEWEST_ROWS,
    bf16x3_cycles,
    igemm_cycles,
)
from leptonc.passes.fusing.policy import FEW_CHANNELS


class Algorithm(enum.Enum):
    """How a convolution runs."""

    IGEMM = "igemm"
    BF16X3 = "bf16x3"
    WINOGRAD_2 = "winograd2"
    WINOGRAD_3 = "winograd3"
    WINOGRAD_4 = "winograd4"
    LATE_4 = "late4"
    PHASES_2 = "phases2"
    LATE_PHASES = "latephases2"
    LINE_4 = "line4"
    LATE_LINE = "lateline4"
    FOLDED_4 = "folded4"
    STRASSEN = "strassen"
    DEPTHWISE = "depthwise"


#: The Winograd convolutions by stride and sides of an output tile; with stride 2 the phases of the
#: image are convolved with stride 1, a kernel of one tap along an axis is transformed along the
#: other.
WINOGRAD = {
    (1, 2, 2): Algorithm.WINOGRAD_2,
    (1, 3, 3): Algorithm.WINOGRAD_3,
    (1, 4, 4): Algorithm.WINOGRAD_4,
    (2, 2, 2): Algorithm.PHASES_2,
    (1, 1, 4): Algorithm.LINE_4,
    (1, 4, 1): Algorithm.LINE_4,
}
#: Those of an image whose stride is folded into its channels, by the kernel that is left.
_FOLDED: Mapping[tuple[int, ...], Form] = {
    form.kernel: form for form in (Form.square(3, 4), Form.square(4, 4))
}
#: The same with weights as they are, transformed in each call.
LATES = {
    Algorithm.WINOGRAD_4: Algorithm.LATE_4,
    Algorithm.PHASES_2: Algorithm.LATE_PHASES,
    Algorithm.LINE_4: Algorithm.LATE_LINE,
}


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

    @property
    def plane(self) -> ConvShape:
        """The same convolution with two spatial axes, where there is one: a line of an image."""
        if len(self.kernel) != 1:
            return self
        one = {name: (1, *getattr(self, name)) for name in ("size", "kernel", "stride", "out")}
        return replace(
            self, **one, dilation=(1, *self.dilation), padding=(0, *self.padding),
            after=(0, *self.after) if self.after else (),
        )  # fmt: skip


def costs(shape: ConvShape, precision: str, near: bool = False) -> dict[Algorithm, float]:
    """Return the algorithms for constant weights with their estimated cycles of one core.

    ``near``: the weights of the whole network stay in the caches from call to call.
    ``precision="strict"`` forbids Winograd, whose rounding errors are larger (see :mod:`winograd`).
    """
    if shape.groups == shape.channels == shape.out_channels and shape.channels > 1:
        return {Algorithm.DEPTHWISE: 0.0}  # nothing to compare it with
    found = {Algorithm.IGEMM: igemm_cost(shape)}
    by_parts = _bf16x3_cost(shape, precision)
    if by_parts < math.inf:
        found[Algorithm.BF16X3] = by_parts
    shape = shape.plane
    folded = folded_shape(shape)
    if precision != "strict" and folded is not None:
        found[Algorithm.FOLDED_4] = folded_cost(shape, folded, near)
    if precision != "strict" and _few_fits(shape):
        found[Algorithm.WINOGRAD_4] = few_cost(shape)
    elif precision != "strict" and winograd_fits(shape):
        least = held_bytes(shape, Algorithm.IGEMM)
        for a, form in forms(shape).items():
            doublings = math.log2(held_bytes(shape, a) / least)
            cost = late_cost if is_late(a) else winograd_cost
            found[a] = cost(shape, form, near) * (1 + HELD * doublings)
        if not near and _surely_late(shape, found):
            del found[Algorithm.WINOGRAD_4]
    return found


def costs_fit() -> bool:
    """Return whether this processor is like the one that costs were fitted to."""
    return LANES == 16 and adds_beside()


def conv_close() -> float | None:
    """Return the multiple of the best estimate up to which a way is timed; None: the usual one."""
    return CONV_CLOSE if costs_fit() else None


def _surely_late(s: ConvShape, found: Collection[Algorithm]) -> bool:
    """Return whether F(4x4) need not be timed with weights transformed before.

    Where these are two groups of rows, networks took as long late, or up to 2 % less (ResNet-18,
    VGG-16, one thread and two), but races on two threads scatter by a fifth.
    """
    if Algorithm.LATE_4 not in found or not costs_fit():
        return False
    return tiles(s, forms(s)[Algorithm.LATE_4]) in LATE_TILES and s.out_channels >= LATE_COLUMNS


def forms(s: ConvShape) -> dict[Algorithm, Form]:
    """Return the Winograd convolutions for the kernel and stride of ``s``."""
    s = s.plane
    found = {
        WINOGRAD[f.stride, f.y.m, f.x.m]: f
        for f in FORMS
        if s.kernel == f.kernel and s.stride == (f.stride, f.stride)
    }
    for early, form in tuple(found.items()):
        whole = s.channels % LANES == 0 and tiles(s, form) <= MOST_LATE
        if early in LATES and form in LATE_FORMS and whole:
            found[LATES[early]] = form
    folded = folded_form(s.kernel, s.stride)
    if folded is not None and folded_shape(s) is not None:
        found[Algorithm.FOLDED_4] = folded
    return found


def rows_of(s: ConvShape) -> tuple[int, int, int] | None:
    """Return the rows, depth and columns of a 1x1 convolution; None for others."""
    plain = s.groups == 1 and {*s.kernel} == {1} and not any((*s.padding, *s.after))
    return (s.batch * math.prod(s.out), s.channels, s.out_channels) if plain else None


def folded_form(kernel: tuple[int, ...], stride: tuple[int, ...]) -> Form | None:
    """Return the Winograd convolution of a kernel whose stride is folded into the channels."""
    if len(kernel) != 2 or stride[0] != stride[1] or stride[0] == 1:
        return None
    return _FOLDED.get(tuple(-(-taps // stride[0]) for taps in kernel))


def folded_shape(s: ConvShape) -> ConvShape | None:
    """Return the convolution with stride 1 that ``s`` becomes of an image of few channels.

    Its image has the pixels of squares as channels (:mod:`fold`) and whole tiles, zeros included.

    Returns:
        None where there is no form for it, or few sums to save.
    """
    form = folded_form(s.kernel, s.stride)
    if form is None or s.groups > 1 or s.dilation != (1, 1) or s.channels > FEW_CHANNELS:
        return None
    channels = s.channels * math.prod(s.stride)
    if min(channels, s.out_channels) < UNROLL:
        return None
    size = (-(-n // axis.m) * axis.m + axis.taps - 1 for n, axis in zip(s.out, form, strict=True))
    return replace(
        s, channels=channels, size=tuple(size), kernel=form.kernel, stride=(1, 1), padding=(0, 0),
        after=(),
    )  # fmt: skip


def is_late(algorithm: Algorithm) -> bool:
    """Return whether an algorithm transforms weights in each call."""
    return algorithm in LATES.values()


def tiles(s: ConvShape, form: Form) -> int:
    """Return the tiles of a form, of the whole batch."""
    return s.batch * math.prod(-(-n // axis.m) for n, axis in zip(s.out, form, strict=True))


def held_bytes(s: ConvShape, algorithm: Algorithm) -> int:
    """Return the bytes of the packed weights of an algorithm, not of a depthwise one."""
    form = None if is_late(algorithm) else forms(s).get(algorithm)
    folded = folded_shape(s) if algorithm is Algorithm.FOLDED_4 else None
    channels = s.channels if folded is None else folded.channels
    rows = s.channels * math.prod(s.kernel) if form is None else depth(form, channels)
    return 4 * rows * -(-s.out_channels // PANEL) * PANEL


def few(s: ConvShape, algorithm: Algorithm) -> bool:
    """Return whether :mod:`winograd_few` is the kernel of ``algorithm`` for a convolution."""
    return algorithm is Algorithm.WINOGRAD_4 and s.channels <= winograd_few.MOST


def _few_fits(s: ConvShape) -> bool:
    """Return whether :mod:`winograd_few` may be the fastest: a result that caches hold."""
    plain = s.kernel == (3, 3) and s.stride == (1, 1) and _padded_little(s)
    near = 4 * s.batch * math.prod(s.out) * s.out_channels <= NEAR
    return plain and near and s.channels <= winograd_few.MOST and s.out_channels >= LANES


def winograd_fits(s: ConvShape) -> bool:
    """Return whether tiles and vectors of channels are whole enough for Winograd."""
    return _padded_little(s) and min(s.channels, s.out_channels) >= LANES


def _padded_little(s: ConvShape) -> bool:
    """Return whether a convolution is dense and no tile reads zeros alone."""
    return (
        s.groups == 1
        and s.dilation == (1, 1)
        and all(p < taps for p, taps in zip(s.padding, s.kernel, strict=True))
        and all(p < taps for p, taps in zip(s.after, s.kernel, strict=False))  # may be empty
    )


# Costs are in cycles of one core with two multipliers, fitted to 43 shapes with stride 1 (the 3x3
# convolutions of ResNet, VGG, DenseNet, GoogLeNet and Inception among them) on one with AVX-512,
# big weights in no cache: root mean square error 12 % (Winograd) and 8 % (product). With stride 2
# fitted to ResNet-18, ResNet-50 and Inception, timed within the networks. A multiply-add of a row
# with a panel is one cycle.
WINOGRAD_PRODUCT = 1.15
# Cycles for a vector of channels of one tile: in, out.
TRANSFORM = {
    Form.square(3, 2): (60.0, 60.0),
    Form.square(3, 4): (150.0, 150.0),
    Form.square(3, 2, 2): (110.0, 80.0),
    Form(ONE, Axis(3, 4)): (20.0, 20.0),
    Form(Axis(3, 4), ONE): (20.0, 20.0),
    Form(ONE, Axis(7, 4)): (30.0, 30.0),
    Form(Axis(7, 4), ONE): (30.0, 30.0),
    Form.square(5, 3): (220.0, 150.0),
    Form.square(4, 4): (200.0, 300.0),
}
FOLDED_PIXEL = 1.5  # cycles to copy a pixel of a channel to the channels of a square
NEAR = 1 << 19  # bytes of a result up to which the stores of few channels are no matter
# Bytes of Winograd's weights a cycle: from memory, likewise by processor; where all of a network
# stays in caches.
FAR_RATE, NEAR_RATE = {True: 12.0, False: 6.0}, 32.0
HELD = 0.04  # of the time that is to be saved whenever the weights take twice the bytes
# Of late weights, for a channel and a vector of columns: a plane of each of few tiles; what lines
# take in addition where tiles are up to SOME, of each group of them, and where they are more. By
# whether additions run beside multiply-adds (else fitted to an Intel Xeon, Emerald Rapids).
LATE = {True: (0.68, 30.0, 160.0), False: (1.1, 75.0, 235.0)}
_FITTED_PLANES = 36  # for which these were fitted: F(4x4, 3x3)
MOST_LATE = 81  # tiles: more share the weights that are transformed before
LATE_TILES, LATE_COLUMNS = range(13, 17), 128  # that are surely late, so many columns at least
OVERLAP = 0.75  # of the shorter of product and reading weights, which go on together
CONV_CLOSE = 1.25  # the multiple of the best estimate up to which a way is timed, where costs fit


def igemm_cost(s: ConvShape) -> float:
    """Return the estimated cycles of the indirect product."""
    rows, depth = s.batch * math.prod(s.out), s.channels * math.prod(s.kernel)
    return igemm_cycles(rows, depth, s.out_channels)


def _bf16x3_cost(s: ConvShape, precision: str) -> float:
    if s.groups > 1 or s.channels <= FEW_CHANNELS:
        return math.inf
    rows, taps = s.batch * math.prod(s.out), math.prod(s.kernel)
    return bf16x3_cycles(rows, taps, s.channels, s.out_channels, precision)


def few_cost(s: ConvShape) -> float:
    """Return the estimated cycles of :mod:`winograd_few`, fitted to 1 and 3 channels at 32x32."""
    form = forms(s)[Algorithm.WINOGRAD_4]
    tiles = s.batch * math.prod(-(-n // axis.m) for n, axis in zip(s.out, form, strict=True))
    panels, vectors = -(-s.out_channels // PANEL), -(-s.out_channels // LANES)
    product = form.planes * panels * (1.9 + 0.65 * s.channels)
    return tiles * (33.0 + 18.0 * s.channels + product + 92.0 * vectors)


def winograd_cost(s: ConvShape, form: Form, near: bool) -> float:
    """Return the estimated cycles of a Winograd convolution, its weights ``near`` or not."""
    count = tiles(s, form)
    panels, rows = -(-s.out_channels // PANEL), depth(form, s.channels)
    product = WINOGRAD_PRODUCT * max(count + count % 2, FEWEST_ROWS) * panels * rows
    if s.channels < LANES:
        product *= -(-s.channels // UNROLL) * UNROLL / LANES
    weights = 4.0 * rows * panels * PANEL
    reading = weights / (NEAR_RATE if near else FAR_RATE[adds_beside()])
    return product + reading - OVERLAP * min(product, reading) + _transforms(s, form, count)


def folded_cost(s: ConvShape, folded: ConvShape, near: bool) -> float:
    """Return the estimated cycles of the folded convolution of ``s``, its image's copy included."""
    copied = s.batch * s.channels * math.prod(s.size) * FOLDED_PIXEL
    return winograd_cost(folded, _FOLDED[folded.kernel], near) + copied


def _transforms(s: ConvShape, form: Form, count: int) -> float:
    """Return the estimated cycles of the transforms of ``count`` tiles, in and out."""
    vectors = (-(-s.channels // LANES), -(-s.out_channels // LANES))
    return count * sum(t * v for t, v in zip(TRANSFORM[form], vectors, strict=True))


def late_cost(s: ConvShape, form: Form, _: bool) -> float:
    """Return the estimated cycles of :mod:`winograd_late`, which waits for no memory."""
    vectors, count = -(-s.out_channels // PANEL) * VECTORS, tiles(s, form)
    few_plane, group, many = LATE[adds_beside()]
    planes = depth(form, LANES) // LANES  # of all phases
    if late_of(form, count).products is not None:
        of_one = few_plane * planes * -(-count // FEW) * FEW
    else:
        lines = group * -(-count // ROWS) if count <= SOME else many
        rows = max(count + count % 2, FEWEST_ROWS)
        of_one = WINOGRAD_PRODUCT / VECTORS * rows * planes + lines * planes / _FITTED_PLANES
    return vectors * s.channels * of_one + _transforms(s, form, count)
