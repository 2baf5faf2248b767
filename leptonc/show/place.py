"""show > place: everything about one place of a compiled model: a module, unit, value or op.

A place is followed through the compile by what survives it: passes hand on the names of values and
the origins of ops, so a batch norm that was folded away is found in the unit that makes its value.
"""

from __future__ import annotations

import difflib
import linecache
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leptonc.backends.numba_cpu.lower.choices import Decision
from leptonc.backends.numba_cpu.schedule import Schedule, UnitInfo
from leptonc.errors import InputError
from leptonc.ir.core import Function, Op, Value
from leptonc.ir.kinds.region import Unit
from leptonc.ir.text import kind_text, value_names
from leptonc.passes.fusing.units import SOURCES
from leptonc.rewrite.trace import kind_name
from leptonc.show import amounts, summary
from leptonc.show.choices import sentence, word
from leptonc.show.explain import core_rate, ways
from leptonc.show.remarks import grouped

_MANY = 12  # remarks told one by one; more are grouped
_FEW = 4  # units told in full, and lines of source and ops; of more, each is told in short
_NAME = re.compile(r"%([\w.\-]*\w)")
_NOTHING = "  no unit: nothing of it is computed when the model runs\n"


@dataclass(frozen=True)
class Place:
    """What a name stands for: ops as captured, the names of their values, modules, units."""

    what: str
    ops: tuple[Op, ...]
    values: frozenset[str]
    modules: frozenset[str]
    units: tuple[int, ...]


def explain_place(net: Any, name: str | int, rate: float | None = None) -> str:
    """Return what became of one place of a ``CompiledModel``, from source line to kernels.

    ``name`` is a module path (a unit, or all below it), the name of a unit, the name of a value
    (with or without ``%``) or the index of a unit; as text, a module goes before an index.
    ``rate`` are one core's cycles in a microsecond (default: measured).

    Raises:
        InputError: nothing has that name; the text lists similar ones.
    """
    place = find(net, name)
    rows = [r for r in summary.remarks(net) if _concerns(r, place, net.schedule)]
    lines = [f"{net.name}: {place.what}", *_sources(net, place.ops), *_captured(net, place)]
    lines += _remarks([r for r in rows if r.by not in ("choose", "schedule")])
    if not place.units:
        return "\n".join(lines) + "\n" + _NOTHING
    if len(place.units) > _FEW:
        lines += _units_in_short(net, place.units)
    else:
        rate = rate or core_rate()
        lines += [line for i in place.units for line in _unit(net, i, rate)]
    return "\n".join(lines) + "\n"


# ----- what a name stands for ---------------------------------------------------------------------


def find(net: Any, name: str | int) -> Place:
    """Return the place that ``name`` stands for. Raises InputError when there is none."""
    plan, text = net.schedule, str(name).strip().removeprefix("%")
    names = _names(net)
    ops = tuple(op for op in _ops(net) if _inside(op.origin.module, text))
    if ops and not isinstance(name, int):
        return _of_ops(plan, f"module {text}", ops, names, frozenset({text}))
    if text.isdigit():
        if int(text) >= len(plan.units):
            last = len(plan.units) - 1
            raise InputError(f"{net.name} has no unit {text}; its units are numbered 0 to {last}")
        return _of_units(net, f"unit {text}", (int(text),))
    if units := tuple(i for i, u in enumerate(plan.units) if u.name == text):
        return _of_units(net, f"unit {text}", units)
    if ops := tuple(op for op in _ops(net) if any(names[r] == text for r in op.results)):
        return _of_ops(plan, f"value %{text}", ops, names, frozenset())
    if units := tuple(i for i, u in enumerate(plan.units) if text in _hints(u)):
        return Place(f"value %{text}, which a pass made", (), frozenset({text}), frozenset(), units)
    raise InputError(_unknown(net, text, names))


def _names(net: Any) -> dict[Value, str]:
    """Return the names of the captured values as the IR's text prints them, without ``%``."""
    names = value_names(net.specializations[0].captured.function)
    return {v: n.removeprefix("%") for v, n in names.items()}


