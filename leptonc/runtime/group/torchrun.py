"""runtime > group > torchrun: the ranks of a job that exists, with the interface of a local group.

Run under ``torchrun`` (or anything else that has initialised ``torch.distributed``), every process
is a rank: it makes the group, and calls it with the same inputs as the others do. What becomes of a
process that fails, and of those that wait for it, is up to the launcher and to the time limit of
the process group.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from leptonc.errors import WorkerError
from leptonc.runtime.group.comm import Comm
from leptonc.runtime.group.entry import ALLOWED, check_entry, resolve_entry

_T = TypeVar("_T")
_COMM = "leptonc.backends.torch_spmd.comm.reference:TorchComm"


class TorchrunGroup:
    """One rank, in this process, of an initialised process group.

    Args:
        directory: the program, which ``entry`` loads.
        entry: ``"module:function"``, see :class:`leptonc.runtime.group.local.LocalGroup`.
        group: the process group; None: the default one.
        allowed: prefixes of modules that ``entry`` may be in.

    Raises:
        WorkerError: ``torch.distributed`` is not initialised, or the entry is of no use.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        entry: str,
        group: dist.ProcessGroup | None = None,
        allowed: Sequence[str] = ALLOWED,
    ) -> None:
        check_entry(entry, allowed)
        self._directory = Path(directory).absolute()
        self._load = resolve_entry(entry, allowed)
        self._comm: Comm = resolve_entry(_COMM)(group)
        nccl = dist.get_backend(group) == "nccl"
        self._device = torch.device("cuda", torch.cuda.current_device()) if nccl else None
        self._program: Callable[[list[Tensor]], list[Tensor]] | None = None
        self._broken = ""

    @property
    def rank(self) -> int:
        """The number of this rank, from 0."""
        return self._comm.rank

    @property
    def world(self) -> int:
        """The number of ranks."""
        return self._comm.world

    @property
    def pids(self) -> tuple[int, ...]:
        """The number of this process: the others are the launcher's."""
        return (os.getpid(),)

    def start(self) -> None:
        """Load the program unless that is done; every rank has to.

        Raises:
            WorkerError: it cannot be loaded, or an earlier call failed.
        """
        if self._broken:
            raise WorkerError(self._broken)
        if self._program is None:
            self._program = self._guarded(
                "loading", lambda: self._load(self._directory, self.rank, self._comm)
            )

    def call(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """Return what the program makes of ``tensors``, on every rank, on the CPU.

        Raises:
            WorkerError: this rank failed, or another one while this one waited for it.
        """
        self.start()
        program = self._program
        assert program is not None
        args = [t.detach() if self._device is None else t.to(self._device) for t in tensors]
        with torch.no_grad():
            results = self._guarded("a call", lambda: program(args))
        return [t.cpu() for t in results]

    def restart(self) -> None:
        """Load the program again, on every rank; processes are the launcher's to restart."""
        self._program, self._broken = None, ""
        self.start()

    def close(self) -> None:
        """Forget the program; the process group stays."""
        self._program, self._broken = None, "this group is closed: make a new one"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def _guarded(self, doing: str, work: Callable[[], _T]) -> _T:
        """Return what ``work`` returns, or note that the ranks are not in step any more."""
        try:
            return work()
        except Exception as error:
            text = f"rank {self.rank} raised {type(error).__name__}: {error} during {doing}"
            self._broken = (
                f"an earlier call failed ({text}): the ranks may not be in step; let the launcher "
                "restart the job, or call restart() on every rank"
            )
            raise WorkerError(
                f"{text}: the other ranks wait until their process group's time limit; let the "
                "launcher restart the job"
            ) from error
