"""Axes in memory: physical orders, strides, and what a reshape does to them.

Sizes may be symbolic; whatever cannot be proven counts as "needs a copy".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, TypeAlias, cast

import sympy  # pyright: ignore[reportMissingTypeStubs]

from leptonc.ir.core import Kind
from leptonc.ir.dims import Dim, Shape, as_dim, same_dim
from leptonc.ir.kinds.shape import Expand, Reshape, Slice, Transpose
from leptonc.ir.types import TensorType

Order: TypeAlias = "tuple[int, ...]"


def order_of(type_: TensorType) -> Order:
    """Return the physical axis order, outermost first."""
    return tuple(range(type_.rank)) if type_.layout is None else type_.layout


def as_layout(order: Sequence[int]) -> Order | None:
    """Return ``order`` as a type's ``layout``: None for row-major."""
    return None if list(order) == list(range(len(order))) else tuple(order)


def channels_last(rank: int) -> Order:
    """Return the order batch, spatial axes, channel of an image tensor ``[b,c,*spatial]``."""
    return (0, *range(2, rank), 1)


def same_order(shape: Shape, a: Sequence[int], b: Sequence[int]) -> bool:
    """Return whether two orders lay ``shape`` out alike: axes of size 1 do not matter."""
    return a == b or [x for x in a if shape[x] != 1] == [x for x in b if shape[x] != 1]


def same_memory(a: TensorType, b: TensorType) -> bool:
    """Return whether two values have one dtype, shape and (up to axes of size 1) physical order."""
    same = a.dtype is b.dtype and a.shape == b.shape
    return same and same_order(a.shape, order_of(a), order_of(b))


def permuted_order(order: Sequence[int], perm: Sequence[int]) -> Order:
    """Return the order of ``transpose{perm}``'s result when no data moves."""
    return tuple(perm.index(axis) for axis in order)


def reduced_order(order: Sequence[int], axes: Sequence[int]) -> Order:
    """Return the order after ``axes`` were dropped."""
    kept = sorted(set(order) - set(axes))
    return tuple(kept.index(a) for a in order if a not in axes)


AxisGroup: TypeAlias = "tuple[tuple[int, ...], tuple[int, ...]]"


@lru_cache(maxsize=4096)
def axis_groups(old: Shape, new: Shape) -> tuple[AxisGroup, ...] | None:
    """Return the smallest runs of old and new axes of equal size, axes of size 1 left out.

    A row-major reshape keeps the order of elements, so each run of old axes becomes its run of new
    ones. None when the runs cannot be told (a size of 0, or symbols that do not divide).
    """
    left, right = _wide(old), _wide(new)
    groups: list[AxisGroup] = []
    i = j = 0
    while i < len(left) and j < len(right):
        a, b = i + 1, j + 1
        have, want = old[left[i]], new[right[j]]
        while not same_dim(have, want):
            if a < len(left) and _divides(have, want):
                have, a = as_dim(have * old[left[a]]), a + 1
            elif b < len(right) and _divides(want, have):
                want, b = as_dim(want * new[right[b]]), b + 1
            else:
                return None
        groups.append((tuple(left[i:a]), tuple(right[j:b])))
        i, j = a, b
    return tuple(groups) if i == len(left) and j == len(right) else None


def _wide(shape: Shape) -> list[int]:
    return [i for i, d in enumerate(shape) if d != 1]


def _divides(small: Dim, large: Dim) -> bool:
    """Return whether to grow ``small`` next: it may still become ``large``."""
    if isinstance(small, int) and isinstance(large, int):
        return 0 < small < large
    return _symbol_divides(small, large)


@lru_cache(maxsize=4096)
def _symbol_divides(small: Dim, large: Dim) -> bool:
    algebra = cast(Any, sympy)
    ratio = algebra.cancel(algebra.sympify(large) / algebra.sympify(small))
    return bool(algebra.fraction(ratio)[1] == 1)