def _ops(net: Any) -> Iterator[Op]:
    """Yield the captured ops but constants."""
    fn: Function = net.specializations[0].captured.function
    return (op for op in fn.ops if not isinstance(op.kind, SOURCES))


def _inside(module: str, path: str) -> bool:
    return bool(path) and (module == path or module.startswith(f"{path}."))


def _of_ops(
    plan: Schedule,
    what: str,
    ops: tuple[Op, ...],
    names: Mapping[Value, str],
    modules: frozenset[str],
) -> Place:
    values = frozenset(n for op in ops for r in op.results for n in (names[r], r.hint) if n)
    made = tuple(i for i, u in enumerate(plan.units) if values & _hints(u))
    origins = {(op.kind.NAME, op.origin) for op in ops}
    same = (
        i for i, u in enumerate(plan.units)
        if any((op.kind.NAME, op.origin) in origins for op in _body(u))
    )  # fmt: skip
    found = {*made, *same} if modules else {*made} or {*same}
    return Place(what, ops, values, modules, tuple(sorted(found)))


def _of_units(net: Any, what: str, units: tuple[int, ...]) -> Place:
    plan: Schedule = net.schedule
    values = frozenset(h for i in units for h in _hints(plan.units[i]))
    origins = {(op.kind.NAME, op.origin) for i in units for op in _body(plan.units[i])}
    ops = tuple(
        op for op in _ops(net)
        if (op.kind.NAME, op.origin) in origins or any(r.hint in values for r in op.results)
    )  # fmt: skip
    hints = values | {r.hint for op in ops for r in op.results if r.hint}
    return Place(what, ops, hints, frozenset(), units)


def _body(unit: UnitInfo) -> Iterator[Op]:
    """Yield the ops of a unit but constants."""
    ops = unit.op.kind.body.ops if isinstance(unit.op.kind, Unit) else (unit.op,)
    return (op for op in ops if not isinstance(op.kind, SOURCES))


def _hints(unit: UnitInfo) -> frozenset[str]:
    """Return the names of the values that a unit computes."""
    return frozenset(r.hint for op in _body(unit) for r in op.results if r.hint)


