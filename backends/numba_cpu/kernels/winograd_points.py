"""numba_cpu > kernels > winograd_points: the matrices of Winograd convolution and their error.

An output tile of ``m x m`` of a 3x3 convolution is ``AT [sum_c (G g GT) * (BT d B)] A`` over input
tiles ``d`` of ``n x n``. The matrices follow from ``n - 1`` points ``p`` and infinity (Toom-Cook):
with ``M(x)`` the product of all ``x - p`` and ``M_k = M / (x - p_k)``, of ``r`` taps

- row k of ``BT`` holds the coefficients of ``M_k``, the last row those of ``M``;
- row k of ``G`` is ``(1, p_k, .., p_k**(r - 1)) / M_k(p_k)``, the last one ``(0, .., 0, 1)``;
- column k of ``AT`` is ``(1, p_k, .., p_k**(m - 1))``, the last one ``(0, .., 0, 1)``.

The points are 0, pairs ``+-p``, so that the transforms of a pair share their even and odd parts,
and singles; an even number of points are pairs alone, which err less and share more. An axis has
matrices of its own; one with a single tap has those of n = m = 1, which are 1: a kernel of 1x7 is
transformed along its seven taps alone.

With stride 1, ``n = m + r - 1``. With stride 2 an axis falls into two phases that are convolved
with stride 1: the even pixels with taps 0 and 2 (``n = m + 1``: F(m, 2)), the odd ones with tap 1.
A kernel of one tap is one of two whose second is 0: its row of ``G`` at infinity is 0, and the
other rows of ``BT`` read no more than m pixels. So both phases end in the same domain, where they
are summed, by ``2 m + 1`` multiplications instead of ``3 m``: for m = 2, 1.44 times fewer in two
dimensions.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Axis(NamedTuple):
    """Along one axis: the taps of the kernel, the side of an output tile, the stride."""

    taps: int
    m: int
    stride: int = 1

    @property
    def n(self) -> int:
        """The side of a transformed tile."""
        return self.m + len(self.phases[0]) - 1

    @property
    def side(self) -> int:
        """The side of a tile of input pixels."""
        return self.stride * (self.m - 1) + self.taps

    @property
    def phases(self) -> tuple[tuple[int, ...], ...]:
        """The taps of the kernel that each phase is convolved with."""
        return tuple(tuple(range(p, self.taps, self.stride)) for p in range(self.stride))

    def shares(self, k: int) -> int:
        """Return how many phases reach row ``k`` of a transformed tile."""
        return len(self.phases) if k < self.n - 1 else 1


ONE = Axis(1, 1)


class Form(NamedTuple):
    """Which Winograd convolution: its axes. Strides are equal, or 1 where an axis has one tap."""

    y: Axis
    x: Axis

    @classmethod
    def square(cls, taps: int, m: int, stride: int = 1) -> Form:
        """Return the form with equal axes."""
        return cls(Axis(taps, m, stride), Axis(taps, m, stride))

    @property
    def kernel(self) -> tuple[int, int]:
        """The size of the kernel."""
        return self.y.taps, self.x.taps

    @property
    def stride(self) -> int:
        """The stride, of both axes."""
        return self.x.stride

    @property
    def planes(self) -> int:
        """The elements of a transformed tile."""
        return self.y.n * self.x.n

    @property
    def pools(self) -> bool:
        """Whether the largest of each two by two outputs can be taken within a tile."""
        return self.stride == 1 and self.y.m % 2 == self.x.m % 2 == 0

    def __str__(self) -> str:
        """Return the form as in F(4x4, 3x3)."""
        by = f" / {self.stride}" if self.stride > 1 else ""
        return f"F({self.y.m}x{self.x.m}, {self.y.taps}x{self.x.taps}){by}"


class Points(NamedTuple):
    """Where a polynomial product is evaluated, besides infinity."""

    pairs: tuple[float, ...]  # p of +-p
    singles: tuple[float, ...] = ()
    zero: bool = True

    @property
    def all(self) -> list[float]:
        """The points in the order of the rows of ``G``."""
        zero = [0.0] if self.zero else []
        return [*zero, *(s * p for p in self.pairs for s in (1.0, -1.0)), *self.singles]


#: For few roundings small and simple (Barabasz, Anderson, Soodhalter and Gregg, "Error Analysis and
#: Improving the Accuracy of Winograd Convolution", 2020). Those of F(3, 5), F(4, 4) and
#: F(4, 7) are, of eighths up to 4, of least error but few: all entries of ``BT`` and ``AT`` are
#: exact.
POINTS = {
    ONE: Points((), zero=False),
    Axis(3, 2): Points((1.0,)),
    Axis(3, 4): Points((1.0, 2.0)),
    Axis(3, 2, 2): Points((), (1.0,)),
    Axis(4, 4): Points((0.25, 0.75, 2.375), zero=False),
    Axis(5, 3): Points((0.25, 0.75, 2.375), zero=False),
    Axis(7, 4): Points((0.375, 0.875, 1.25, 2.5)),
}
#: The convolutions that kernels are made for; they know them by their places here.
FORMS = (
    Form.square(3, 2),
    Form.square(3, 4),
    Form.square(3, 2, 2),
    Form(ONE, Axis(3, 4)),
    Form(Axis(3, 4), ONE),
    Form(ONE, Axis(7, 4)),
    Form(Axis(7, 4), ONE),
    Form.square(5, 3),
    Form.square(4, 4),
)


@dataclass(frozen=True, eq=False)
class Matrices:
    """``AT [m, n]``, ``G [n, taps]`` and ``BT [n, n]`` in float64; all entries are exact but G's.

    With stride 2, ``G [n, 2]``.
    """

    at: np.ndarray
    g: np.ndarray
    bt: np.ndarray


def even_part(pairs: tuple[float, ...]) -> tuple[float, ...]:
    """Return the coefficients, constant first, of the product of ``x - p**2``; the last is 1."""
    made = np.array([1.0])
    for p in pairs:
        made = np.convolve(made, [-p * p, 1.0])
    return tuple(float(v) for v in made)


@functools.cache
def matrices(axis: Axis) -> Matrices:
    """Return the matrices of an axis."""
    n, m, taps = axis.n, axis.m, len(axis.phases[0])
    known = POINTS[axis].all
    at, g, bt = np.zeros((m, n)), np.zeros((n, taps)), np.zeros((n, n))
    for k, p in enumerate(known):
        others = np.poly([q for q in known if q != p])[::-1]
        bt[k, : n - 1] = others
        g[k] = p ** np.arange(taps) / np.polyval(others[::-1], p)
        at[:, k] = p ** np.arange(m)
    bt[-1], g[-1, -1], at[-1, -1] = np.atleast_1d(np.poly(known))[::-1], 1.0, 1.0
    return Matrices(at, g, bt)


def amplification(form: Form) -> float:
    """Return how much larger the error bound of a form is than that of a plain sum.

    For data of at most 1 and weights of at most 1 the bound of :func:`error_bound` is ``gamma``
    times the channels times, for each axis, ``max |AT| (|G| 1 * |BT| 1)``, the product summed over
    the phases; a plain sum has the taps there. 64 / 9 for F(2x2, 3x3), 256 for F(4x4, 3x3), 5.4
    with stride 2, 96.7 for F(3x3, 5x5), 123 for F(4x4, 4x4); along one axis 16 for F(4, 3) and
    48.2 for F(4, 7).
    """
    return math.prod(_amplification(axis) / axis.taps for axis in form)


def _amplification(axis: Axis) -> float:
    at, g, bt = _sizes(axis)
    both = sum(g[:, : len(t)].sum(1) * _reach(bt, axis, p).sum(1) for p, t in _phases(axis))
    return float(np.max(at @ both))


def _sizes(axis: Axis) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    t = matrices(axis)
    return np.abs(t.at), np.abs(t.g), np.abs(t.bt)


def _phases(axis: Axis) -> list[tuple[int, tuple[int, ...]]]:
    return list(enumerate(axis.phases))


def _reach(bt: np.ndarray, axis: Axis, phase: int) -> np.ndarray:
    """Return the columns of ``BT`` for the pixels of a phase: the odd one has one less."""
    return bt[:, : axis.n - phase]


LATE_ROUNDINGS = 6  # of a weight: one in each pass for the even part and the row, its scale


def roundings(form: Form, channels: int, late: bool = False) -> int:
    """Return the roundings that an output has gone through at most, with or without fused fma.

    A pass of the input transform rounds twice per pair, where there are singles twice per point
    but one, one of the output transform twice per pair and single and for the sums of the pairs
    and the last point; the weights are rounded once, or, ``late``, as often as
    :mod:`winograd_late` does, whose sums of blocks of channels add no more than one chain does.
    """
    weights = LATE_ROUNDINGS if late else 1
    phases = form.y.stride * form.x.stride
    sums = 2 * phases * channels
    return sums + sum(_roundings(axis) for axis in form if axis.n > 1) + weights


def _roundings(axis: Axis) -> int:
    pairs, singles = len(POINTS[axis].pairs), len(POINTS[axis].singles)
    return 2 * (2 * pairs + singles if singles else pairs) + 2 * (pairs + singles) + 2


def error_bound(x: np.ndarray, weight: np.ndarray, form: Form, late: bool = False) -> np.ndarray:
    """Return a bound of ``|computed - exact|`` of every output of one image without padding.

    Args:
        x: f32[in, h, w] of whole tiles: ``h`` and ``w`` minus the ``side`` of their axis are
            multiples of its ``stride * m``.
        weight: f32[out, in, *form.kernel].
        form: of the convolution.
        late: whether weights are transformed as they are used.

    Returns:
        f64[out, h', w']: ``gamma_r |AT| [sum_c (|G| |g| |GT|) * (|BT| |d| |B|)] |A|``, the sum over
        the phases too, with ``gamma_r = r u / (1 - r u)``, ``u = 2**-24`` and ``r`` of
        :func:`roundings` (Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section
        3.1, pass by pass).
    """
    (at_y, g_y, bt_y), (at_x, g_x, bt_x) = (_sizes(axis) for axis in form)
    size = np.abs(x.astype(np.float64))
    sides, (step_y, step_x) = [a.side for a in form], (a.stride * a.m for a in form)
    tiles = np.lib.stride_tricks.sliding_window_view(size, sides, (1, 2))[:, ::step_y, ::step_x]
    taps = np.abs(weight.astype(np.float64))
    sums = np.zeros((len(weight), *tiles.shape[1:3], form.y.n, form.x.n))
    for py, down in _phases(form.y):
        for px, across in _phases(form.x):
            d = tiles[..., py :: form.y.stride, px :: form.x.stride]
            rows, columns = _reach(bt_y, form.y, py), _reach(bt_x, form.x, px)
            v = np.einsum("ik,cyxkl,jl->cyxij", rows, d, columns, optimize=True)
            some = taps[:, :, list(down)][..., list(across)]
            gy, gx = g_y[:, : len(down)], g_x[:, : len(across)]
            u = np.einsum("ik,ockl,jl->ocij", gy, some, gx, optimize=True)
            sums += np.einsum("ocij,cyxij->oyxij", u, v, optimize=True)
    out = np.einsum("ik,oyxkl,jl->oyixj", at_y, sums, at_x, optimize=True)
    r = roundings(form, len(x), late) * 2.0**-24
    shape = (len(weight), form.y.m * tiles.shape[1], form.x.m * tiles.shape[2])
    return (r / (1 - r) * out).reshape(shape)
