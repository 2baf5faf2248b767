"""numba_cpu > kernels > int8_winograd_forms: whole matrices of F(2x2) and F(4x4), and why exact.

An output tile ``y`` of m x m sums of a 3x3 convolution is ``AT [sum_c (G g GT) * (BT d B)] A`` over
tiles ``d`` of (m + 2) x (m + 2) codes (Lavin & Gray; the points of :mod:`winograd_points`). Here
row k of ``G`` is times ``s[k]``, so that it is whole, and row k of ``A`` times ``root / s[k]``:
sums of both sides are ``root**2`` times as large. ``s`` is chosen such that what is left for ``A``
are ones, but for one two:

- m = 2: ``s = (2, 2, 2, 2)``, ``root = 2``.
- m = 4: Lavin's rows have the denominators 4, 6, 6, 24, 24, 1; ``s = (24, 24, 24, 24, 24, 12)``,
  ``root = 24``. The last row of ``A`` is doubled: 24 there would leave int16.

What a multiplier reads is int16, and fits: a row of ``BT`` sums to at most 2 or 10 in magnitude, so
codes of 0..255 become at most 4 * 255 = 1020 or 100 * 255 = 25500; a row of ``G`` sums to at most 3
or 12, weights of 8 bits become at most 9 * 128 = 1152 or 144 * 128 = 18432. The steps before may
wrap: they are sums and shifts to the left, and the result is right modulo 2**16.

Everything after is arithmetic modulo 2**32, sums of the planes too, whatever they wrap to: what
``AT M A`` leaves is ``root**2 * y`` modulo 2**32. With ``root**2 = odd * 2**shift`` (4 = 1 * 2**2;
576 = 9 * 2**6) a product with the inverse of ``odd`` modulo 2**32 is ``2**shift * y``, and where
``|y| < 2**(31 - shift)`` int32 holds that: a shift to the right gives ``y`` itself. That bound
(:func:`fits`) is all there is to prove: 2**29 or 2**25.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from llvmlite import ir

from leptonc.backends.numba_cpu.kernels.vectype import I64, i64, shared_function

LARGEST_CODE = 255
Values = list[ir.Value]
Pass = Callable[[ir.IRBuilder, Values], Values]


@dataclass(frozen=True, eq=False)
class Form:
    """Winograd's F(m x m) for 3x3 kernels in whole numbers.

    Attributes:
        m: side of an output tile.
        root: sums are ``root**2`` times as large as those of the convolution.
        g: the whole matrix ``G``, int32[m + 2, 3].
        forth: makes ``BT d`` of the m + 2 values of a column.
        back: lines of an output tile that are made together, and what makes them of the m + 2
            values of a column.
    """

    m: int
    root: int
    g: np.ndarray
    forth: Pass
    back: Sequence[tuple[Sequence[int], Pass]]

    @property
    def side(self) -> int:
        """The side of a tile of codes."""
        return self.m + 2

    @property
    def planes(self) -> int:
        """How many products a tile takes for each channel and column."""
        return self.side**2

    @property
    def lines(self) -> Sequence[int]:
        """The lines of an output tile in the order in which they are made."""
        return [line for lines, _ in self.back for line in lines]

    @property
    def shift(self) -> int:
        """The power of two in ``root**2``."""
        return (self.root**2 & -(self.root**2)).bit_length() - 1

    @property
    def inverse(self) -> int:
        """The inverse modulo 2**32 of what ``root**2`` is besides."""
        return pow(self.root**2 >> self.shift, -1, 2**32)

    def fits(self, reach: int) -> bool:
        """Return whether every sum is exact where none is beyond ``reach`` in magnitude."""
        return reach < 1 << (31 - self.shift)


def _twice(b: ir.IRBuilder, x: ir.Value, times: int = 1) -> ir.Value:
    """Return ``2**times * x``."""
    return b.shl(x, ir.Constant(x.type, [times] * x.type.count))


# ----- F(2x2) -------------------------------------------------------------------------------------


def _forth_2(b: ir.IRBuilder, d: Values) -> Values:
    return [b.sub(d[0], d[2]), b.add(d[1], d[2]), b.sub(d[2], d[1]), b.sub(d[1], d[3])]


def _back_2(b: ir.IRBuilder, m: Values) -> Values:
    return [b.add(b.add(m[0], m[1]), m[2]), b.sub(b.sub(m[1], m[2]), m[3])]


# ----- F(4x4) -------------------------------------------------------------------------------------


def _forth_4(b: ir.IRBuilder, d: Values) -> Values:
    """Return six rows times ``d``.

    They are (4 0 -5 0 1 0), (0 -4 -4 1 1 0), (0 4 -4 -1 1 0), (0 -2 -1 2 1 0), (0 2 -1 -2 1 0) and
    (0 4 0 -5 0 1).
    """
    far, odd = b.sub(d[4], _twice(b, d[2], 2)), b.sub(d[3], _twice(b, d[1], 2))
    near, step = b.sub(d[4], d[2]), b.sub(d[3], d[1])
    twice = b.add(step, step)
    return [
        b.add(_twice(b, b.sub(d[0], d[2]), 2), near),
        b.add(far, odd),
        b.sub(far, odd),
        b.add(near, twice),
        b.sub(near, twice),
        b.sub(b.sub(d[5], d[3]), b.add(twice, twice)),
    ]


def _even_4(b: ir.IRBuilder, m: Values) -> Values:
    """Return the rows (1 1 1 1 1 0) and (0 1 1 4 4 0) times ``m``."""
    near, far = b.add(m[1], m[2]), b.add(m[3], m[4])
    return [b.add(b.add(m[0], near), far), b.add(near, _twice(b, far, 2))]


def _odd_4(b: ir.IRBuilder, m: Values) -> Values:
    """Return the rows (0 1 -1 2 -2 0) and (0 1 -1 8 -8 2) times ``m``."""
    near, far = b.sub(m[1], m[2]), b.sub(m[3], m[4])
    two = b.add(far, far)
    return [b.add(near, two), b.add(near, _twice(b, b.add(_twice(b, two), m[5])))]


FORMS: Mapping[int, Form] = {
    2: Form(
        2, 2, np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]], np.int32), _forth_2,
        [((0, 1), _back_2)],
    ),
    4: Form(
        4, 24,
        np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 12]],
                 np.int32),
        _forth_4, [((0, 2), _even_4), ((1, 3), _odd_4)],
    ),
}  # fmt: skip


# ----- code for each form -------------------------------------------------------------------------


def call_by_form(
    b: ir.IRBuilder, name: str, params: Sequence[ir.Type], emit: Callable[..., None], args: Values
) -> None:  # fmt: skip
    """Call the function of the form whose ``m`` is the first argument.

    ``emit(form, builder, *rest)``: writes it, on first use in a module, of ``params``.
    """

    def choose(b: ir.IRBuilder, m: ir.Value, *rest: ir.Value) -> None:
        end = b.append_basic_block("end")
        switch = b.switch(m, end)
        for form in FORMS.values():
            block = b.append_basic_block(f"form_{form.m}")
            switch.add_case(i64(form.m), block)
            b.position_at_end(block)
            body = functools.partial(emit, form)
            b.call(shared_function(b.module, f"{name}_{form.m}", ir.VoidType(), params, body), rest)
            b.branch(end)
        b.position_at_end(end)

    b.call(shared_function(b.module, name, ir.VoidType(), [I64, *params], choose), args)