def _unknown(net: Any, text: str, names: Mapping[Value, str]) -> str:
    modules = {op.origin.module for op in _ops(net)} - {""}
    paths = {m[: m.rfind(".", 0, i)] for m in modules for i in range(len(m) + 1) if "." in m[:i]}
    units = {u.name for u in net.schedule.units}
    known = sorted({*modules, *paths, *units, *(names[r] for op in _ops(net) for r in op.results)})
    close = difflib.get_close_matches(text, known, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else "explain() lists the units"
    return f"{net.name} has no module, unit or value named {text!r}; {hint}"


# ----- what happened there ------------------------------------------------------------------------


def _concerns(row: summary.RemarkRow, place: Place, plan: Schedule) -> bool:
    if row.module and any(_inside(row.module, m) for m in place.modules):
        return True
    if not place.values.isdisjoint(_NAME.findall(f"{row.what} {row.why}")):
        return True
    return any(row.what == plan.units[i].name for i in place.units)


def _sources(net: Any, ops: Sequence[Op]) -> Iterator[str]:
    files = net.specializations[0].captured.files
    sources = list(dict.fromkeys(op.origin.source for op in ops if op.origin.source))
    for source in sources[:_FEW]:
        path, line = files.get(source, ""), source.rpartition(":")[2]
        text = linecache.getline(path, int(line)).strip() if path and line.isdigit() else ""
        yield f"  source    {source}" + (f"  {text}" if text else "")
    if len(sources) > _FEW:
        yield f"  source    and {len(sources) - _FEW} lines more"


def _captured(net: Any, place: Place) -> Iterator[str]:
    names = _names(net)
    if len(place.ops) > _FEW:
        kinds = Counter(kind_name(op) for op in place.ops)
        found = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
        yield f"  captured  {len(place.ops)} ops: {found}"
        return
    for op in place.ops:
        made = ", ".join(f"%{names[r]}" for r in op.results)
        types = ", ".join(str(r.type) for r in op.results)
        reads = ", ".join(f"%{names[v]}" for v in op.operands)
        yield f"  captured  {made} = {kind_text(op.kind)}({reads}) : {types}"


def _remarks(rows: Sequence[summary.RemarkRow]) -> Iterator[str]:
    if not rows:
        yield "  passes    had nothing to do there, and refused nothing"
        return
    yield "  passes"
    if len(rows) > _MANY:
        yield from (f"    {line}" for line in grouped(rows))
        return
    width = max(len(r.by) for r in rows)
    for r in rows:
        yield f"    {r.by:<{width}}  {r.says:<7}  {r.what}: {r.why}"


# ----- the units it ended in ----------------------------------------------------------------------


def _units_in_short(net: Any, units: Sequence[int]) -> Iterator[str]:
    yield f"  {len(units)} units; explain one by its number or name"
    times = _times(net)
    for i in units:
        row = summary.units(net.schedule)[i]
        spent = f"  {times[i].us:.1f} us" if i in times else ""
        yield f"    {i:>4}  {row.name} [{', '.join(row.kernels) or row.runs}]{spent}"


def _unit(net: Any, index: int, rate: float) -> Iterator[str]:
    plan: Schedule = net.schedule
    row, info = summary.units(plan)[index], plan.units[index]
    yield f"  unit {index} of {len(plan.units)}: {row.name} [{row.pattern or 'op'}]"
    yield f"    ops       {', '.join(op.kind.NAME for op in _body(info))}"
    yield f"    runs      {_how(row)}"
    yield f"    work      {amounts.flops(row.flops)}, at least {amounts.nbytes(row.bytes)} moved"
    for d in info.decisions:
        yield from _decision(d, rate * plan.threads)
    yield f"    time      {_time(_times(net).get(index))}"
    yield f"    checked   {_check(net, row.name)}"


def _decision(d: Decision, rate: float) -> Iterator[str]:
    if len(d.question.costs) == 1:
        yield f"    ways      {word(d.answer.chosen)} alone: {d.question.about}"
        return
    yield f"    ways      {sentence(d)[1]}"
    yield f"              {d.question.about}; {d.answer.why}; * is chosen"
    yield from (f"          {line}" for line in ways(d, rate))


def _how(row: summary.UnitRow) -> str:
    if row.reason:
        return f"through torch: {row.reason}"
    if not row.kernels:
        return "nothing to do: its result lies where what it reads lies"
    kernels = ", ".join(f"{k} ({n} times)" if n > 1 else k for k, n in row.kernels.items())
    return f"natively, by {kernels}"


def _times(net: Any) -> Mapping[int, Any]:
    """Return the times of the last profile by unit; none of a program that is not the one shown."""
    known = net.last_profile
    if known is None or len(known.units) != len(net.schedule.units):
        return {}
    return {u.index: u for u in known.units}


def _time(t: Any) -> str:
    if t is None:
        return "not measured yet: profile(...) measures it"
    speed = f", {t.gflops:.1f} GFLOP/s" if t.flops else ""
    return f"{t.us:.1f} us, {amounts.share(t.share)} of the run{speed}"


def _check(net: Any, name: str) -> str:
    """Return what the self-check found of a unit, the largest error where it was measured."""
    why = net.specializations[0].retreat.get(name)
    found = net.specializations[0].errors.get(name)
    if why is not None:
        return f"failed, so it runs through torch: {why}"
    if found is not None:
        return f"error {found.error:.2g} where {found.tolerance:.2g} is allowed, on {found.probe}"
    if "verify_s" in net.stats:
        return "as part of the whole, which is as near to the model's result as it must be"
    if net.stats.get("cached"):
        return "when it was stored; the stored probe gave the same bits when it was loaded"
    if "loaded" in net.stats:
        return "where it was compiled; when it was loaded the whole was held to the saved probe"
    return "not: verify was off"
