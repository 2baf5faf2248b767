"""bench > rank_memory: what loading a program takes in each rank, measured inside the ranks.

``measured`` starts ranks whose program is the report on their own loading. What an interpreter
holds before it loads anything is no part of it: that is read right before, after what the compiler
imports at its first use. A rank loads in two steps: first its program stands, kernels and all, then
it reads its weights. Each step is measured against what was there right before it.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from leptonc.backends.torch_spmd import store
from leptonc.bench import protocol
from leptonc.ir.dims import parse_dim
from leptonc.passes import pipeline
from leptonc.runtime.group.comm import Comm
from leptonc.runtime.group.local import LocalGroup
from leptonc.runtime.heap import trim

ENTRY = f"{__name__}:load"


@dataclass(frozen=True)
class Loading:
    """Bytes of one rank; file pages, which processes share, are included unless said otherwise.

    Attributes:
        strict: the most that was resident at once while it loaded, above the bare worker.
        reading: the most while it read its weights, above the program that stood without them.
        standing: what that program held, above the bare worker.
        kept: what stayed resident of reading the weights.
        private: resident at the end that no file backs: packed weights, objects, code.
        mapped: resident at the end of files, libraries among them; the system may drop these.
        code: of kernels, part of ``private``.
    """

    strict: int
    reading: int
    standing: int
    kept: int
    private: int
    mapped: int
    code: int


def measured(directory: Path, world: int) -> list[Loading]:
    """Return what each rank of the program in ``directory`` took. Raises WorkerError."""
    group = LocalGroup(directory, world, entry=ENTRY)
    try:
        (rows,) = group.call([torch.zeros(1)])
        return [Loading(*row) for row in rows.tolist()]
    finally:
        group.close()


def load(directory: Path, rank: int, comm: Comm) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """Load as a rank does; what is returned gives i64[world,fields], whatever it is called with."""
    _import()
    before = _now()
    with protocol.footprint() as building:
        program = store.stand(directory, rank, comm)
    stands = _now()
    with protocol.footprint() as reading:
        program.fill()
    ends = _now()
    standing, high = stands.resident - before.resident, reading.peak_bytes or 0
    found = Loading(
        max(building.peak_bytes or 0, standing + high), high, standing,
        ends.resident - stands.resident, ends.private - before.private,
        ends.mapped - before.mapped, ends.code - before.code,
    )  # fmt: skip
    row = torch.tensor([dataclasses.astuple(found)], dtype=torch.int64)

    def report(_: Sequence[Tensor]) -> list[Tensor]:
        assert program.bindings or program.function.dims  # it is loaded still
        return [comm.all_gather(row, 0, tuple(range(comm.world + 1)))]

    return report


def _import() -> None:
    """Have everything imported that loading some program imports."""
    pipeline("O2")
    parse_dim("a + b")


class _Now(NamedTuple):
    """Resident bytes of this process."""

    private: int
    mapped: int
    code: int

    @property
    def resident(self) -> int:
        return self.private + self.mapped


def _now() -> _Now:
    with Path("/proc/self/smaps").open(encoding="utf-8") as smaps:
        code = code_bytes(smaps)
    gc.collect()
    trim()  # what is free would hide as much of what comes next
    private, mapped = protocol.memory("RssAnon") or 0, protocol.memory("RssFile") or 0
    return _Now(private, mapped, code)


def code_bytes(smaps: Iterable[str]) -> int:
    """Return the resident bytes that can be run and come from no file: compiled kernels.

    ``smaps``: the lines of ``/proc/PID/smaps``.
    """
    total, counts = 0, False
    for line in smaps:
        words = line.split()
        if "-" in words[0]:  # a mapping: addresses, rights, offset, device, inode, name
            counts = "x" in words[1] and len(words) < 6
        elif counts and words[0] == "Rss:":
            total += int(words[1]) * 1024
    return total
