"""numba_cpu > kernels > strassen_plan: the seven products of one level of Strassen, as a table.

The rows of A and the depth are cut in two, and so are the depth and the columns of B::

    C11 = M1 + M4 - M5 + M7    C12 = M3 + M5    C21 = M2 + M4    C22 = M1 - M2 + M3 + M6

(V. Strassen, "Gaussian elimination is not optimal", 1969). Seven products of halves instead of
eight; the form of Winograd has fewer sums, but a larger error (N. Higham, "Accuracy and Stability
of Numerical Algorithms", 2002, section 23.2.2), and sums of B cost next to nothing here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from leptonc.backends.numba_cpu.kernels.base import Native
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL, ROWS
from leptonc.backends.numba_cpu.kernels.strassen_tile import (
    HEIGHTS,
    MULTIPLY,
    NEGATIVE,
    ONTO,
    UNROLL,
)
from leptonc.backends.numba_cpu.kernels.vectype import LANES

Q11, Q12, Q21, Q22 = range(4)  # quadrants: two by row and column
TILE_BYTES = 4 * ROWS * PANEL  # of sums
GAP = 9 * 64  # bytes behind each left operand: seven a page apart would meet in one set of a cache
Signed = Mapping[int, int]


class Product(NamedTuple):
    """One product: quadrants with their signs of A, of B; where it is added, the last place last.

    The first quadrant of B is positive.
    """

    a: Signed
    b: Signed
    c: Signed


#: M2 comes first, whose panel lies ready: that for the next product is made meanwhile.
PRODUCTS = (
    Product({Q21: 1, Q22: 1}, {Q11: 1}, {Q21: 1, Q22: -1}),
    Product({Q11: 1, Q22: 1}, {Q11: 1, Q22: 1}, {Q11: 1, Q22: 1}),
    Product({Q11: 1}, {Q12: 1, Q22: -1}, {Q12: 1, Q22: 1}),
    Product({Q22: 1}, {Q21: 1, Q11: -1}, {Q11: 1, Q21: 1}),
    Product({Q11: 1, Q12: 1}, {Q22: 1}, {Q11: -1, Q12: 1}),
    Product({Q21: 1, Q11: -1}, {Q11: 1, Q12: 1}, {Q22: 1}),
    Product({Q12: 1, Q22: -1}, {Q21: 1, Q22: 1}, {Q11: 1}),
)
NONE = -1
#: Of a row of the table, all but the first and what is said ``how`` in bytes or rows: whether the
#: panel is one of B, and its place in a pair of panels or among the sums; the sum that is made
#: meanwhile, or NONE, and of what; where products are added, the last place last, the first may be
#: NONE; the first row of the quadrant that is finished then, or NONE, and its first column.
ENTRIES = (
    "ready", "panel", "made", "x", "y", "how", "c", "c_how", "d", "d_how", "row", "column",
)  # fmt: skip


def error_bound(a: np.ndarray, b: np.ndarray, parts: int = 1) -> np.ndarray:
    """Return a bound of ``|computed - exact|`` of every element of a product, without a bias.

    Args:
        a: f32[m, k], ``k`` even.
        b: f32[k, n], ``n`` even.
        parts: of the rows, see :class:`Sizes`.

    Returns:
        f64[m, n]: of each quadrant the sum of ``gamma_r (sum of |A|) @ (sum of |B|)`` over its
        products, the sums over the quadrants that a product adds up; ``gamma_r = r u / (1 - r u)``,
        ``u = 2**-24`` (Higham, section 3.1). An element has ``r = k / 2 + 5`` roundings: of a sum
        of A, one of B, ``k / 2`` of a chain of products, and three where four products are added.
    """
    (m, k), half = a.shape, Sizes(*a.shape, b.shape[1], parts).half
    cuts = [m * part // parts for part in range(1, parts)]
    r = (k / 2 + 5) * 2.0**-24
    return r / (1 - r) * np.vstack([_sizes_met(some, half, b) for some in np.split(a, cuts)])


def _sizes_met(a: np.ndarray, half: int, b: np.ndarray) -> np.ndarray:
    """Return what :func:`error_bound` adds up for a part of the rows."""
    rows = np.vstack([a, np.zeros((2 * half - len(a), a.shape[1]), a.dtype)])
    left, right = (_quadrants(np.abs(x.astype(np.float64))) for x in (rows, b))
    sums = [np.zeros((half, b.shape[1] // 2)) for _ in range(4)]
    for product in PRODUCTS:
        size = sum(left[q] for q in product.a) @ sum(right[q] for q in product.b)
        for q in product.c:
            sums[q] += size
    return np.block([sums[:2], sums[2:]])[: len(a)]


def _quadrants(x: np.ndarray) -> list[np.ndarray]:
    return [part for half in np.split(x, 2) for part in np.split(half, 2, 1)]


@dataclass(frozen=True)
class Sizes:
    """A product of these sizes, its rows in so many parts, and what follows from them.

    Each part of the rows is a product of its own, with quadrants of its own.
    """

    rows: int
    depth: int
    columns: int
    parts: int = 1

    @property
    def half(self) -> int:
        """The rows of a part's upper quadrants, with those of zeros also of the lower ones."""
        return (-(-self.rows // self.parts) + 1) // 2

    @property
    def tiles(self) -> int:
        """The tiles of a part's quadrant, which share its rows evenly."""
        return -(-self.half // ROWS)

    @property
    def pairs(self) -> int:
        """The pairs of panels that lie half of the columns apart."""
        return self.columns // (2 * PANEL)

    @property
    def vectors(self) -> int:
        """The vectors of half of the depth."""
        return self.depth // (2 * LANES)

    @property
    def panel_bytes(self) -> int:
        """The bytes of a quadrant's panel, or of a sum of two."""
        return 2 * PANEL * self.depth

    @property
    def lines(self) -> int:
        """The lines of a sum that a tile makes every UNROLL of depth."""
        return 1 if self.tiles >= UNROLL else 2

    @property
    def fit(self) -> bool:
        """Whether the kernel can compute them: no tile is too low, all vectors are whole."""
        whole = self.depth % (2 * LANES) == 0 and self.columns % (2 * PANEL) == 0
        return whole and self.tiles >= 2 and self.half // self.tiles >= HEIGHTS[-1]

    @property
    def sums_floats(self) -> int:
        """The floats of a part's left operands, ``[tiles, vectors, ROWS, LANES]``, a GAP each."""
        return len(PRODUCTS) * (self.tiles * ROWS * self.depth // 2 + GAP // 4)

    def scratch(self) -> dict[str, int]:
        """Return where in the scratch of a thread its sections begin, in bytes, and the end.

        Two sums of panels; ``cells``, the quadrants of a pair of panels; ``tables`` of the
        addresses of the rows of the result and of the residual; ``spare``, for what is no row;
        ``sums``, the left operands of a part.
        """
        cells = 2 * self.panel_bytes
        tables = cells + 4 * self.tiles * TILE_BYTES
        spare = tables + -(-4 * 8 * self.half // 64) * 64
        sums = spare + -(-4 * self.columns // 64) * 64
        end = sums + 4 * self.sums_floats
        return {"cells": cells, "tables": tables, "spare": spare, "sums": sums, "end": end}

    def slots(self) -> dict[str, Native | int]:
        """Return what the record says of the sizes, and the native code that it needs."""
        turns = self.vectors * LANES // UNROLL
        low, tall = self.half // self.tiles, -(-self.half // self.tiles)
        scratch = self.scratch()
        del scratch["end"]
        return {
            "rows": self.rows, "parts": self.parts, "half": self.half, "tiles": self.tiles,
            "vectors": self.vectors, "pairs": self.pairs, "panel_bytes": self.panel_bytes,
            "turns": turns,
            "share": self.lines * turns * 4 * PANEL,
            "advance": -(-2 * self.panel_bytes // (len(PRODUCTS) * self.tiles * turns)),
            "tall": MULTIPLY[tall, self.lines], "low": MULTIPLY[low, self.lines], **scratch,
        }  # fmt: skip

    def table(self) -> np.ndarray:
        """Return ``int64[7, len(ENTRIES)]`` of what the kernel does."""
        met: set[int] = set()
        rows = []
        for i, product in enumerate(PRODUCTS):
            ready = len(product.b) == 1
            panel = self._panel(next(iter(product.b))) if ready else i % 2 * self.panel_bytes
            rows.append([ready, panel, *self._sum_for(i + 1), *self._places(i, met)])
            met.update(product.c)
        return np.array(rows, np.int64)

    def _panel(self, quadrant: int) -> int:
        """Return the bytes from the first quadrant's panel of B to that of another."""
        row, column = divmod(quadrant, 2)
        return column * self.pairs * 2 * self.panel_bytes + row * self.panel_bytes

    def _sum_for(self, i: int) -> list[int]:
        """Return where the sum for product ``i`` is made, of what and how."""
        b = PRODUCTS[i].b if i < len(PRODUCTS) else {}
        if len(b) < 2:
            return [NONE, 0, 0, 0]
        (x, _), (y, sign) = b.items()
        return [i % 2 * self.panel_bytes, self._panel(x), self._panel(y), NEGATIVE * (sign < 0)]

    def _places(self, i: int, met: Collection[int]) -> list[int]:
        """Return where product ``i`` is added and how, and what it finishes."""
        c = PRODUCTS[i].c
        places = [NONE, 0] * (2 - len(c))
        for quadrant, sign in c.items():
            how = NEGATIVE * (sign < 0) + ONTO * (quadrant in met)
            places += [quadrant * self.tiles * TILE_BYTES, how]
        last = [*c][-1]
        if any(last in product.c for product in PRODUCTS[i + 1 :]):
            return [*places, NONE, 0]
        row, column = divmod(last, 2)
        return [*places, row * self.half, column * self.pairs * 4 * PANEL]
