"""numba_cpu > executor: programs, tables of kernels with their records: build them, run them.

An emitted module describes the program, the caller runs it::

    def build(p):
        p.step(GEMM, p.input(0), p.const("w0"), p.arena(0), 128, p.arena(16384), 4096)
        p.torch_step(softmax, inputs=[p.arena(0)], outputs=[p.arena(8192)])
        p.step(ADD, p.arena(8192), p.output(0), 128, 0.5)

    p = Program(threads=2, arena_bytes=65536, constants={"w0": array}, inputs=1, outputs=1)
    build(p)
    p.run(x.data_ptr(), y.data_ptr())

Slots of a step become the kernel's record, one 64-bit word each: an int, a float (its float64
bits), or an address. Scratch is two slots, an address in the arena and a stride in bytes: thread
``tid`` has as much to itself from ``address + tid * stride``, within the step.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from leptonc.backends.numba_cpu import native
from leptonc.backends.numba_cpu.context import (
    ARENA,
    CONST,
    IO,
    Context,
    Plan,
    Slot,
    Step,
    TorchStep,
    aligned,
    array_at,
)
from leptonc.backends.numba_cpu.kernels.base import Kernel
from leptonc.backends.numba_cpu.pool import TEAMS, usable_cores
from leptonc.errors import TargetError

__all__ = ["Program", "ProgramPool", "Slot", "Step", "TorchStep", "aligned", "array_at"]


class Program:
    """A sequence of steps; described once, then run by any number of Python threads.

    Args:
        threads: how many threads share the work; 1 never touches a worker.
        arena_bytes: size of the zero-initialised, 64-byte aligned memory for intermediate values.
        constants: arrays by name, or a sequence of them, named by index; kept alive, copied only
            where they are not contiguous or not 64-byte aligned.
        inputs: number of input addresses of a call.
        outputs: number of output addresses of a call.
        max_contexts: how many calls may be under way at once, each with an arena of its own; others
            wait. Default: 1 if ``threads > 1`` (the others would wait for the workers anyway),
            else the number of cores.
    """

    def __init__(
        self,
        threads: int = 1,
        arena_bytes: int = 0,
        constants: Mapping[str | int, np.ndarray] | Sequence[np.ndarray] = (),
        inputs: int = 0,
        outputs: int = 0,
        max_contexts: int | None = None,
    ) -> None:
        if threads < 1:
            raise TargetError(f"a program needs at least one thread, not {threads}")
        self.threads = threads
        self.arena_bytes = arena_bytes
        self.inputs = inputs
        self.outputs = outputs
        self.steps: list[Step | TorchStep] = []
        named = constants if isinstance(constants, Mapping) else dict(enumerate(constants))
        self._constants = {name: aligned(array) for name, array in named.items()}
        cores = max(2, usable_cores())
        limit = max_contexts or (1 if threads > 1 else cores)
        self._pool = ProgramPool(_weakly(self), limit)

    def provide(self, name: str | int, array: np.ndarray) -> None:
        """Put an array in the place of the constant ``name``, before the first call."""
        assert name in self._constants and not self.contexts
        self._constants[name] = aligned(array)

    def arena(self, offset: int) -> Slot:
        """Return the address of byte ``offset`` of the arena."""
        if not 0 <= offset <= self.arena_bytes:
            raise TargetError(f"arena offset {offset} is outside of {self.arena_bytes} bytes")
        return Slot(ARENA, 0, offset)

    def const(self, name: str | int, byte_offset: int = 0) -> Slot:
        """Return the address of constant ``name``."""
        if name not in self._constants:
            known = ", ".join(map(repr, list(self._constants)[:8]))
            raise TargetError(f"constant {name!r} is not among {known}")
        return Slot(CONST, name, byte_offset)

    def input(self, index: int, byte_offset: int = 0) -> Slot:
        """Return the address of input ``index``, known when the program is called."""
        if not 0 <= index < self.inputs:
            raise TargetError(f"input {index}: the program has {self.inputs} inputs")
        return Slot(IO, index, byte_offset)

    def output(self, index: int, byte_offset: int = 0) -> Slot:
        """Return the address of output ``index``, known when the program is called."""
        if not 0 <= index < self.outputs:
            raise TargetError(f"output {index}: the program has {self.outputs} outputs")
        return Slot(IO, self.inputs + index, byte_offset)

    def step(
        self,
        kernel: Kernel,
        *slots: int | float | Slot,
        serial: bool = False,
        barrier: bool = True,
    ) -> None:
        """Append a kernel call.

        Args:
            kernel: what to call.
            slots: the record.
            serial: one thread runs all of it (``nt = 1``).
            barrier: whether the next step waits for this one to end; False only if that may run
                at the same time: neither of them, nor of the steps before this one without a
                barrier, reads or writes what another one writes.
        """
        flags = native.SERIAL * serial | native.NO_BARRIER * (not barrier)
        self.steps.append(Step(kernel, slots, flags))

    def torch_step(
        self,
        call: Callable[[tuple[int, ...], tuple[int, ...]], None],
        inputs: Sequence[Slot],
        outputs: Sequence[Slot],
    ) -> None:
        """Append a Python call that gets the addresses of its inputs and of its outputs."""
        self.steps.append(TorchStep(call, tuple(inputs), tuple(outputs)))

    def run(self, *addresses: int) -> None:
        """Run the program; ``addresses`` are those of the inputs, then those of the outputs."""
        pool = self._pool
        context = pool.acquire()
        try:
            context.run(*addresses)
        finally:
            pool.release(context)

    @property
    def lane(self) -> ProgramPool | None:
        """The contexts of a program that is one native segment; None if it is not.

        Who knows how many addresses there are may write :meth:`run` out over plain locals, by way
        of :attr:`Context.whole`: that halves what a call costs.
        """
        native_only = bool(self.steps) and all(isinstance(s, Step) for s in self.steps)
        return self._pool if native_only else None

    def timed(self, *addresses: int) -> np.ndarray:
        """Run once; return i64[steps, threads, 2], see :meth:`Context.timed`."""
        context = self._pool.acquire()
        try:
            return context.timed(*addresses)
        finally:
            self._pool.release(context)

    def _context(self) -> Context:
        """Return the program's tables in memory of their own."""
        plan = Plan(
            threads=self.threads,
            arena_bytes=self.arena_bytes,
            addresses=self.inputs + self.outputs,
            constants=self._constants,
            steps=tuple(self.steps),
        )
        return Context(plan)

    @property
    def contexts(self) -> int:
        """Number of contexts (arena and records) that exist now."""
        return self._pool.size


