"""numba_cpu > kernels > winograd_points: the matrices of Winograd convolution and their error.

An output tile of ``m x m`` of a 3x3 convolution is ``AT [sum_c (G g GT) * (BT d B)] A`` over input
tiles ``d`` of ``n x n``, ``n = m + 2``. The matrices follow from ``n - 1`` points ``p`` and
infinity (Toom-Cook): with ``M(x)`` the product of all ``x - p`` and ``M_k = M / (x - p_k)``,

- row k of ``BT`` holds the coefficients of ``M_k``, the last row those of ``M``;
- row k of ``G`` is ``(1, p_k, p_k**2) / M_k(p_k)``, the last one ``(0, 0, 1)``;
- column k of ``AT`` is ``(1, p_k, .., p_k**(m - 1))``, the last one ``(0, .., 0, 1)``.

The points are 0 and pairs ``+-p``, so that the transforms of a pair share their even and odd parts.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

#: m -> p of the pairs +-p; for few roundings small and simple (Barabasz, Anderson, Soodhalter and
#: Gregg, "Error Analysis and Improving the Accuracy of Winograd Convolution", 2020).
PAIRS: dict[int, tuple[float, ...]] = {2: (1.0,), 4: (1.0, 2.0)}


@dataclass(frozen=True, eq=False)
class Matrices:
    """``AT [m, n]``, ``G [n, 3]`` and ``BT [n, n]`` in float64; all entries are exact but G's."""

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
def matrices(m: int) -> Matrices:
    """Return the matrices of F(m x m, 3 x 3)."""
    n = m + 2
    points = [0.0, *(s * p for p in PAIRS[m] for s in (1.0, -1.0))]
    at, g, bt = np.zeros((m, n)), np.zeros((n, 3)), np.zeros((n, n))
    for k, p in enumerate(points):
        others = np.poly([q for q in points if q != p])[::-1]
        bt[k, : n - 1] = others
        g[k] = np.array([1.0, p, p * p]) / np.polyval(others[::-1], p)
        at[:, k] = p ** np.arange(m)
    bt[-1], g[-1, 2], at[-1, -1] = np.poly(points)[::-1], 1.0, 1.0
    return Matrices(at, g, bt)


def amplification(m: int) -> float:
    """Return how much larger the error bound of F(m x m, 3 x 3) is than that of a plain sum.

    For data of at most 1 and weights of at most 1 the bound of :func:`error_bound` is ``gamma``
    times the channels times the square of ``max |AT| (|G| 1 * |BT| 1)``; a plain sum has 9 there.
    64 / 9 for m = 2, 256 for m = 4.
    """
    t = matrices(m)
    return float(np.max(np.abs(t.at) @ (np.abs(t.g).sum(1) * np.abs(t.bt).sum(1))) ** 2 / 9)


def roundings(m: int, channels: int) -> int:
    """Return the roundings that an output has gone through at most, with or without fused fma.

    A pass of the input transform rounds twice per pair, one of the output transform also for the
    sums of the pairs and the last point; the weights are rounded once.
    """
    pairs = len(PAIRS[m])
    return 2 * channels + 2 * 2 * pairs + 2 * (2 * pairs + 2) + 1


def error_bound(x: np.ndarray, weight: np.ndarray, m: int) -> np.ndarray:
    """Return a bound of ``|computed - exact|`` of every output of one image without padding.

    Args:
        x: f32[in, h, w], ``h - 2`` and ``w - 2`` multiples of ``m``.
        weight: f32[out, in, 3, 3].
        m: side of an output tile, 2 or 4.

    Returns:
        f64[out, h - 2, w - 2]: ``gamma_r |AT| [sum_c (|G| |g| |GT|) * (|BT| |d| |B|)] |A|`` with
        ``gamma_r = r u / (1 - r u)``, ``u = 2**-24`` and ``r`` of :func:`roundings` (Higham,
        "Accuracy and Stability of Numerical Algorithms", 2002, section 3.1, pass by pass).
    """
    t = matrices(m)
    at, g, bt = np.abs(t.at), np.abs(t.g), np.abs(t.bt)
    n, (channels, h, w) = m + 2, x.shape
    tiles = np.lib.stride_tricks.sliding_window_view(np.abs(x.astype(np.float64)), (n, n), (1, 2))
    tiles = tiles[:, ::m, ::m]
    v = np.einsum("ik,cyxkl,jl->cyxij", bt, tiles, bt, optimize=True)
    u = np.einsum("ik,ockl,jl->ocij", g, np.abs(weight.astype(np.float64)), g, optimize=True)
    sums = np.einsum("ocij,cyxij->oyxij", u, v, optimize=True)
    out = np.einsum("ik,oyxkl,jl->oyixj", at, sums, at, optimize=True)
    r = roundings(m, channels) * 2.0**-24
    return (r / (1 - r) * out).reshape(len(weight), h - 2, w - 2)
