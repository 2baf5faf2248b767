"""torch_spmd > emit: the readable torch program of one rank.

::

    def unit_0(w, x):
        y = F.linear(x, w.up_weight, w.up_bias)
        return F.relu(y)

    def forward(w, unit, comm, x):
        h = unit.unit_0(w, x)
        y = comm.all_reduce(h, "sum")
        return (y,)

``w`` holds the rank's part of each weight, ``unit`` what runs each unit (these very functions, or
what was compiled for them), ``comm`` joins the ranks, ``op`` calls kinds without a text of their
own.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

from leptonc.backends.torch_spmd.schedule import MeetStep, Schedule, UnitStep
from leptonc.backends.torch_spmd.vocabulary import text_of
from leptonc.ir.constants import Const
from leptonc.ir.core import NOWHERE, Kind, Op, Value
from leptonc.ir.kinds.data import Constant
from leptonc.ir.text import kind_text, value_names

_TAKEN = frozenset({"w", "unit", "comm", "op", "device", "torch", "F", *keyword.kwlist})


@dataclass(frozen=True)
class Source:
    """An emitted program.

    Attributes:
        text: the module.
        weights: what ``w.NAME`` is.
        reads: for each unit the names of its weights.
        ops: what ``op[i]`` calls.
    """

    text: str
    weights: dict[str, Const]
    reads: dict[str, list[str]]
    ops: tuple[Kind, ...]


def emit(plan: Schedule) -> Source:
    """Return the program of ``plan``, whose sizes are all numbers."""
    writer = _Writer(plan)
    text = "\n".join(writer.lines()) + "\n"
    return Source(text, writer.weights, writer.reads, tuple(writer.ops))


class _Writer:
    """Names values and weights, and collects what the text refers to."""

    def __init__(self, plan: Schedule) -> None:
        self.plan = plan
        self.weights: dict[str, Const] = {}
        self.reads: dict[str, list[str]] = {}
        self.known: dict[int, str] = {}  # by identity: to compare bytes would read them
        self.ops: list[Kind] = []
        self.names = {v: _identifier(n) for v, n in value_names(plan.function).items()}

    def lines(self) -> Iterator[str]:
        plan = self.plan
        yield f'"""{plan.name}: rank {plan.rank} of {plan.world}."""'
        yield ""
        yield "import torch"
        yield "import torch.nn.functional as F"
        for step in plan.units:
            yield ""
            yield ""
            yield from self._unit(step)
        yield ""
        yield ""
        params = [self.names[p] for p in plan.function.params]
        yield f"def forward({', '.join(['w', 'unit', 'comm', *params])}):"
        for step, last in zip(plan.steps, plan.last, strict=True):
            yield from self._step(step)
            gone = [self.names[v] for v in last]
            if gone:
                yield f"    del {', '.join(gone)}"
        yield f"    return {_tuple([self.names[v] for v in plan.function.returns])}"

    def _step(self, step: UnitStep | MeetStep) -> Iterator[str]:
        ins = [self.names[v] for v in step.inputs]
        outs = ", ".join(self.names[v] for v in step.outputs)
        if isinstance(step, MeetStep):
            yield f"    {outs} = {text_of(step.op.kind, ins)}{_where(step.op)}"
        else:
            comma = "," if len(step.outputs) == 1 else ""
            yield f"    {outs}{comma} = unit.{step.name}({', '.join(['w', *ins])})"

    def _unit(self, step: UnitStep) -> Iterator[str]:
        names = self.names
        ins = [names[v] for v in step.inputs]
        yield f"def {step.name}({', '.join(['w', *ins])}):"
        held = dict[Value, str]()
        reads = self.reads[step.name] = list[str]()
        left = dict(step.body.use_count)
        for op in step.body.ops:
            if isinstance(op.kind, Constant):
                reads.append(self._weight(op))
                held[op.result] = f"w.{reads[-1]}"
                continue
            operands = [held.get(v, names[v]) for v in op.operands]
            yield f"    {', '.join(names[r] for r in op.results)} = {self._call(op, operands)}"
            gone = []
            for v in dict.fromkeys(op.operands):
                left[v] -= op.operands.count(v)
                if not left[v] and v not in held:
                    gone.append(names[v])
            if gone:
                yield f"    del {', '.join(gone)}"
        yield f"    return {_tuple([held.get(v, names[v]) for v in step.outputs])}"

    def _call(self, op: Op, operands: Sequence[str]) -> str:
        text = text_of(op.kind, operands, [v.type for v in op.operands])
        if text is None:
            self.ops.append(op.kind)
            one = "[0]" if len(op.results) == 1 else ""
            text = f"op[{len(self.ops) - 1}]({', '.join(operands)}){one}"
            return f"{text}  # {kind_text(op.kind)}{_where(op, '; ')}"
        return f"{text}{_where(op)}"

    def _weight(self, op: Op) -> str:
        assert isinstance(op.kind, Constant)
        name = self.known.get(id(op.kind.const))
        if name is None:
            name = _free(_identifier(op.result.hint or "c"), self.weights)
            self.known[id(op.kind.const)] = name
            self.weights[name] = op.kind.const
        return name


def _where(op: Op, before: str = "  # ") -> str:
    return "" if op.origin == NOWHERE else before + " ".join(str(op.origin).split())


def _tuple(names: Sequence[str]) -> str:
    return f"({', '.join(names)}{',' if len(names) == 1 else ''})"


def _identifier(name: str) -> str:
    """Return ``name`` as a Python name that stands for nothing else in the text."""
    plain = re.sub(r"\W", "_", name.lstrip("%"))
    if not plain or plain[0].isdigit():
        plain = f"v{plain}"
    return f"{plain}_" if plain in _TAKEN else plain


def _free(name: str, taken: Container[str]) -> str:
    """Return ``name``, with a number behind it if it is taken."""
    made, i = name, 1
    while made in taken:
        made, i = f"{name}_{i}", i + 1
    return made
