"""Schedule: the frozen program of a net, kernels with their records, in the order they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from leptonc.backends.numba_cpu.kernels.base import Kernel, Native
from leptonc.backends.numba_cpu.lower.choices import Decision
from leptonc.backends.numba_cpu.views import Buffer, Ref, View
from leptonc.ir.core import Function, Op


@dataclass(frozen=True)
class Scratch:
    """A per-thread scratch area in a record: base address, with the next slot its stride in bytes.

    ``stride`` False asks for the address of thread 0's area, True for the bytes between threads.
    ``nbytes``: how many each thread uses from there on. :func:`arena.laid_out` puts the areas
    of a step into the arena; the slots of a schedule are addresses and numbers.
    """

    byte_offset: int
    nbytes: int
    stride: bool = False


Slot = int | float | Ref | Scratch | Native  # a kernel, a part: its address, for who calls it


@dataclass(frozen=True)
class Step:
    """One kernel call: slot ``i`` of its record is ``slots[i]``."""

    kernel: Kernel
    slots: tuple[Slot, ...]
    reads: tuple[Buffer, ...]
    writes: tuple[Buffer, ...]
    unit: int
    serial: bool = False
    barrier: bool = True
    note: str = ""


@dataclass(frozen=True)
class TorchStep:
    """A stretch that runs through torch: ``body`` on the inputs' views into the outputs' views."""

    body: Function
    inputs: tuple[View, ...]
    outputs: tuple[View, ...]
    unit: int
    reason: str
    note: str = ""

    @property
    def reads(self) -> tuple[Buffer, ...]:
        """Buffers it reads."""
        return tuple(v.buffer for v in self.inputs)

    @property
    def writes(self) -> tuple[Buffer, ...]:
        """Buffers it writes."""
        return tuple(v.buffer for v in self.outputs)


@dataclass(frozen=True)
class Run:
    """The steps ``start:stop`` in which a unit computes one part of the batch, or the whole.

    ``op`` is what they compute, ``operands`` and ``results`` are where those of it lie.
    """

    op: Op
    start: int
    stop: int
    operands: tuple[View, ...]
    results: tuple[View, ...]


@dataclass(frozen=True)
class UnitInfo:
    """What a report says of one unit: op, name, how it runs, why not natively, what it chose."""

    op: Op
    name: str
    pattern: str
    native_ops: int
    torch_ops: int
    reason: str = ""
    decisions: tuple[Decision, ...] = ()
    runs: tuple[Run, ...] = ()  # one a part of the batch, with other units between them

    @property
    def parts(self) -> int:
        """Into how many parts of the batch it is cut."""
        return max(1, len(self.runs))


@dataclass(frozen=True)
class Schedule:
    """A whole net for one set of sizes.

    ``offsets`` places every arena buffer (bytes), scratch of all threads among them;
    ``arena_bytes`` is their extent, ``lower_bound`` the largest live set and ``sum_bytes`` all of
    them together.
    """

    name: str
    steps: tuple[Step | TorchStep, ...]
    units: tuple[UnitInfo, ...]
    inputs: tuple[View, ...]
    outputs: tuple[View, ...]
    consts: tuple[np.ndarray, ...]
    offsets: Mapping[Buffer, int]
    arena_bytes: int
    lower_bound: int
    sum_bytes: int
    threads: int
    errors: tuple[str, ...] = ()


LowerFn = Callable[..., None]
