"""runtime > group > comm: the interface through which a rank's program talks to the others.

``cuts`` are offsets into a whole axis, one more than there are ranks: rank ``r`` owns
``cuts[r]:cuts[r + 1]``, which may be empty. Every rank calls the same collectives in the same
order. All ranks get the same bits: they add in the order of the ranks, 16-bit floats in float32.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from leptonc.errors import WorkerError


class CommError(WorkerError):
    """A collective that was asked for in a way that cannot work."""


class PeerError(CommError):
    """A collective that cannot end because another rank failed, is late or does something else.

    The cause is to be looked for in the other rank.
    """


class Comm(Protocol):
    """The collectives of one rank; results are new tensors, equal in all bits where whole."""

    @property
    def rank(self) -> int:
        """The number of this rank, from 0."""
        ...

    @property
    def world(self) -> int:
        """The number of ranks."""
        ...

    def all_reduce(self, x: Tensor, op: str = "sum") -> Tensor:
        """Return the ranks' ``x`` combined by ``op``: ``"sum"``, ``"max"`` or ``"min"``."""
        ...

    def all_gather(self, x: Tensor, axis: int, cuts: tuple[int, ...]) -> Tensor:
        """Return the whole tensor of which each rank holds its part along ``axis``."""
        ...

    def reduce_scatter(self, x: Tensor, axis: int, cuts: tuple[int, ...]) -> Tensor:
        """Return this rank's part along ``axis`` of the sum of all ``x``."""
        ...

    def all_to_all(
        self,
        x: Tensor,
        split: int,
        split_cuts: tuple[int, ...],
        join: int,
        join_cuts: tuple[int, ...],
    ) -> Tensor:
        """Return what is sharded along ``split``, of what is sharded along ``join``.

        ``x`` is this rank's part along axis ``join`` and whole along ``split``; the result is whole
        along ``join`` and this rank's part along ``split``.
        """
        ...

    def barrier(self) -> None:
        """Return once every rank has called this."""
        ...
