"""compress > quantize > places: ops without a weight, found again by module path and number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from leptonc.ir.core import Function, Op


@dataclass(frozen=True)
class Place:
    """Which op of its sort in a module it is, in order: edits leave that as it is."""

    path: str
    index: int

    @property
    def where(self) -> str:
        """The module path, with the number where it is not the first of the module."""
        return f"{self.path}#{self.index}" if self.index else self.path or "the model"

    def owned(self, sort: str, leaf: str) -> str:
        """Return the name of a constant that belongs to the op; ``sort``: ``"mean"`` and so on."""
        name = f"{sort}{self.index}_{leaf}"
        return f"{self.path}.{name}" if self.path else name


def places(fn: Function, fits: Callable[[Op], bool]) -> Iterator[tuple[Place, Op]]:
    """Yield the ops of a sort with their places."""
    count = Counter[str]()
    for op in fn.ops:
        if fits(op):
            path = op.origin.module or ""
            yield Place(path, count[path]), op
            count[path] += 1
