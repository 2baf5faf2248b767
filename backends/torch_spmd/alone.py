"""torch_spmd > alone: one rank in the caller's own process, for a single CUDA device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from leptonc.backends.torch_spmd import store
from leptonc.errors import WorkerError
from leptonc.runtime.group.comm import CommError


class AloneComm:
    """The collectives of a rank without others: every value is whole."""

    rank = 0
    world = 1

    def all_reduce(self, x: Tensor, op: str = "sum") -> Tensor:
        """Return ``x``."""
        return x

    def all_gather(self, x: Tensor, axis: int, cuts: tuple[int, ...]) -> Tensor:
        """Return ``x``."""
        return x

    def reduce_scatter(self, x: Tensor, axis: int, cuts: tuple[int, ...]) -> Tensor:
        """Return ``x``."""
        return x

    def all_to_all(
        self,
        x: Tensor,
        split: int,
        split_cuts: tuple[int, ...],
        join: int,
        join_cuts: tuple[int, ...],
    ) -> Tensor:
        """Return ``x``. Raises CommError: one axis for both."""
        if split == join:
            raise CommError(f"all_to_all: split and join are both axis {split}")
        return x

    def barrier(self) -> None:
        """Return at once."""


class AloneGroup:
    """A program of one rank in this process, with the interface of a group.

    Args:
        directory: the program, as ``store.save`` writes it.
        device: index of the CUDA device; None: the current one.
    """

    def __init__(self, directory: Path | str, device: int | None = None) -> None:
        self._directory = Path(directory)
        self._device = device
        self._program: store.RankProgram | None = None
        self._closed = False

    @property
    def pids(self) -> tuple[int, ...]:
        """No processes: the rank is this one."""
        return ()

    def start(self) -> None:
        """Load the program. Raises WorkerError: the group is closed."""
        if self._closed:
            raise WorkerError("this group is closed: make a new one")
        if self._program is None:
            self._program = self._loaded()

    def _loaded(self) -> store.RankProgram:
        if self._device is None:
            return store.load(self._directory, 0, AloneComm())
        with torch.cuda.device(self._device):
            return store.load(self._directory, 0, AloneComm())

    def call(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the results, on the device of the first input."""
        self.start()
        assert self._program is not None
        home = tensors[0].device if tensors else torch.device("cpu")
        return [t.to(home) for t in self._program(list(tensors))]

    def restart(self) -> None:
        """Load the program again."""
        self._program = None
        self.start()

    def close(self) -> None:
        """Let go of the program and its graphs; the group cannot be called any more."""
        program, self._program, self._closed = self._program, None, True
        if program is not None:
            program.free()
