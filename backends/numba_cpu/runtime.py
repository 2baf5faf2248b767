"""From a schedule to something that runs: the callable a compiled model holds for its sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from leptonc import meaning
from leptonc.backends.numba_cpu import native
from leptonc.backends.numba_cpu.assemble import assemble
from leptonc.backends.numba_cpu.door import data_function
from leptonc.backends.numba_cpu.emit import Source, emit
from leptonc.backends.numba_cpu.executor import Program, ProgramPool
from leptonc.backends.numba_cpu.forecast import forecast
from leptonc.backends.numba_cpu.kernels.ahead import HELPERS, compile_all
from leptonc.backends.numba_cpu.kernels.base import Native
from leptonc.backends.numba_cpu.kernels.igemm import igemm
from leptonc.backends.numba_cpu.lower.core import STATUS_WORDS
from leptonc.backends.numba_cpu.schedule import Schedule, Step, TorchStep
from leptonc.backends.numba_cpu.views import View
from leptonc.runtime.governor import library_threads

ARENA_SLACK = 256  # bytes behind the last buffer that vector loads may touch
ALONE = (native.RUN_ALONE, native.PAUSES, native.ENTER)  # what runs every program
TEAM = (native.RUN_TEAM, native.WORK, native.TICKS)


@dataclass(frozen=True)
class Executable:
    """A loaded schedule. Calling it takes the addresses of inputs, then of outputs.

    Raises IndexError when a kernel found an index out of range.
    """

    schedule: Schedule
    program: Program

    def __call__(self, *addresses: int) -> None:
        """Run once."""
        self._guarded(self.program.run, addresses)

    def timed(self, *addresses: int) -> np.ndarray:
        """Run once; return when each thread began and ended each step (``Program.timed``)."""
        return self._guarded(self.program.timed, addresses)

    def _guarded(self, run: Callable[..., Any], addresses: Sequence[int]) -> Any:
        if not self.mixed:
            return self._checked(run, addresses)
        # Torch's own threads must not be more than the program may use.
        with library_threads(self.schedule.threads):
            return self._checked(run, addresses)

    @cached_property
    def source(self) -> Source:
        """The emitted module."""
        return emit(self.schedule)

    @cached_property
    def mixed(self) -> bool:
        """Whether some units run through torch."""
        return any(isinstance(s, TorchStep) for s in self.schedule.steps)

    @property
    def lane(self) -> ProgramPool | None:
        """The contexts to run on without the detours of a call, which this program does not need.

        None if it needs them.
        """
        return None if self.schedule.errors else self.program.lane

    @property
    def doors(self) -> bool:
        """Whether every context of the lane has an ``enter``."""
        return self.lane is not None and data_function() != 0

    def _checked(self, run: Callable[..., Any], addresses: Sequence[int]) -> Any:
        """Return what ``run`` returns; raise what its kernels reported."""
        if not self.schedule.errors:
            return run(*addresses)
        status = np.zeros(STATUS_WORDS, np.int64)
        result = run(*addresses, status.ctypes.data)
        if status.any():
            raise IndexError(self.schedule.errors[int(np.flatnonzero(status)[0])])
        return result


@contextmanager
def ahead(model: Any = None, precision: str = "fp32") -> Iterator[None]:
    """Let helpers begin with the kernels that ``model`` probably needs while it is captured."""
    with HELPERS.session():
        HELPERS.ask(forecast(model, precision), enough=1)
        HELPERS.ask((igemm, *TEAM, *ALONE, native.STOP_TEAM))  # the last one for the exit
        yield


def load(schedule: Schedule, source: Source | None = None) -> Executable:
    """Return ``schedule`` ready to run: kernels loaded, its program built from the emitted text.

    Without a text the program is assembled straight from the schedule, which gives the same steps.
    """
    program = Program(
        threads=schedule.threads,
        arena_bytes=schedule.arena_bytes + ARENA_SLACK,
        constants={str(i): a for i, a in enumerate(schedule.consts)},
        inputs=len(schedule.inputs),
        outputs=len(schedule.outputs) + bool(schedule.errors),
    )
    compile_all(kernels_of(schedule))
    if source is None:
        assemble(schedule, program, torch_call)
    else:
        _build(schedule, source, program)
    return Executable(schedule, program)


def _build(schedule: Schedule, source: Source, program: Program) -> None:
    """Run the emitted text."""
    kernels = {k.name: k for k in kernels_of(schedule)}
    namespace: dict[str, Callable[..., None]] = {}
    exec(compile(source.text, f"<schedule of {schedule.name}>", "exec"), namespace)  # our own text
    namespace["build"](program, kernels, lambda n: torch_call(source.torch_steps[n]))


def kernels_of(schedule: Schedule) -> list[Native]:
    """Return every kernel and part that the schedule names, once."""
    steps = [s for s in schedule.steps if isinstance(s, Step)]
    used = [k for s in steps for k in (s.kernel, *s.slots) if isinstance(k, Native)]
    return list(dict.fromkeys((*used, *ALONE, *(TEAM if schedule.threads > 1 else ()))))


def torch_call(step: TorchStep) -> Callable[[Sequence[int], Sequence[int]], None]:
    """Return the Python step: wrap the addresses as tensors, run the body, copy the results out."""

    def call(inputs: Sequence[int], outputs: Sequence[int]) -> None:
        args = [tensor_of(a, v) for a, v in zip(inputs, step.inputs, strict=True)]
        results = meaning.run(step.body, *args)
        for address, view, result in zip(outputs, step.outputs, results, strict=True):
            tensor_of(address, view).copy_(result)

    return call


def tensor_of(address: int, view: View) -> Any:
    """Return the tensor that lies at ``address`` with the view's shape and strides."""
    return meaning.tensor_at(address, view.dtype, view.shape, view.strides)
