"""numba_cpu > context: the memory of one call at a time, with all addresses filled in.

What an :class:`~leptonc.backends.numba_cpu.executor.Program` describes becomes the tables that
:mod:`native` runs.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from leptonc.backends.numba_cpu import balance, native, team_words
from leptonc.backends.numba_cpu.door import door
from leptonc.backends.numba_cpu.kernels.base import Kernel, slot_bits
from leptonc.backends.numba_cpu.pool import ALIGN, TEAMS, aligned_zeros, native_call
from leptonc.errors import TargetError

ARENA, CONST, IO = "arena", "const", "io"


class Slot(NamedTuple):
    """An address that is known when the program is instantiated (or called, for ``io``).

    Attributes:
        space: ``"arena"``, ``"const"`` or ``"io"``.
        key: constant's name for ``"const"``, index of the call's address for ``"io"``, else 0.
        offset: bytes behind the start of that.
    """

    space: str
    key: str | int
    offset: int


@dataclass(frozen=True)
class Step:
    """One kernel call: its record's slots and the flags of :mod:`native`."""

    kernel: Kernel
    slots: tuple[int | float | Slot, ...]
    flags: int


@dataclass(frozen=True)
class TorchStep:
    """A Python call between native segments: ``call(input addresses, output addresses)``."""

    call: Callable[[tuple[int, ...], tuple[int, ...]], None]
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]


@dataclass(frozen=True)
class Plan:
    """A finished program: what :class:`Context` needs to know of it.

    Attributes:
        threads: how many threads share the work.
        arena_bytes: size of the arena.
        addresses: number of input and output addresses of a call.
        constants: arrays by name.
        steps: kernel calls and Python calls, in order.
    """

    threads: int
    arena_bytes: int
    addresses: int
    constants: Mapping[str | int, np.ndarray]
    steps: tuple[Step | TorchStep, ...]