def reshaped_order(old: Shape, order: Sequence[int], new: Shape) -> Order | None:
    """Return the order of a reshape's result when no data moves, or None when some must.

    Each run of old axes must lie together in memory, in order: then the run of new axes takes its
    place. ``f32[b,c,h,w]@0231`` to ``[b,c,h*w]`` is ``@021``; to ``[b,c*h*w]`` it needs a copy.
    """
    groups = axis_groups(old, new)
    if groups is None:
        return tuple(range(len(new))) if list(order) == list(range(len(old))) else None
    place = {axis: i for i, axis in enumerate(a for a in order if old[a] != 1)}
    starts: list[tuple[int, tuple[int, ...]]] = []
    for before, after in groups:
        first = place[before[0]]
        if any(place[axis] != first + i for i, axis in enumerate(before)):
            return None
        starts.append((first, after))
    wide = [axis for _, after in sorted(starts) for axis in after]
    return _with_units(wide, new)


def gathered_order(old: Shape, order: Sequence[int], new: Shape) -> Order:
    """Return the order nearest to ``order`` in which a reshape from ``old`` to ``new`` is free.

    The axes of each run are brought together where its innermost one lies: a channel shuffle of
    a channels-last image stays channels-last.
    """
    groups = axis_groups(old, new)
    if groups is None:
        return tuple(range(len(old)))
    place = {axis: i for i, axis in enumerate(order)}
    runs = sorted((before for before, _ in groups), key=lambda run: max(place[a] for a in run))
    return _with_units([axis for run in runs for axis in run], old)


def _with_units(wide: list[int], shape: Shape) -> Order:
    """Return ``wide`` with the axes of size 1 set where row-major order would have them, if so."""
    if wide == sorted(wide):
        return tuple(range(len(shape)))
    units = [i for i in range(len(shape)) if shape[i] == 1]
    return (*units, *wide)


@dataclass(frozen=True)
class Strided:
    """A tensor in memory: shape and strides in elements (the offset does not matter here)."""

    shape: Shape
    strides: Shape

    @staticmethod
    def dense(type_: TensorType) -> Strided:
        """Return the strides of a whole buffer in the type's layout."""
        strides: list[Dim] = [0] * type_.rank
        step: Dim = 1
        for axis in reversed(order_of(type_)):
            strides[axis] = step
            step = as_dim(step * type_.shape[axis])
        return Strided(type_.shape, tuple(strides))

    def reshape(self, shape: Shape) -> Strided | None:
        """Return the same elements under ``shape``, or None when that needs a copy."""
        groups = axis_groups(self.shape, shape)
        if groups is None:
            return None
        strides: list[Dim] = [0] * len(shape)
        for before, after in groups:
            for a, b in pairwise(before):
                if not same_dim(self.strides[a], as_dim(self.strides[b] * self.shape[b])):
                    return None
            step = self.strides[before[-1]]
            for axis in reversed(after):
                strides[axis] = step
                step = as_dim(step * shape[axis])
        return Strided(shape, tuple(strides))

    def view(self, kind: Kind, result: TensorType) -> Strided | None:
        """Return the result of a view op, or None when it needs a copy (or is no view)."""
        if isinstance(kind, Reshape):
            return self.reshape(result.shape)
        if isinstance(kind, Transpose):
            return Strided(result.shape, tuple(self.strides[p] for p in kind.perm))
        if isinstance(kind, Slice):
            strides = list(self.strides)
            strides[kind.axis] = as_dim(strides[kind.axis] * kind.step)
            return Strided(result.shape, tuple(strides))
        if isinstance(kind, Expand):
            pad = result.rank - len(self.shape)
            kept = (
                0 if d == 1 and n != 1 else s
                for d, s, n in zip(self.shape, self.strides, result.shape[pad:], strict=True)
            )
            return Strided(result.shape, (*(0,) * pad, *kept))
        return None
