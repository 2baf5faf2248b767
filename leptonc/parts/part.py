"""parts > part: one part of a split model, a compiled module of its own; the row of all parts."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from leptonc import api
from leptonc.compiled import CompiledModel
from leptonc.ir.core import Function
from leptonc.parts import saved, table
from leptonc.parts.module import PieceModule
from leptonc.parts.naming import arranged
from leptonc.parts.plan import PartCost, Plan


class Part:
    """One part of a model: call it with its inputs, by name or in order.

    It is compiled at its first call, or by :meth:`compile`, as any model is.

    Attributes:
        index: its place among the parts.
        plan: what all parts of the split share.
        target: where it runs.
    """

    def __init__(
        self,
        plan: Plan,
        index: int,
        module: PieceModule | None = None,
        target: str = "cpu",
        net: Any = None,
    ) -> None:
        self.plan, self.index, self.target = plan, index, target
        self._piece = plan.carved.pieces[index]
        self._module = module or PieceModule(self._piece, plan.captured)
        self._net = net
        self._lock = threading.Lock()

    # -- what it is -------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The model's name with the part's place: ``ResNet[2]``."""
        return f"{self.plan.name}[{self.index}]"

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors it takes, in order."""
        return self._piece.inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the tensors it gives, in order: what it computes, then weights it hands on."""
        return self._piece.outputs

    @property
    def ir(self) -> Function:
        """Its program as it was cut, before the passes of its own compile."""
        return self._module.function

    @property
    def cost(self) -> PartCost:
        """What it is estimated to cost."""
        return self.plan.costs[self.index]

    @property
    def weights_bytes(self) -> int:
        """Bytes of its constants."""
        return self._module.weights_bytes

    @property
    def module(self) -> PieceModule:
        """The part as a module that computes with torch, op by op."""
        return self._module

    # -- running ----------------------------------------------------------------------------------

    def __call__(self, *args: Tensor, **named: Tensor) -> dict[str, Tensor]:
        """Return its outputs by name.

        Raises:
            InputError: an input that is missing, unknown, or does not fit.
        """
        tensors = self.arranged(args, named)
        made = self.compile()(*tensors)
        return {**dict(zip(self._piece.computed, made, strict=True)), **self._module.held}

    def arranged(self, args: Sequence[Tensor], named: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the inputs in order. Raises InputError naming what is missing or unknown."""
        return arranged(self.name, self.inputs, args, named)

    def compile(self, **options: Any) -> Any:
        """Return the part compiled; again only if ``options`` of ``leptonc.compile`` are given.

        Raises:
            LeptoncError: as ``leptonc.compile`` does.
        """
        net = self._net
        if net is not None and not options:
            return net
        with self._lock:
            if self._net is None or options:
                asked = {**dataclasses.asdict(self.plan.options), "target": self.target, **options}
                net = api.compile(self._module, self.plan.examples.of(self.index), **asked)
                if isinstance(net, CompiledModel):
                    net.name = self.name
                self._net = net
            return self._net

    @property
    def net(self) -> Any:
        """The compiled part, None before it is compiled."""
        return self._net

    def to(self, target: str) -> Part:
        """Return this part for ``target``, a target of ``leptonc.compile``.

        ``"cpu"`` is compiled at its first call, any other at once.

        Raises:
            TargetError: there is no such target here.
        """
        made = Part(self.plan, self.index, self._module, target)
        if target != "cpu":
            made.compile()
        return made

    def with_threads(self, threads: int) -> Part:
        """Return this part, not compiled yet, for at most ``threads`` threads."""
        plan = dataclasses.replace(
            self.plan, options=dataclasses.replace(self.plan.options, threads=threads)
        )
        return Part(plan, self.index, self._module, self.target)

    def save(self, directory: str | Path) -> None:
        """Write the compiled part and its names to ``directory``; :meth:`load` reads it.

        Raises:
            ArtifactError: something else is there, or the net cannot be saved.
        """
        saved.save_part(self, Path(directory))

    @staticmethod
    def load(directory: str | Path) -> saved.LoadedPart:
        """Return the part that ``save(directory)`` wrote. Raises ArtifactError."""
        return saved.load_part(directory)

    # -- looking ----------------------------------------------------------------------------------

    def report(self, **options: Any) -> str:
        """Return the report of the compiled part; see ``CompiledModel.report``."""
        return self.compile().report(**options)

    def profile(self, *args: Tensor, **named: Tensor) -> Any:
        """Return where the time goes on these inputs; see ``CompiledModel.profile``."""
        return self.compile().profile(*self.arranged(args, named))

    def __repr__(self) -> str:
        """Return a one-line summary."""
        return table.line(self)

    def _repr_html_(self) -> str:
        """Return a table of one row, for notebooks."""
        return table.html([self])


class Parts(tuple[Part, ...]):
    """All parts of a model in order; prints as a table."""

    __slots__ = ()

    def __new__(cls, parts: Iterable[Part]) -> Parts:
        """Return the row of ``parts``."""
        return super().__new__(cls, parts)

    def __repr__(self) -> str:
        """Return the table as text."""
        return table.text(self)

    def _repr_html_(self) -> str:
        """Return the table for notebooks."""
        return table.html(self)