class Context:
    """Memory for one call at a time: arena, records, step tables.

    Args:
        plan: the program.

    Attributes:
        whole: how to run a program that is one native segment without :meth:`run`'s checks:
            ``words, call, segment`` for ``words[i] = address`` of every address, then
            ``call(segment)``. None if there are Python steps.
        enter: the same as one call that takes the tensors (see :mod:`door`); where it returns
            True, ``call(segment)`` is left to do. None where there is no such way.
    """

    whole: tuple[memoryview, Callable[[int], None], int] | None = None
    enter: Callable[..., bool | None] | None = None

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._io = np.zeros(max(plan.addresses, 1), np.int64)
        self._pack = struct.Struct(f"={plan.addresses}q").pack_into
        self._io_bytes = self._io.data.cast("B")
        self._arena = aligned_zeros(plan.arena_bytes)
        self._team = TEAMS.get(plan.threads) if plan.threads > 1 else None
        alone = native_call(native.RUN_ALONE.address)
        self._native = self._team.run if self._team is not None else alone
        self._keep: list[np.ndarray] = []
        groups = _segments(plan.steps)
        self._parts = tuple(self._part(group) for group in groups)
        self._counts = tuple(len(g) if isinstance(g, list) else 0 for g in groups)
        parts = self._parts
        if len(parts) == 1 and isinstance(parts[0], int):
            self.whole = self._io.data, self._native, parts[0]
            self.enter = door(parts[0], native.RUN_TEAM if self._team else native.RUN_ALONE)

    def run(self, *addresses: int) -> None:
        """Run the program with these input and output addresses.

        Raises:
            TargetError: their number is wrong.
        """
        try:
            self._pack(self._io_bytes, 0, *addresses)
        except struct.error:
            expected = self._plan.addresses
            raise TargetError(f"expected {expected} addresses, got {addresses}") from None
        for part in self._parts:
            if isinstance(part, int):
                self._native(part)
            else:
                part.call(self._now(part.inputs), self._now(part.outputs))

    def timed(self, *addresses: int) -> np.ndarray:
        """Run the program once and return when each thread began and had finished each step.

        Returns:
            i64[steps, threads, 2] in nanoseconds of the monotonic clock. A thread that had nothing
            to do in a step shows the moment it passed by; Python steps belong to thread 0, the
            others hold zeros there.

        Raises:
            TargetError: the number of addresses is wrong.
        """
        threads = self._plan.threads
        clocks = [np.zeros((threads, n, 2, 2), np.int64) for n in self._counts]
        found: list[np.ndarray] = []
        for part, clock in zip(self._parts, clocks, strict=True):
            if isinstance(part, int):
                array_at(part + 8 * native.CLOCK, (1,), "int64")[0] = clock.ctypes.data
        try:
            self._pack(self._io_bytes, 0, *addresses)
            for part, clock in zip(self._parts, clocks, strict=True):
                if isinstance(part, int):
                    self._native(part)
                    found.append(_times(clock))
                else:
                    begin = time.monotonic_ns()
                    part.call(self._now(part.inputs), self._now(part.outputs))
                    times = np.zeros((1, threads, 2), np.int64)
                    times[0, 0] = begin, time.monotonic_ns()
                    found.append(times)
        except struct.error:
            expected = self._plan.addresses
            raise TargetError(f"expected {expected} addresses, got {addresses}") from None
        finally:
            for part in self._parts:
                if isinstance(part, int):
                    array_at(part + 8 * native.CLOCK, (1,), "int64")[0] = 0
        return np.concatenate(found) if found else np.zeros((0, threads, 2), np.int64)

    def _part(self, group: list[Step] | TorchStep) -> int | TorchStep:
        """Return a segment's address, or the Python step."""
        return group if isinstance(group, TorchStep) else self._segment(group)

    def _segment(self, steps: list[Step]) -> int:
        """Lay out one native segment (see :mod:`native`) and return its address."""
        layout = _Layout()
        for step in steps:
            layout.add(step, self._base)
        records = self._own(layout.records)
        table = np.array(layout.steps, np.int64)
        table[:, 1] = records.ctypes.data + 8 * table[:, 1]
        table = self._own(table)
        shares = phases(steps, self._plan.threads)
        words = self._own(balance.words(self._plan.threads)).ctypes.data
        equal = self._own([0]).ctypes.data
        shared = [self._is_shared(phase) for phase in shares]
        tasks = np.array(
            [
                (*task, words if both else equal)
                for phase, both in zip(shares, shared, strict=True)
                for task in phase
            ],
            np.int64,
        )
        tasks[:, 0] = table.ctypes.data + 8 * native.STEP_WORDS * tasks[:, 0]
        tasks = self._own(tasks)
        counts = np.array([len(phase) for phase in shares], np.int64)
        starts = tasks.ctypes.data + 8 * native.TASK_WORDS * (np.cumsum(counts) - counts)
        patches = np.array(layout.patches, np.int64).reshape(-1, native.PATCH_WORDS)
        patches[:, 0] = records.ctypes.data + 8 * patches[:, 0]
        head = (
            self._own(np.stack([starts, counts, np.array(shared, np.int64)], 1)).ctypes.data,
            len(shares),
            table.ctypes.data,
            self._own(patches).ctypes.data,
            len(patches),
            self._io.ctypes.data,
            self._team.address if self._team is not None else 0,
            0,
            len(steps),
            self._plan.threads,
            words,
        )
        return self._own(list(head)).ctypes.data

    def _is_shared(self, phase: list[Task]) -> bool:
        """Return whether each thread of several has one share of a step in the phase."""
        threads = self._plan.threads
        shares = [(t, threads) for t in range(threads)]
        return threads > 1 and [task[2:] for task in phase] == shares

    def _own(self, words: np.ndarray | list[int]) -> np.ndarray:
        """Return an aligned copy that lives as long as the context."""
        words = np.asarray(words, np.int64)
        copy = aligned_zeros(words.nbytes).view(np.int64).reshape(words.shape)
        copy[...] = words
        self._keep.append(copy)
        return copy

    def _base(self, slot: Slot) -> int:
        """Return the address of a slot that does not depend on the call."""
        if slot.space == CONST:
            return self._plan.constants[slot.key].ctypes.data + slot.offset
        return self._arena.ctypes.data + slot.offset

    def _now(self, slots: tuple[Slot, ...]) -> tuple[int, ...]:
        """Return the addresses of ``slots`` in the current call."""
        return tuple(
            int(self._io[int(slot.key)]) + slot.offset if slot.space == IO else self._base(slot)
            for slot in slots
        )