def _weakly(program: Program) -> Callable[[], Context]:
    """Return what makes contexts of ``program`` without keeping it alive.

    A program that is dropped frees its arenas at once, not when Python looks for cycles.
    """
    held = weakref.ref(program)

    def make() -> Context:
        found = held()
        assert found is not None  # who asks is running it
        return found._context()

    return make


class ProgramPool:
    """The contexts of one program: one more when all are busy, fewer again when it is quiet.

    Args:
        make: returns a new context.
        limit: the largest number of them; callers beyond it wait.

    Attributes:
        idle: contexts that nobody uses; always the same object, also after a fork.
        waiting: how many callers wait for one.
    """

    QUIET_CALLS = 64

    def __init__(self, make: Callable[[], Context], limit: int) -> None:
        self._make = make
        self._limit = limit
        self.idle: deque[Context] = deque()
        TEAMS.on_fork(self)
        self.after_fork()

    def after_fork(self) -> None:
        """Start afresh: contexts that other threads held at the fork would never come back."""
        self.idle.clear()
        self._free = threading.Condition(threading.Lock())
        self.waiting = 0
        self._quiet = 0
        self.size = 0

    def acquire(self) -> Context:
        """Return a context for exclusive use; waits when the limit is reached."""
        try:
            return self.idle.pop()
        except IndexError:
            return self._grow()

    def _grow(self) -> Context:
        """Return a new context, or the next one that is released if there are enough."""
        with self._free:
            while not self.idle and self.size >= self._limit:
                self.waiting += 1
                self._free.wait(0.05)
                self.waiting -= 1
            try:
                return self.idle.pop()
            except IndexError:
                self.size += 1
        self._quiet = 0
        try:
            return self._make()
        except BaseException:
            with self._free:
                self.size -= 1
            raise

    def release(self, context: Context) -> None:
        """Take a context back; one that nobody needed for a while is dropped."""
        self.idle.append(context)
        if self.waiting or len(self.idle) > 1:
            self.settle()

    def settle(self) -> None:
        """Wake a caller that waits for the context just released, or count the surplus."""
        if self.waiting:
            with self._free:
                self._free.notify()
        else:
            self._quiet += 1
            if self._quiet > self.QUIET_CALLS:
                self._shrink()

    def _shrink(self) -> None:
        """Drop one idle context if there are several."""
        with self._free:
            self._quiet = 0
            if len(self.idle) > 1:
                self.idle.popleft()
                self.size -= 1
