"""bench > rank_memory: what loading a program takes in each rank, measured inside the ranks.

``measured`` starts ranks whose program is the report on their own loading. What an interpreter
holds before it loads anything is no part of it: that is read right before, after what the compiler
imports at its first use.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from leptonc.backends.torch_spmd import store
from leptonc.bench import protocol
from leptonc.ir.dims import parse_dim
from leptonc.passes import pipeline
from leptonc.runtime.group.comm import Comm
from leptonc.runtime.group.local import LocalGroup

ENTRY = f"{__name__}:load"


@dataclass(frozen=True)
class Loading:
    """Bytes of one rank above what it held before it loaded.

    Attributes:
        peak: the most that was resident at once while it loaded, file pages included.
        private: resident afterwards that no file backs: packed weights, objects, code.
        mapped: resident afterwards of files, libraries among them; the system may drop these.
        code: of kernels, part of ``private``.
    """

    peak: int
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
    with protocol.footprint() as taken:
        program = store.load(directory, rank, comm)
    held = (b - a for a, b in zip(before, _now(), strict=True))
    row = torch.tensor([[taken.peak_bytes or 0, *held]], dtype=torch.int64)
    assert row.shape[1] == len(dataclasses.fields(Loading))

    def report(_: Sequence[Tensor]) -> list[Tensor]:
        assert program.bindings or program.function.dims  # it is loaded still
        return [comm.all_gather(row, 0, tuple(range(comm.world + 1)))]

    return report


def _import() -> None:
    """Have everything imported that loading some program imports."""
    pipeline("O2")
    parse_dim("a + b")


def _now() -> tuple[int, int, int]:
    smaps = Path("/proc/self/smaps").read_text(encoding="utf-8")
    private, mapped = protocol.memory("RssAnon") or 0, protocol.memory("RssFile") or 0
    return private, mapped, code_bytes(smaps)


def code_bytes(smaps: str) -> int:
    """Return the resident bytes that can be run and come from no file: compiled kernels."""
    total, counts = 0, False
    for line in smaps.splitlines():
        words = line.split()
        if "-" in words[0]:  # a mapping: addresses, rights, offset, device, inode, name
            counts = "x" in words[1] and len(words) < 6
        elif counts and words[0] == "Rss:":
            total += int(words[1]) * 1024
    return total