def _times(clock: np.ndarray) -> np.ndarray:
    """Return i64[steps, threads, 2] of one segment; who had no share of a step passed it by."""
    times = (clock[..., 0] * 10**9 + clock[..., 1]).transpose(1, 0, 2)
    began = times[times > 0].min(initial=np.iinfo(np.int64).max)
    passed = np.maximum.accumulate(np.maximum(times[..., 1], began), 0)
    earlier = np.concatenate([np.full_like(passed[:1], began), passed[:-1]])
    return np.where(times > 0, times, earlier[..., None])


@dataclass
class _Layout:
    """Records, step table and patches of a segment, with word indices instead of addresses."""

    records: list[int] = field(default_factory=list)
    steps: list[tuple[int, int]] = field(default_factory=list)
    patches: list[tuple[int, int, int]] = field(default_factory=list)

    def add(self, step: Step, base: Callable[[Slot], int]) -> None:
        """Append one step."""
        self.steps.append((step.kernel.address, len(self.records)))
        for slot in step.slots:
            if not isinstance(slot, Slot):
                self.records.append(slot_bits(slot))
                continue
            if slot.space == IO:
                self.patches.append((len(self.records), int(slot.key), slot.offset))
            self.records.append(0 if slot.space == IO else base(slot))
        # Every record starts at a cache line: threads read records while others are patched.
        self.records.extend([0] * (-len(self.records) % (ALIGN // 8)))


Task = tuple[int, int, int, int]  # first step, number of steps, share, number of shares


def phases(steps: Sequence[Step], threads: int) -> list[list[Task]]:
    """Return the tasks of each phase of a segment (see :mod:`native`).

    A step without a barrier shares its phase with the next one. Serial steps one after another
    are one task: whoever takes the first does the others.
    """
    found: list[list[Task]] = []
    before = native.SERIAL  # flags of the step before, none of which joins the first one
    for i, step in enumerate(steps):
        shares = 1 if step.flags & native.SERIAL else threads
        made = [(i, 1, share, shares) for share in range(shares)]
        room = team_words.SLOTS * threads - (len(found[-1]) if found else 0)
        if found and before & native.NO_BARRIER and len(made) <= room:
            found[-1].extend(made)
        elif found and before == step.flags == native.SERIAL and len(found[-1]) == 1:
            ((first, count, _, _),) = found[-1]
            found[-1] = [(first, count + 1, 0, 1)]
        else:
            found.append(made)
        before = step.flags
    return found


def aligned(array: np.ndarray) -> np.ndarray:
    """Return ``array`` if it is contiguous and starts at a cache line, else a copy that does."""
    if array.flags.c_contiguous and array.ctypes.data % ALIGN == 0:
        return array
    copy = aligned_zeros(array.nbytes).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def array_at(address: int, shape: tuple[int, ...], dtype: np.dtype | str) -> np.ndarray:
    """Return the contiguous array that lies at ``address``; the caller keeps the memory alive."""
    kind = np.dtype(dtype)
    count = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    if count == 0:
        return np.empty(shape, kind)
    interface = {"data": (address, False), "shape": shape, "typestr": kind.str, "version": 3}
    return np.asarray(_Memory(interface))


class _Memory:
    """Memory that numpy may view."""

    def __init__(self, interface: dict) -> None:
        self.__array_interface__ = interface


def _segments(steps: Sequence[Step | TorchStep]) -> list[list[Step] | TorchStep]:
    """Return the steps grouped: runs of kernel steps as lists, Python steps by themselves."""
    groups: list[list[Step] | TorchStep] = []
    for step in steps:
        if isinstance(step, TorchStep):
            groups.append(step)
        elif groups and isinstance(groups[-1], list):
            groups[-1].append(step)
        else:
            groups.append([step])
    return groups
