"""Bisect > subject: what is looked at: a compiled model's program, and what eager and it gave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from leptonc.backends.numba_cpu.lower.choices import Answer
from leptonc.backends.numba_cpu.runtime import Executable
from leptonc.bisect.case import Native, run_program
from leptonc.capture import Captured
from leptonc.ir.core import Function


@dataclass(frozen=True)
class Replay:
    """How a specialization was made, for who must see it again with its weights.

    ``capture`` captures the model anew; ``eager`` takes arguments and keywords and gives the
    model's own results, in the order of the function's. Both raise LeptoncError once it is gone.
    """

    pipeline: str
    capture: Callable[[], Captured]
    eager: Callable[[tuple[Any, ...], dict[str, Any]], Sequence[Tensor]]


@dataclass(frozen=True)
class Subject:
    """What bisect looks at: a model, the inputs, and what eager and the compiled model gave.

    Attributes:
        name: the model's.
        function: the program as captured, its weights alive.
        pipeline: the passes it was compiled with.
        native: how its units were compiled.
        inputs, eager, compiled: the tensors of the call, and both results.
        restore: makes what the model returns of a function's results.
        retreat: units that the compile's check sent through torch.
    """

    name: str
    function: Function
    pipeline: str
    native: Native
    inputs: tuple[Tensor, ...]
    eager: tuple[Tensor, ...]
    compiled: tuple[Tensor, ...]
    restore: Callable[[Sequence[Tensor]], Any]
    retreat: tuple[str, ...] = ()


class Compiled(Protocol):
    """What is read of a specialization."""

    precision: str
    answers: dict[str, Answer]
    retreat: dict[str, str]


def subject(
    name: str,
    spec: Compiled,
    replay: Replay,
    program: Executable,
    inputs: Sequence[Tensor],
    restore: Callable[[Sequence[Tensor]], Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Subject:
    """Return what bisect needs of a compiled model and one call of it.

    ``program`` of ``spec`` takes the call, whose tensors are ``inputs``; eager takes ``args`` and
    ``kwargs``; ``restore`` makes what the model returns of a function's results.
    """
    with torch.no_grad():
        function = replay.capture().function
        eager = tuple(replay.eager(args, kwargs))
    given = tuple(t.detach().resolve_conj().resolve_neg().contiguous() for t in inputs)
    chosen = {k: a.chosen for k, a in spec.answers.items()}
    native = Native(program.schedule.threads, spec.precision, chosen)
    made = run_program(program, given)
    return Subject(
        name, function, replay.pipeline, native, given, eager, made, restore, tuple(spec.retreat)
    )
