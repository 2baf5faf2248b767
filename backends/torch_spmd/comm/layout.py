"""torch_spmd > comm > layout: where the parts of a sharded tensor lie in the whole, in elements.

Pure arithmetic on shapes and cuts, shared by every implementation of the collectives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from leptonc.runtime.group.comm import CommError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Block:
    """Rows of elements at equal distances in a dense tensor.

    Attributes:
        offset: index of the first element.
        count: number of elements altogether.
        width: elements of a row, at least 1.
        step: distance between the beginnings of rows.
    """

    offset: int
    count: int
    width: int
    step: int


def dense(count: int) -> Block:
    """Return the block of ``count`` elements without gaps."""
    return Block(0, count, max(count, 1), max(count, 1))


def part(shape: Shape, axis: int, begin: int, end: int) -> Block:
    """Return the block of ``begin:end`` along ``axis`` in a dense tensor of ``shape``."""
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    width, step = (end - begin) * inner, shape[axis] * inner
    if outer <= 1 or width == step:
        return Block(begin * inner, outer * width, max(outer * width, 1), max(outer * width, 1))
    return Block(begin * inner, outer * width, max(width, 1), step)


def resized(shape: Shape, axis: int, size: int) -> Shape:
    """Return ``shape`` with ``size`` along ``axis``."""
    return (*shape[:axis], size, *shape[axis + 1 :])


def lengths(cuts: tuple[int, ...]) -> tuple[int, ...]:
    """Return how long each rank's part is."""
    return tuple(b - a for a, b in pairwise(cuts))


def normal_axis(what: str, shape: Shape, axis: int) -> int:
    """Return ``axis`` counted from the front.

    Raises:
        CommError: there is no such axis.
    """
    if not -len(shape) <= axis < len(shape):
        raise CommError(f"{what}: axis {axis} of a tensor of shape {shape}: no such axis")
    return axis % len(shape)


def check_cuts(what: str, cuts: tuple[int, ...], world: int, total: int | None = None) -> None:
    """Refuse cuts that do not divide an axis (of ``total`` elements, if given) among the ranks.

    Raises:
        CommError: names the collective, what was expected and what was given.
    """
    ordered = all(a <= b for a, b in pairwise(cuts))
    if len(cuts) != world + 1 or cuts[0] != 0 or not ordered:
        raise CommError(
            f"{what}: cuts {cuts} for {world} ranks: expected {world + 1} offsets that begin with 0"
            " and do not decrease"
        )
    if total is not None and cuts[-1] != total:
        raise CommError(f"{what}: cuts {cuts} end at {cuts[-1]}, but the axis has {total} elements")


def check_mine(what: str, shape: Shape, axis: int, cuts: tuple[int, ...], rank: int) -> None:
    """Refuse a part along ``axis`` that is not as long as the cuts say.

    Raises:
        CommError: names the collective, what was expected and what was given.
    """
    mine = cuts[rank + 1] - cuts[rank]
    if shape[axis] != mine:
        raise CommError(
            f"{what}: rank {rank} holds {shape[axis]} elements along axis {axis} of {shape}, but "
            f"cuts {cuts} give it {mine}"
        )


def even_cuts(total: int, world: int) -> tuple[int, ...]:
    """Return cuts of ``total`` elements into parts that differ by one at most."""
    return tuple(total * r // world for r in range(world + 1))
