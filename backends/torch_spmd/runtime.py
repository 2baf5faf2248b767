"""torch_spmd > runtime: from the program of all ranks to what one rank runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor

from leptonc import meaning
from leptonc.backends.torch_spmd import legal
from leptonc.backends.torch_spmd.emit import Source, emit
from leptonc.backends.torch_spmd.graphs import Graphs
from leptonc.backends.torch_spmd.schedule import Schedule, schedule
from leptonc.backends.torch_spmd.tied import placed_apart, tied
from leptonc.backends.torch_spmd.units import How, Weights, build, filling
from leptonc.backends.torch_spmd.weights import Stored, parted, tensor_of
from leptonc.ir.core import Function, Kind
from leptonc.ir.specialize import specialize
from leptonc.runtime.garbage import swept
from leptonc.runtime.group.comm import Comm
from leptonc.shard.program import Spmd

Forward = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class Bound:
    """The program of a rank for one set of input sizes; ``waiting`` reads its weights."""

    forward: Forward
    weights: SimpleNamespace
    units: SimpleNamespace
    waiting: deque[Callable[[], None]]

    def fill(self) -> None:
        """Read what weights are not there yet, unit by unit."""
        while self.waiting:
            self.waiting[0]()
            self.waiting.popleft()

    def __call__(self, comm: Comm, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the results, which every rank has whole."""
        return self.forward(self.weights, self.units, comm, *tensors)


@dataclass
class RankProgram:
    """What one rank runs: call it with the whole inputs, get the whole results.

    Attributes:
        function: of this rank, with its own parts of the constants.
        stored: where these are.
        comm: joins the ranks.
        how: how units run.
        device: where tensors live.
        bindings: programs by the model's dynamic sizes.
        graphs: on CUDA, calls as graphs.
    """

    function: Function
    stored: Stored
    comm: Comm
    how: How
    device: torch.device
    bindings: dict[tuple[int, ...], Bound] = field(default_factory=dict[tuple[int, ...], Bound])
    graphs: Graphs | None = None

    def __post_init__(self) -> None:
        if self.device.type == "cuda":
            self.graphs = Graphs(self.run)

    def __call__(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Run once."""
        with torch.inference_mode():
            if self.graphs is None:
                return self.run(tensors)
            return self.graphs([t.to(self.device, non_blocking=True) for t in tensors])

    def run(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Run once, kernel by kernel, on tensors of the rank's device."""
        return self.bind([tuple(t.shape) for t in tensors])(self.comm, tensors)

    def fill(self) -> None:
        """Read the weights of the programs that stand."""
        with torch.inference_mode():
            for bound in self.bindings.values():
                bound.fill()

    def free(self) -> None:
        """Let go of what holds memory of a device, in order."""
        if self.graphs is not None:
            self.graphs.free()
        self.bindings.clear()

    def bind(self, shapes: Sequence[Sequence[int]]) -> Bound:
        """Return the program for inputs of these shapes, with its weights. Raises InputError."""
        bound = self.stand(shapes)
        bound.fill()
        return bound

    def stand(self, shapes: Sequence[Sequence[int]]) -> Bound:
        """Return the program for inputs of these shapes, its kernels loaded. Raises InputError.

        What depends on no weight comes first: a rank that cannot do that fails before it has read
        gigabytes, and what it takes for a moment does not lie on top of them.
        """
        if not self.function.dims:
            key: tuple[int, ...] = ()
        else:
            sizes = meaning.bind_dims(self.function, shapes)
            key = tuple(sizes[d.name] for d in self.function.dims)
        found = self.bindings.get(key)
        if found is None:
            sizes = meaning.bind_dims(self.function, shapes)
            found = self.bindings[key] = self._stand(specialize(self.function, sizes))
        return found

    def _stand(self, fn: Function) -> Bound:
        plan = schedule(fn, self.comm.rank, self.comm.world)
        source = emit(plan)
        names = _executed(source, plan, self.device)
        weights, units = SimpleNamespace(), SimpleNamespace()
        keys = tied(step.body for step in plan.units)
        how = Weights(partial(placed_apart, stored=self.stored, keys=keys), self.stored.fetch)
        waiting = deque[Callable[[], None]]()
        for step in plan.units:
            unit = build(step, names[step.name], self.how, how)
            setattr(units, step.name, unit)
            read = filling(unit) or partial(self._read, weights, source, step.name)
            waiting.append(partial(self._rested, read))
            self._rested()
        return Bound(names["forward"], weights, units, waiting)

    def _rested(self, work: Callable[[], None] | None = None) -> None:
        """Do ``work`` and give back what it took: that would lie beside all that comes after."""
        if work is not None:
            work()
        self.stored.rest()
        swept()

    def _read(self, weights: SimpleNamespace, source: Source, unit: str) -> None:
        """Read the weights of a unit that runs as torch, once."""
        for name in source.reads[unit]:
            if not hasattr(weights, name):
                tensor = tensor_of(source.weights[name], self.stored.read)
                setattr(weights, name, tensor.to(self.device))


def _executed(source: Source, plan: Schedule, device: torch.device) -> dict[str, Any]:
    """Return the functions of an emitted program."""
    names: dict[str, Any] = {
        "torch": torch,
        "F": functional,
        "device": device,
        "op": tuple(map(_caller, source.ops)),
    }
    where = f"<rank {plan.rank} of {plan.name}>"
    exec(compile(source.text, where, "exec"), names)  # our own text, built of our own names
    return names


def _caller(kind: Kind) -> Callable[..., tuple[Tensor, ...]]:
    return lambda *operands: meaning.apply(kind, *operands)


def rank_program(
    program: Spmd, rank: int, comm: Comm, stored: Stored, how: How, device: str = "cpu"
) -> RankProgram:
    """Return what ``rank`` runs of a sharded program.

    Args:
        program: of all ranks.
        rank: this one.
        comm: joins it to the others.
        stored: where the constants are.
        how: how units run.
        device: of this rank.

    Raises:
        ClaimError: an op that would differ from rank to rank.
    """
    legal.check(program.function)
    return RankProgram(parted(program.local(rank)), stored, comm, how, torch.device(device))
