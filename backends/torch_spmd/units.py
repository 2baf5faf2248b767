"""torch_spmd > units: what runs a unit: its torch text, CPU kernels, or inductor's code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor

from leptonc import meaning
from leptonc.backends.numba_cpu.emit import emit
from leptonc.backends.numba_cpu.lower.core import ConstPool
from leptonc.backends.numba_cpu.runtime import Executable, load
from leptonc.backends.numba_cpu.schedule import TorchStep
from leptonc.backends.numba_cpu.scheduler import Options, schedule
from leptonc.backends.torch_spmd.schedule import UnitStep
from leptonc.errors import TargetError
from leptonc.ir.constants import Const
from leptonc.ir.core import Function, Op
from leptonc.ir.kinds.data import Constant
from leptonc.passes import pipeline
from leptonc.pipeline import PassManager

Unit: TypeAlias = "Callable[..., tuple[Tensor, ...]]"
Fill: TypeAlias = "Callable[[Function], tuple[Function, tuple[Tensor, ...]]]"


@dataclass(frozen=True)
class Weights:
    """How a unit gets at its constants.

    Attributes:
        fill: reads those of a function; gives it and operands that it has besides its own.
        rest: gives back memory that reading took.
    """

    fill: Fill
    rest: Callable[[], None]


@dataclass(frozen=True)
class How:
    """How units run.

    Attributes:
        engine: ``"native"`` (CPU kernels), ``"torch"`` or ``"inductor"``.
        threads: of native kernels.
        precision: of native kernels, as for ``leptonc.compile``.
        pipeline: passes over a unit before native kernels are chosen.
    """

    engine: str = "torch"
    threads: int = 1
    precision: str = "fp32"
    pipeline: str = "O2"


def build(step: UnitStep, text: Unit, how: How, weights: Weights) -> Unit:
    """Return what runs ``step``.

    Args:
        step: the unit.
        text: its function in the emitted program.
        how: how units run.
        weights: its constants.

    Raises:
        TargetError: an unknown engine.
    """
    make = ENGINES.get(how.engine)
    if make is None:
        raise TargetError(f"unknown engine {how.engine!r}; there are: {', '.join(ENGINES)}")
    return make(step, text, how, weights)


def reads_weights(unit: Unit) -> bool:
    """Return whether a unit reads ``w``; native ones hold packed weights of their own."""
    return not isinstance(unit, _Native)


def _torch(step: UnitStep, text: Unit, how: How, weights: Weights) -> Unit:
    return text


def _inductor(step: UnitStep, text: Unit, how: How, weights: Weights) -> Unit:
    return torch.compile(text, dynamic=False)


def _native(step: UnitStep, text: Unit, how: How, weights: Weights) -> Unit:
    """Compile a unit for this CPU; one without an op to run is left to torch."""
    body = step.body
    if all(not op.operands for op in body.ops) or not body.returns:
        return text
    body, tables = weights.fill(body)
    fn = PassManager(pipeline(how.pipeline), ()).run(body)
    plan = schedule(fn, ConstPool(rest=weights.rest), Options(how.threads, how.precision))
    steps = tuple(_owning(s) if isinstance(s, TorchStep) else s for s in plan.steps)
    plan = replace(plan, steps=steps, units=())  # nobody asks a rank for a report
    return _Native(load(plan, emit(plan)), tables)


def _owning(step: TorchStep) -> TorchStep:
    """Return the step with constants of its own: those of a file may have gaps, and pages go."""
    body = step.body
    ops = tuple(
        Op(Constant(_own(op.kind.const)), (), op.results, op.origin)
        if isinstance(op.kind, Constant)
        else op
        for op in body.ops
    )
    return replace(step, body=Function(body.name, body.params, ops, body.returns, body.dims))


def _own(const: Const) -> Const:
    tensor = meaning.tensor_of(const)
    return meaning.const_of(tensor.clone(memory_format=torch.contiguous_format))


class _Native:
    """A unit in CPU kernels; weights are packed inside, ``w`` is not read.

    Args:
        program: its kernels.
        tables: operands behind those of a call.
    """

    def __init__(self, program: Executable, tables: tuple[Tensor, ...]) -> None:
        self.program = program
        self.tables = tables
        self.addresses = [t.data_ptr() for t in tables]
        outputs = program.schedule.outputs
        self.results = tuple((tuple(v.shape), meaning.TORCH_DTYPES[v.dtype]) for v in outputs)

    def __call__(self, w: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
        held = [t if t.is_contiguous() else t.contiguous() for t in inputs]
        results = tuple([torch.empty(shape, dtype=dtype) for shape, dtype in self.results])
        operands = [*[t.data_ptr() for t in held], *self.addresses]
        self.program(*operands, *[t.data_ptr() for t in results])
        return results


ENGINES: Mapping[str, Callable[[UnitStep, Unit, How, Weights], Unit]] = MappingProxyType(
    {"native": _native, "torch": _torch, "inductor": _inductor}
)
