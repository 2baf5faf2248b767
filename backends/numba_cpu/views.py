"""Where a tensor lies: a buffer, an element offset and strides. View ops cost nothing here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from leptonc.ir.types import DType, TensorType


@dataclass(frozen=True, eq=False)
class Buffer:
    """A piece of memory of a schedule.

    ``space`` is ``"arena"`` (planned), ``"input"`` or ``"output"`` (the caller's, ``index`` counts)
    or ``"const"`` (``index`` into the schedule's constants). ``nbytes`` excludes padding.
    """

    space: str
    nbytes: int
    index: int = -1
    note: str = ""


@dataclass(frozen=True)
class Ref:
    """The address ``buffer + byte_offset`` in a kernel's record."""

    buffer: Buffer
    byte_offset: int = 0


@dataclass(frozen=True)
class View:
    """A strided tensor: element ``i`` lies ``offset + sum(i * strides)`` elements in."""

    buffer: Buffer
    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def ref(self) -> Ref:
        """Address of element 0, for a record."""
        return Ref(self.buffer, self.offset * self.dtype.nbytes)

    @property
    def order(self) -> tuple[int, ...]:
        """Axes from the outermost in memory to the innermost (stable for equal strides)."""
        return tuple(sorted(range(self.rank), key=lambda a: (-abs(self.strides[a]), a)))

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements lie row-major without gaps."""
        return self.is_dense(tuple(range(self.rank)))

    def is_dense(self, order: Sequence[int]) -> bool:
        """Whether the elements lie without gaps in the physical axis order ``order``."""
        step = 1
        for a in reversed(order):
            if self.shape[a] != 1 and self.strides[a] != step:
                return False
            step *= self.shape[a]
        return True

    def is_same(self, other: View) -> bool:
        """Whether the other view has the same elements in the same places."""
        steps = zip(self.shape, self.strides, other.strides, strict=False)
        return (
            self.buffer is other.buffer
            and (self.dtype, self.shape, self.offset) == (other.dtype, other.shape, other.offset)
            and all(n == 1 or a == b for n, a, b in steps)
        )

    def moved(
        self, shape: tuple[int, ...], strides: tuple[int, ...], offset: int | None = None
    ) -> View:
        """Return another view of the same buffer (``dataclasses.replace`` takes thrice as long)."""
        at = self.offset if offset is None else offset
        return View(self.buffer, self.dtype, shape, strides, at)

    def transpose(self, perm: Sequence[int]) -> View:
        """Return the view with axes permuted."""
        return self.moved(
            tuple([self.shape[p] for p in perm]), tuple([self.strides[p] for p in perm])
        )

    def expand(self, shape: Sequence[int]) -> View:
        """Return the view broadcast to ``shape`` (stride 0 where repeated)."""
        pad = len(shape) - self.rank
        old = (1,) * pad + self.shape
        steps = (0,) * pad + self.strides
        strides = tuple(
            [s if have == want else 0 for s, have, want in zip(steps, old, shape, strict=True)]
        )
        return self.moved(tuple(shape), strides)

    def slice(self, axis: int, start: int, stop: int, step: int = 1) -> View:
        """Return elements ``start:stop:step`` of one axis."""
        n = max(0, -(-(stop - start) // step))
        shape = (*self.shape[:axis], n, *self.shape[axis + 1 :])
        strides = (*self.strides[:axis], self.strides[axis] * step, *self.strides[axis + 1 :])
        return self.moved(shape, strides, self.offset + start * self.strides[axis])

    def flip(self, axes: Sequence[int]) -> View:
        """Return the view with ``axes`` reversed (negative strides)."""
        strides, offset = list(self.strides), self.offset
        for a in axes:
            offset += max(self.shape[a] - 1, 0) * strides[a]
            strides[a] = -strides[a]
        return self.moved(self.shape, tuple(strides), offset)

    def reshape(self, shape: Sequence[int]) -> View | None:
        """Return the same elements row-major under ``shape``; None if that needs a copy."""
        shape = tuple(shape)
        if self.numel == 0:
            return self.moved(shape, row_major(shape))
        old = [(n, s) for n, s in zip(self.shape, self.strides, strict=True) if n != 1]
        strides: list[int] = []
        i = 0
        new = list(shape)
        j = 0
        while j < len(new):
            if new[j] == 1:
                strides.append(0)
                j += 1
                continue
            # Gather the fewest old axes whose product is a product of new axes.
            a, b = i + 1, j + 1
            have, want = old[i][0], new[j]
            while have != want:
                if have < want:
                    have *= old[a][0]
                    a += 1
                else:
                    want *= new[b]
                    b += 1
            for k in range(i, a - 1):
                if old[k][1] != old[k + 1][1] * old[k + 1][0]:
                    return None
            step = old[a - 1][1]
            group: list[int] = []
            for n in reversed(new[j:b]):
                group.append(step)
                step *= n
            strides.extend(reversed(group))
            i, j = a, b
        return self.moved(shape, tuple(strides))


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides, in elements, of a dense row-major tensor."""
    return ordered(shape, tuple(range(len(shape))))


def ordered(shape: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of a dense tensor stored in the physical axis order ``order``."""
    strides, step = [0] * len(shape), 1
    for a in reversed(order):
        strides[a] = step
        step *= max(shape[a], 1)
    return tuple(strides)


def static_shape(type_: TensorType) -> tuple[int, ...]:
    """Return the shape as ints. Raises TypeError when a size is symbolic."""
    if not all(isinstance(d, int) for d in type_.shape):
        raise TypeError(f"{type_} still has symbolic sizes")
    return tuple(int(d) for d in type_.shape)


def dense(buffer: Buffer, type_: TensorType) -> View:
    """Return the view of a whole buffer that holds ``type_`` in its own layout."""
    shape = static_shape(type_)
    order = tuple(range(len(shape))) if type_.layout is None else type_.layout
    return View(buffer, type_.dtype, shape, ordered(shape, order))
