"""torch_spmd > units: what runs a unit: its torch text, CPU kernels, or inductor's code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor

from leptonc import meaning
from leptonc.backends.numba_cpu.kernels.pack import Fetch
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
Place: TypeAlias = "Callable[[Function], tuple[Function, tuple[Tensor, ...]]]"


@dataclass(frozen=True)
class Weights:
    """How a unit gets at its constants.

    Attributes:
        place: tells a function where its own lie; gives it and operands that it has besides.
        fetch: reads what lies in a file, piece by piece.
    """

    place: Place
    fetch: Fetch


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
    """Return what runs ``step``, its kernels loaded; its weights are read by ``filling``.

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


def filling(unit: Unit) -> Callable[[], None] | None:
    """Return what reads the weights that a unit packs; None for one that reads ``w``."""
    return unit.fill if isinstance(unit, _Native) else None


def _torch(step: UnitStep, text: Unit, how: How, weights: Weights) -> Unit:
    return text


def _inductor(step: UnitStep, text: Unit, how: How, weights: Weights) -> Unit:
    return torch.compile(text, dynamic=False)


def _native(step: UnitStep, text: Unit, how: How, weights: Weights) -> Unit:
    """Compile a unit for this CPU; one without an op to run is left to torch."""
    body = step.body
    if all(not op.operands for op in body.ops) or not body.returns:
        return text
    body, tables = weights.place(body)
    fn = PassManager(pipeline(how.pipeline), ()).run(body)
    pool = ConstPool(fetch=weights.fetch, put_off=True)
    plan = schedule(fn, pool, Options(how.threads, how.precision))
    owned = list[_Owned]()
    steps = tuple(_owning(s, owned) if isinstance(s, TorchStep) else s for s in plan.steps)
    return _Native(load(replace(plan, steps=steps)), tables, pool, owned)


def _owning(step: TorchStep, owned: list[_Owned]) -> TorchStep:
    """Return the step with constants of its own: those of a file may have gaps, and pages go.

    They are read when those in ``owned``, to which they are added, are called.
    """
    body, ops = step.body, list[Op]()
    for op in body.ops:
        if isinstance(op.kind, Constant):
            const = op.kind.const
            owned.append(_Owned(const))
            own = Const(const.type, meaning.Later(owned[-1]), const.hasher)
            op = Op(Constant(own), (), op.results, op.origin)
        ops.append(op)
    return replace(step, body=Function(body.name, body.params, tuple(ops), body.returns, body.dims))


class _Owned:
    """The elements of a constant, copied when they are asked for first."""

    def __init__(self, const: Const) -> None:
        self._held: Const | Tensor = const

    def __call__(self) -> Tensor:
        if isinstance(self._held, Const):
            tensor = meaning.tensor_of(self._held)
            self._held = tensor.clone(memory_format=torch.contiguous_format)
        return self._held


class _Native:
    """A unit in CPU kernels; weights are packed inside, ``w`` is not read.

    Args:
        made: its kernels.
        tables: operands behind those of a call.
        pool: knows how to pack its weights, and forgets it when that is done.
        owned: weights of what runs through torch.
    """

    def __init__(
        self,
        made: Executable,
        tables: tuple[Tensor, ...],
        pool: ConstPool,
        owned: Sequence[_Owned],
    ) -> None:
        # Of the schedule a call needs little, and nobody asks a rank for a report.
        through_torch = tuple(s for s in made.schedule.steps if isinstance(s, TorchStep))
        slim = replace(made.schedule, steps=through_torch, units=(), consts=(), offsets={})
        self.program = replace(made, schedule=slim)
        self.tables = tables
        self.addresses = [t.data_ptr() for t in tables]
        self.results = tuple((tuple(v.shape), meaning.TORCH_DTYPES[v.dtype]) for v in slim.outputs)
        self._pool, self._owned = pool, owned

    def fill(self) -> None:
        """Read the weights and pack them, one after the other."""
        for index, array in self._pool.made():
            self.program.program.provide(str(index), array)
        for read in self._owned:
            read()
        self._pool, self._owned = ConstPool(), ()

    def __call__(self, w: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
        held = [t if t.is_contiguous() else t.contiguous() for t in inputs]
        results = tuple([torch.empty(shape, dtype=dtype) for shape, dtype in self.results])
        operands = [*[t.data_ptr() for t in held], *self.addresses]
        self.program(*operands, *[t.data_ptr() for t in results])
        return results


ENGINES: Mapping[str, Callable[[UnitStep, Unit, How, Weights], Unit]] = MappingProxyType(
    {"native": _native, "torch": _torch, "inductor": _inductor}
)
