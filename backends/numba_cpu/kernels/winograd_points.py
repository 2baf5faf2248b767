"""numba_cpu > kernels > winograd_points: the matrices of Winograd convolution and their error.

An output tile of ``m x m`` of a 3x3 convolution is ``AT [sum_c (G g GT) * (BT d B)] A`` over input
tiles ``d`` of ``n x n``. The matrices follow from ``n - 1`` points ``p`` and infinity (Toom-Cook):
with ``M(x)`` the product of all ``x - p`` and ``M_k = M / (x - p_k)``,

- row k of ``BT`` holds the coefficients of ``M_k``, the last row those of ``M``;
- row k of ``G`` is ``(1, p_k, p_k**2) / M_k(p_k)``, the last one ``(0, 0, 1)``;
- column k of ``AT`` is ``(1, p_k, .., p_k**(m - 1))``, the last one ``(0, .., 0, 1)``.

The points are 0, pairs ``+-p``, so that the transforms of a pair share their even and odd parts,
and singles.

With stride 1, ``n = m + 2``. With stride 2 an axis falls into two phases that are convolved with
stride 1: the even pixels with taps 0 and 2 (``n = m + 1``: F(m, 2)), the odd ones with tap 1. A
kernel of one tap is one of two whose second is 0: its row of ``G`` at infinity is 0, and the other
rows of ``BT`` read no more than m pixels. So both phases end in the same domain, where they are
summed, by ``2 m + 1`` multiplications instead of ``3 m``: for m = 2, 1.44 times fewer in two
dimensions.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Form(NamedTuple):
    """Which Winograd convolution: the stride of the 3x3 kernel and the side of an output tile."""

    stride: int
    m: int

    @property
    def n(self) -> int:
        """The side of a transformed tile."""
        return self.m + 3 - self.stride

    @property
    def side(self) -> int:
        """The side of a tile of input pixels."""
        return self.stride * (self.m - 1) + 3

    @property
    def taps(self) -> tuple[tuple[int, ...], ...]:
        """The taps of the kernel along an axis that each phase is convolved with."""
        return ((0, 1, 2),) if self.stride == 1 else ((0, 2), (1,))

    def shares(self, k: int) -> int:
        """Return how many phases of an axis reach row ``k`` of a transformed tile."""
        return len(self.taps) if k < self.n - 1 else 1


class Points(NamedTuple):
    """Where a polynomial product is evaluated, besides 0 and infinity."""

    pairs: tuple[float, ...]  # p of +-p
    singles: tuple[float, ...] = ()


#: For few roundings small and simple (Barabasz, Anderson, Soodhalter and Gregg, "Error Analysis and
#: Improving the Accuracy of Winograd Convolution", 2020).
POINTS = {
    Form(1, 2): Points((1.0,)),
    Form(1, 4): Points((1.0, 2.0)),
    Form(2, 2): Points((), (1.0,)),
}


@dataclass(frozen=True, eq=False)
class Matrices:
    """``AT [m, n]``, ``G [n, 3]`` and ``BT [n, n]`` in float64; all entries are exact but G's.

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
def matrices(form: Form) -> Matrices:
    """Return the matrices of a form."""
    n, m, taps = form.n, form.m, len(form.taps[0])
    pairs, singles = POINTS[form]
    points = [0.0, *(s * p for p in pairs for s in (1.0, -1.0)), *singles]
    at, g, bt = np.zeros((m, n)), np.zeros((n, taps)), np.zeros((n, n))
    for k, p in enumerate(points):
        others = np.poly([q for q in points if q != p])[::-1]
        bt[k, : n - 1] = others
        g[k] = p ** np.arange(taps) / np.polyval(others[::-1], p)
        at[:, k] = p ** np.arange(m)
    bt[-1], g[-1, -1], at[-1, -1] = np.poly(points)[::-1], 1.0, 1.0
    return Matrices(at, g, bt)


def amplification(form: Form) -> float:
    """Return how much larger the error bound of a form is than that of a plain sum.

    For data of at most 1 and weights of at most 1 the bound of :func:`error_bound` is ``gamma``
    times the channels times the square of ``max |AT| (|G| 1 * |BT| 1)``, the product summed over
    the phases; a plain sum has 9 there. 64 / 9 for F(2x2, 3x3), 256 for F(4x4, 3x3), 5.4 with
    stride 2.
    """
    at, g, bt = (np.abs(a) for a in _arrays(form))
    both = sum(g[:, : len(t)].sum(1) * _reach(bt, form, p).sum(1) for p, t in _phases(form))
    return float(np.max(at @ both) ** 2 / 9)


def _arrays(form: Form) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    t = matrices(form)
    return t.at, t.g, t.bt


def _phases(form: Form) -> list[tuple[int, tuple[int, ...]]]:
    return list(enumerate(form.taps))


def _reach(bt: np.ndarray, form: Form, phase: int) -> np.ndarray:
    """Return the columns of ``BT`` for the pixels of a phase: the odd one has one less."""
    return bt[:, : form.n - phase]


def roundings(form: Form, channels: int) -> int:
    """Return the roundings that an output has gone through at most, with or without fused fma.

    A pass of the input transform rounds twice per pair and single, one of the output transform also
    for the sums of the pairs and the last point; the weights are rounded once.
    """
    points = sum(map(len, POINTS[form]))
    return 2 * form.stride**2 * channels + 2 * 2 * points + 2 * (2 * points + 2) + 1


def error_bound(x: np.ndarray, weight: np.ndarray, form: Form) -> np.ndarray:
    """Return a bound of ``|computed - exact|`` of every output of one image without padding.

    Args:
        x: f32[in, h, w] of whole tiles: ``h - side`` and ``w - side`` multiples of ``stride * m``.
        weight: f32[out, in, 3, 3].
        form: stride and side of an output tile.

    Returns:
        f64[out, h', w']: ``gamma_r |AT| [sum_c (|G| |g| |GT|) * (|BT| |d| |B|)] |A|``, the sum over
        the phases too, with ``gamma_r = r u / (1 - r u)``, ``u = 2**-24`` and ``r`` of
        :func:`roundings` (Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section
        3.1, pass by pass).
    """
    at, g, bt = (np.abs(a) for a in _arrays(form))
    side, step = form.side, form.stride * form.m
    channels = len(x)
    size = np.abs(x.astype(np.float64))
    tiles = np.lib.stride_tricks.sliding_window_view(size, (side, side), (1, 2))
    tiles = tiles[:, ::step, ::step]
    taps = np.abs(weight.astype(np.float64))
    sums = np.zeros((len(weight), *tiles.shape[1:3], form.n, form.n))
    for py, down in _phases(form):
        for px, across in _phases(form):
            d = tiles[..., py :: form.stride, px :: form.stride]
            rows, columns = _reach(bt, form, py), _reach(bt, form, px)
            v = np.einsum("ik,cyxkl,jl->cyxij", rows, d, columns, optimize=True)
            some = taps[:, :, list(down)][..., list(across)]
            gy, gx = g[:, : len(down)], g[:, : len(across)]
            u = np.einsum("ik,ockl,jl->ocij", gy, some, gx, optimize=True)
            sums += np.einsum("ocij,cyxij->oyxij", u, v, optimize=True)
    out = np.einsum("ik,oyxkl,jl->oyixj", at, sums, at, optimize=True)
    r = roundings(form, channels) * 2.0**-24
    shape = (len(weight), form.m * tiles.shape[1], form.m * tiles.shape[2])
    return (r / (1 - r) * out).reshape(shape)
