"""show > explorer > document: a compiled model as the JSON that the explorer's page draws.

Pure: reads a ``CompiledModel``, returns dictionaries. Ops are told apart by identity: passes hand
on the very ops that they leave alone, so an op that two stages share was not touched in between.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from leptonc.cost.flops import known, op_cost
from leptonc.errors import InputError
from leptonc.ir.core import Function, Op, Value
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.region import TorchOp, Unit
from leptonc.ir.text import kind_text, value_names
from leptonc.show import summary
from leptonc.show.explorer.listing import program_lines
from leptonc.show.explorer.sources import excerpts
from leptonc.show.profile import Profile
from leptonc.show.record import choice

VERSION = 1
Json = dict[str, Any]


@dataclass
class _Strings:
    """Strings by number: lines that many stages share are written once."""

    of: dict[str, int] = field(default_factory=dict[str, int])

    def __call__(self, text: str) -> int:
        return self.of.setdefault(text, len(self.of))


@dataclass
class _Ops:
    """Every distinct op, told apart by identity, in order of appearance."""

    strings: _Strings
    rows: list[Json] = field(default_factory=list[Json])
    of: dict[Op, int] = field(default_factory=dict[Op, int])

    def __call__(self, op: Op) -> int:
        if op not in self.of:
            self.of[op] = len(self.rows)
            self.rows.append(self._row(op))
        return self.of[op]

    def _row(self, op: Op) -> Json:
        row: Json = {
            "kind": op.kind.target if isinstance(op.kind, TorchOp) else op.kind.NAME,
            "module": self.strings(op.origin.module),
            "source": self.strings(op.origin.source),
        }
        if isinstance(op.kind, Unit):
            row["unit"] = op.kind.name
            row["pattern"] = op.kind.pattern
        elif isinstance(op.kind, Constant):
            row["constant"] = 1
        else:
            row["flops"] = known(op_cost(op).flops)
        return row


def document(net: Any, profile: Profile | None = None) -> Json:
    """Return everything that the explorer shows of ``net``; ``profile`` adds times.

    Raises:
        InputError: the model has not been compiled yet.
    """
    if not net.specializations:
        raise InputError(f"{net.name} is compiled at its first call; call it once first")
    strings = _Strings()
    ops = _Ops(strings)
    functions = _functions(net)
    stages = [_stage(name, fn, step, ops) for name, fn, step in functions]
    units = _units(net, profile)
    remarks = _remarks(net)
    return {
        "version": VERSION,
        "name": net.name,
        "threads": net.schedule.threads,
        "governor": str(net.stats.get("governor", "")),
        "total_us": profile.total_us if profile else None,
        "peak_gflops": profile.limits.gflops if profile else None,
        "peak_gbytes": profile.limits.gbytes if profile else None,
        "ops": ops.rows,
        "stages": stages,
        "units": units,
        "remarks": remarks,
        "code": net.source.split("\n"),
        "arena": _arena(net.schedule),
        "sources": excerpts(net.specializations[0].captured.files, _lines_used(ops, strings)),
        "strings": list(strings.of),
    }


def _functions(net: Any) -> list[tuple[str, Function, Any]]:
    """Return the captured program and what each pass made of it: name, function, step."""
    steps, why = summary.stages(net)
    if why:
        captured = net.specializations[0].captured.function
        return [("captured", captured, None), ("optimized", net.ir, None)]
    if not steps:
        return [("optimized", net.ir, None)]
    first = ("captured", steps[0].before, None)
    return [first, *((s.name, s.after, s) for s in steps)]


def _stage(name: str, fn: Function, step: Any, ops: _Ops) -> Json:
    found: Json = {"name": name}
    if step is not None:
        found |= {
            "ms": round(step.seconds * 1e3, 3),
            "fired": dict(step.fired),
            "remarks": len(step.remarks),
        }
        if not step.changed:
            return found | {"same": True}
    return found | {"rows": list(_rows(fn, ops)), "head": _head(fn)}


def _head(fn: Function) -> str:
    names = value_names(fn)
    params = ", ".join(f"{names[v]}: {v.type}" for v in fn.params)
    return f"({params}{''.join(f'; {d}' for d in fn.dims)})"


def _rows(fn: Function, ops: _Ops) -> Iterator[list[Any]]:
    """Yield [op, line, depth, operands' rows] for every op; those of a unit's body follow it."""
    made: dict[Value, int] = {}
    for at, (depth, names, op) in enumerate(_walk(fn)):
        line = _line(op, names)
        reads = [made[v] for v in op.operands if v in made]
        yield [ops(op), ops.strings(line), depth, reads]
        made.update(dict.fromkeys(op.results, at))
        if isinstance(op.kind, Unit):
            inner = op.kind.body.params
            made.update({p: made[v] for p, v in zip(inner, op.operands, strict=True) if v in made})


def _walk(fn: Function, depth: int = 0) -> Iterator[tuple[int, Mapping[Value, str], Op]]:
    names = value_names(fn)
    for op in fn.ops:
        yield depth, names, op
        if isinstance(op.kind, Unit):
            yield from _walk(op.kind.body, depth + 1)


def _line(op: Op, names: Mapping[Value, str]) -> str:
    """Return an op as its four columns, split by tabs: results, what it does, operands, types."""
    made = ", ".join(names[r] for r in op.results)
    reads = ", ".join(names[v] for v in op.operands)
    types = ", ".join(str(r.type) for r in op.results)
    return f"{made}\t{kind_text(op.kind)}\t{reads}\t{types}"


def _units(net: Any, profile: Profile | None) -> list[Json]:
    plan = net.schedule
    times = {u.index: u for u in profile.units} if profile else {}
    code = program_lines(net.source)
    retreat, errors = net.specializations[0].retreat, net.specializations[0].errors
    found: list[Json] = []
    for row, info in zip(summary.units(plan), plan.units, strict=True):
        t, e = times.get(row.index), errors.get(row.name)
        found.append({
            "name": row.name, "pattern": row.pattern, "module": row.where, "source": row.source,
            "runs": row.runs, "why": retreat.get(row.name) or row.reason,
            "flops": row.flops, "bytes": row.bytes, "steps": row.steps,
            "kernels": dict(row.kernels), "code": code.get(row.index, []),
            "us": t and round(t.us, 3), "share": t and t.share, "wait_us": t and t.wait_us,
            "gflops": t and t.gflops, "gbytes": t and t.gbytes,
            "error": e and _finite(e.error), "tolerance": e and _finite(e.tolerance),
            "choices": [choice(d) for d in info.decisions],
        })  # fmt: skip
    return found


def _finite(error: float) -> float:
    """Return ``error`` as JSON can hold it: the largest number for an infinite one."""
    return min(error, sys.float_info.max)


def _remarks(net: Any) -> list[Json]:
    return [
        {"by": r.by, "says": r.says, "what": r.what, "where": r.where, "why": r.why, "n": r.count}
        for r in summary.remarks(net)
    ]


def _arena(plan: Any) -> Json:
    lives = summary.lives(plan)
    return {
        "bytes": plan.arena_bytes,
        "bound": plan.lower_bound,
        "sum": plan.sum_bytes,
        "steps": [s.unit for s in plan.steps],
        "lives": [[b.first, b.last, b.offset, b.nbytes, b.note] for b in lives],
    }


def _lines_used(ops: _Ops, strings: _Strings) -> Sequence[str]:
    texts = list(strings.of)
    return sorted({texts[row["source"]] for row in ops.rows} - {""})
