"""The self-check, in place: which unit goes wrong where it stands in the schedule, and why.

Asked when the program is wrong though every pass and every unit on its own is right. The program
runs once more, watched: what a unit finds in memory is held to what was written there for it, what
it leaves there to what its body means for what it found; a unit that runs in parts of the batch,
part by part, and all parts together to what the whole unit means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from leptonc import check, meaning
from leptonc.backends.numba_cpu.schedule import Run, Schedule
from leptonc.backends.numba_cpu.views import View
from leptonc.backends.numba_cpu.watch import Look, watchable, watched
from leptonc.check import furthest, isolate
from leptonc.ir.core import NOWHERE, Function, Op, Value
from leptonc.ir.kinds.region import Unit
from leptonc.specialization import output_types, run_marked


class At(NamedTuple):
    """One run of a unit: its index and the part of the batch."""

    unit: int
    part: int


@dataclass
class _Made:
    """A value as it was written, in ``parts`` pieces of the batch, by unit ``maker``.

    ``last`` is the position of the run that wrote the last piece so far. What the caller handed
    over has no maker and stands before every run.
    """

    name: str
    parts: int = 1
    last: int = -1
    pieces: list[Tensor] = field(default_factory=list[Tensor])

    def part(self, index: int, parts: int) -> Tensor:
        """Return one of ``parts`` parts, of which the later ones may not be made yet."""
        if parts == self.parts:
            return self.pieces[index]
        whole = torch.cat(self.pieces) if self.parts > 1 else self.pieces[0]
        return whole.chunk(parts)[index]


class InPlace:
    """A program watched on ``inputs``: what every run found in memory and what it left there."""

    def __init__(
        self, plan: Schedule, fn: Function, inputs: Sequence[Tensor], precision: str
    ) -> None:
        """Run the watchable ``plan`` of the static ``fn`` once."""
        self.plan, self.inputs, self.precision = plan, inputs, precision
        self.order = _order(plan)
        self.found: dict[At, list[Tensor]] = {}
        self.left: dict[At, list[Tensor]] = {}
        looks = [look for at in self.order for look in self._around(at)]
        self.outputs = self._run(looks)
        own = [op for op in fn.ops if isinstance(op.kind, Unit)]
        # The plan was made from another specialization: its values are told by where they stand.
        self.same: dict[Value, Value] = {}
        for op, unit in zip(own, plan.units, strict=True):
            self.same.update(zip(op.operands, unit.op.operands, strict=True))
            self.same.update(zip(op.results, unit.op.results, strict=True))
        self.made = {
            self.same.get(v, v): _Made("the caller", pieces=[t])
            for v, t in zip(fn.params, inputs, strict=True)
        }
        self.returns = [self.same.get(v, v) for v in fn.returns]

    def first_wrong(self) -> tuple[int | None, str]:
        """Return the first unit that goes wrong, None if none does, and what is wrong."""
        for position, at in enumerate(self.order):
            why = self._misplaced(position, at) or self._miscomputed(at)
            if why:
                return at.unit, why
            self._note(position, at)
            if at.part and at.part + 1 == self.plan.units[at.unit].parts:
                why = self._badly_cut(at.unit)
                if why:
                    return at.unit, why
        return self._wrong_output()

    def _around(self, at: At) -> tuple[Look, Look]:
        run = self._of(at)
        return (
            Look(run.start, run.operands, partial(self.found.__setitem__, at)),
            Look(run.stop, run.results, partial(self.left.__setitem__, at)),
        )

    def _of(self, at: At) -> Run:
        return self.plan.units[at.unit].runs[at.part]

    def _run(self, looks: Sequence[Look]) -> list[Tensor]:
        program = watched(self.plan, looks)
        return run_marked(program, self.inputs, output_types(program))

    def _note(self, position: int, at: At) -> None:
        """Remember what a run wrote."""
        unit = self.plan.units[at.unit]
        for v, t in zip(unit.op.results, self.left[at], strict=True):
            made = self.made.setdefault(v, _Made(unit.name, unit.parts))
            made.pieces.append(t)
            made.last = position

    def _misplaced(self, position: int, at: At) -> str:
        """Return which operand is not what was written for it, "" if every one is."""
        unit, run = self.plan.units[at.unit], self._of(at)
        operands = zip(unit.op.operands, run.op.operands, run.operands, strict=True)
        for (whole, mine, view), found in zip(operands, self.found[at], strict=True):
            if (made := self.made.get(whole)) is None:
                continue  # a constant
            cut = (at.part, unit.parts) if mine is not whole else (0, 1)
            want = made.part(*cut)
            if not _same_bits(want, found):
                why = self._culprit(made.last, position, view, want)
                return f"{self._name(at)} does not find what {made.name} wrote for it: {why}"
        return ""

    def _culprit(self, last: int, position: int, view: View, want: Tensor) -> str:
        """Return who spoils what the run at ``last`` wrote and the one at ``position`` reads.

        The program runs once more, and the place is looked at before every run between them.
        """
        seen: dict[int, Tensor] = {}
        between = range(last + 1, position + 1)

        def see(i: int, tensors: list[Tensor]) -> None:
            seen[i] = tensors[0]

        self._run([Look(self._of(self.order[i]).start, (view,), partial(see, i)) for i in between])
        for i in between:
            if not _same_bits(seen[i], want):
                if i == last + 1:
                    return "it reads another place than it was written to"
                return f"{self._name(self.order[i - 1])} overwrites it"
        return "it is overwritten"

    def _miscomputed(self, at: At) -> str:
        """Return how far a run is from what its op means for what it found, "" if it is near."""
        run = self._of(at)
        bad = self._off(run.op, self.found[at], self.left[at])
        where = "right on its own, it misses the reference where it stands"
        return f"{self._name(at)} is wrong: {where} ({bad})" if bad else ""

    def _badly_cut(self, index: int) -> str:
        """Return how far the parts of a unit together are from the whole, "" if they are near."""
        unit = self.plan.units[index]
        parts = [At(index, part) for part in range(unit.parts)]
        columns = zip(*(self.found[at] for at in parts), strict=True)
        rows = zip(unit.op.operands, unit.runs[0].op.operands, columns, strict=True)
        operands = [torch.cat(c) if mine is not whole else c[0] for whole, mine, c in rows]
        results = [torch.cat(c) for c in zip(*(self.left[at] for at in parts), strict=True)]
        bad = self._off(unit.op, operands, results)
        why = f"cannot run in {unit.parts} parts of the batch: together they are not the whole"
        return f"{self._name(At(index, 0), False)} {why} ({bad})" if bad else ""

    def _off(self, op: Op, operands: Sequence[Tensor], results: Sequence[Tensor]) -> str:
        """Return how far results are from what ``op`` means for ``operands``, "" if near."""
        fn = isolate(op)
        reads = dict(zip(op.operands, operands, strict=True))
        ref = check.reference(fn, tuple(reads.values()), self.precision)
        return str(furthest(check.differences(ref, fn, results)) or "")

    def _wrong_output(self) -> tuple[int | None, str]:
        """Return which output is not what was computed for it, if one is not."""
        for i, (v, got) in enumerate(zip(self.returns, self.outputs, strict=True)):
            made = self.made.get(v)
            if made is not None and not _same_bits(made.part(0, 1), got):
                unit = self.order[made.last].unit if made.last >= 0 else None
                return unit, f"output {i} is not what {made.name} wrote"
        return None, (
            "every unit is right when all wait for each other: a barrier is missing, "
            "or the emitted program is not the schedule"
        )

    def _name(self, at: At, with_part: bool = True) -> str:
        """Return a unit's name, its line in the model and which part of the batch it ran for."""
        unit = self.plan.units[at.unit]
        origin = f" at {unit.op.origin}" if unit.op.origin != NOWHERE else ""
        cut = f", part {at.part + 1} of {unit.parts}," if with_part and unit.parts > 1 else ""
        return f"unit {unit.name}{origin}{cut}"


def search(
    plan: Schedule, fn: Function, inputs: Sequence[Tensor], precision: str
) -> tuple[int | None, str]:
    """Return the first unit of the static ``fn`` that goes wrong as ``plan`` has it, and how."""
    if not watchable(plan):
        return None, "no single pass and no unit alone explains it: the schedule must be wrong"
    return InPlace(plan, fn, inputs, precision).first_wrong()


def _order(plan: Schedule) -> list[At]:
    """Return every run of every unit in the order of their steps; some have none."""
    runs = [(r, At(u, p)) for u, unit in enumerate(plan.units) for p, r in enumerate(unit.runs)]
    runs.sort(key=lambda x: (x[0].start, x[0].stop, x[1].part, x[1].unit))
    return [at for _, at in runs]


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return meaning.raw_tensor(a).tobytes() == meaning.raw_tensor(b).tobytes()
