"""A compiled program as rows of figures: what the text report and the HTML page both show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from leptonc.backends.numba_cpu.schedule import Schedule, TorchStep, UnitInfo
from leptonc.backends.numba_cpu.views import Buffer
from leptonc.capture import CaptureRemark
from leptonc.cost.flops import function_cost, known, op_cost
from leptonc.errors import LeptoncError
from leptonc.ir.core import Origin
from leptonc.pipeline import Step
from leptonc.rewrite.trace import Remark
from leptonc.show import choices


@dataclass(frozen=True)
class UnitRow:
    """One unit: where it comes from (module path, source line), how it runs, what it costs.

    ``flops`` are floating-point operations, ``bytes`` what it must read and write at least,
    ``kernels`` the native kernels of its steps with how often each is called.
    """

    index: int
    name: str
    pattern: str
    where: str
    source: str
    native_ops: int
    torch_ops: int
    reason: str
    flops: int
    bytes: int
    steps: int
    kernels: Mapping[str, int]

    @property
    def runs(self) -> str:
        """Return ``native``, ``torch``, ``both``, or ``nothing`` for a unit without steps."""
        ways = {(True, False): "native", (False, True): "torch", (True, True): "both"}
        return ways.get((self.native_ops > 0, self.torch_ops > 0), "nothing")


@dataclass(frozen=True)
class Work:
    """How much of a program runs natively: operations of arithmetic, and ops of the IR."""

    flops: int
    flops_torch: int
    ops: int
    ops_torch: int

    @property
    def flops_native_share(self) -> float:
        """The native part of the arithmetic, 0 to 1; 1 for a program without any."""
        return 1.0 - self.flops_torch / self.flops if self.flops else 1.0

    @property
    def ops_native_share(self) -> float:
        """The native part of the ops, 0 to 1; 1 for a program without any."""
        return 1.0 - self.ops_torch / self.ops if self.ops else 1.0


@dataclass(frozen=True)
class RemarkRow:
    """One thing that capture, a pass, the choice of an algorithm or the self-check said.

    ``by`` is the pass, with its rule behind a slash; ``says`` is ``missed``, ``applied``, ``note``
    or, of an op that only torch knows, ``opaque``; ``what`` names an op or a unit, ``module`` and
    ``source`` where it stands in the user's model; ``count`` is how often it was said.
    """

    by: str
    says: str
    what: str
    why: str
    module: str = ""
    source: str = ""
    count: int = 1

    @property
    def where(self) -> str:
        """Return ``module (file.py:line)``, as far as they are known."""
        return str(Origin(self.module, self.source))


@dataclass(frozen=True)
class Life:
    """When a buffer of the arena is in use (first and last step) and where it lies, in bytes."""

    first: int
    last: int
    offset: int
    nbytes: int
    note: str


def units(plan: Schedule) -> list[UnitRow]:
    """Return a row for each unit of a schedule, in order."""
    kernels: list[Counter[str]] = [Counter() for _ in plan.units]
    steps = [0] * len(plan.units)
    for step in plan.steps:
        if step.unit >= len(plan.units):
            continue  # copies of results that belong to no unit
        steps[step.unit] += 1
        if not isinstance(step, TorchStep):
            kernels[step.unit][step.kernel.name] += 1
    return [_row(i, u, steps[i], kernels[i]) for i, u in enumerate(plan.units)]


def _row(index: int, unit: UnitInfo, steps: int, kernels: Mapping[str, int]) -> UnitRow:
    cost = op_cost(unit.op)
    return UnitRow(
        index=index,
        name=unit.name,
        pattern=unit.pattern,
        where=unit.op.origin.module,
        source=unit.op.origin.source,
        native_ops=unit.native_ops,
        torch_ops=unit.torch_ops,
        reason=unit.reason,
        flops=known(cost.flops),
        bytes=known(cost.bytes),
        steps=steps,
        kernels=dict(kernels),
    )


def work(plan: Schedule) -> Work:
    """Return how much of a schedule runs natively."""
    parked = [step for step in plan.steps if isinstance(step, TorchStep)]
    return Work(
        flops=sum(known(op_cost(u.op).flops) for u in plan.units),
        flops_torch=sum(known(function_cost(step.body).flops) for step in parked),
        ops=sum(u.native_ops + u.torch_ops for u in plan.units),
        ops_torch=sum(u.torch_ops for u in plan.units),
    )


def refusals(rows: Sequence[UnitRow]) -> list[tuple[str, list[str]]]:
    """Return each reason for running through torch with the names of its units, commonest first."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.torch_ops:
            found.setdefault(row.reason or "no reason given", []).append(row.name)
    return sorted(found.items(), key=lambda item: -len(item[1]))


def lives(plan: Schedule) -> list[Life]:
    """Return when and where each arena buffer lives, in order of first use."""
    first: dict[Buffer, int] = {}
    last: dict[Buffer, int] = {}
    for i, step in enumerate(plan.steps):
        for buffer in (*step.reads, *step.writes):
            if buffer in plan.offsets:
                first.setdefault(buffer, i)
                last[buffer] = i
    return [Life(first[b], last[b], plan.offsets[b], b.nbytes, b.note) for b in first]


def remarks(net: Any) -> list[RemarkRow]:
    """Return the remarks of every specialization; equal ones once, in the order they came.

    Behind them stands how the program that ran last computes its units, and why.
    """
    found: dict[RemarkRow, int] = {}
    for spec in net.specializations:
        for r in _said(spec):
            row = _pass_remark(r) if isinstance(r, Remark) else _capture_remark(r)
            found[row] = found.get(row, 0) + 1
    rows = [replace(row, count=n) for row, n in found.items()]
    return [*rows, *map(_unit_remark, choices.remarks(net.schedule))]


def stages(net: Any) -> tuple[Sequence[Step], str]:
    """Return the passes that ran, and "" or why they are not known: the model is gone, say."""
    try:
        return net.stages, ""
    except LeptoncError as why:
        return (), str(why)


def _said(spec: Any) -> Sequence[Remark | CaptureRemark]:
    """Return the remarks of a specialization; one from the compile cache replays its passes."""
    if spec.remarks:
        return spec.remarks
    with suppress(LeptoncError):  # the model is gone, and with it what is to be replayed
        return [*spec.captured.remarks, *(r for step in spec.stages() for r in step.remarks)]
    return spec.captured.remarks


def _pass_remark(r: Remark) -> RemarkRow:
    by = f"{r.pass_}/{r.rule}" if r.rule else r.pass_
    return RemarkRow(by, r.kind.value, r.what, r.reason, r.origin.module, r.origin.source)


def _capture_remark(r: CaptureRemark) -> RemarkRow:
    return RemarkRow("capture", "opaque", r.op, r.reason, r.origin.module, r.origin.source)


def _unit_remark(said: choices.Said) -> RemarkRow:
    origin = said.unit.op.origin
    return RemarkRow(said.by, said.says, said.unit.name, said.why, origin.module, origin.source)
