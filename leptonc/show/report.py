"""The text report of a compiled model: what runs natively, what does not and why, time, memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from leptonc.errors import InputError
from leptonc.show import amounts, summary
from leptonc.show.record import record
from leptonc.show.remarks import grouped

_HEAVIEST = 5  # units listed by their arithmetic
_NAMED = 4  # units named behind a reason
_PHASES = ("capture", "load", "passes", "tune", "schedule", "verify", "store")


def describe(net: Any, remarks: bool = False, format: str = "text") -> str:
    """Return the report of a ``CompiledModel``, as text or JSON.

    Raises:
        InputError: another format, or JSON of a model that is not compiled yet.
    """
    if format == "json":
        return json.dumps(record(net), indent=1)
    if format != "text":
        raise InputError(f"format {format!r}: a report is 'text' or 'json'")
    if not net.specializations:
        return f"{net.name}: not compiled yet; its first call compiles it\n"
    return "\n".join(_lines(net, remarks)) + "\n"


def _lines(net: Any, remarks: bool) -> Iterator[str]:
    plan, stats = net.schedule, net.stats
    rows, work = summary.units(plan), summary.work(plan)
    count = len(net.specializations)
    yield (
        f"{net.name}: {len(rows)} units, {len(plan.steps)} steps, {plan.threads} thread(s)"
        + (f", {count} specializations (the first is shown)" if count > 1 else "")
    )
    yield f"  threads   {stats.get('governor', '')}"
    yield (
        f"  ops       {work.ops - work.ops_torch} native, {work.ops_torch} through torch "
        f"({amounts.share(work.ops_native_share)} native)"
    )
    yield (
        f"  work      {amounts.flops(work.flops)}, "
        f"{amounts.share(work.flops_native_share)} of it native"
    )
    yield (
        f"  memory    arena {amounts.nbytes(plan.arena_bytes)} "
        f"(largest live set {amounts.nbytes(plan.lower_bound)}, "
        f"all activations {amounts.nbytes(plan.sum_bytes)}), "
        f"constants {amounts.nbytes(sum(c.nbytes for c in plan.consts))}"
    )
    yield from _compile_time(stats)
    yield from _checked(net.errors)
    yield from _stages(*summary.stages(net))
    yield from _heaviest(rows)
    yield from _through_torch(rows)
    if remarks:
        yield from _remarks(summary.remarks(net))


def _compile_time(stats: Mapping[str, Any]) -> Iterator[str]:
    parts = [f"{k} {amounts.seconds(stats[f'{k}_s'])}" for k in _PHASES if f"{k}_s" in stats]
    if "total_s" in stats:
        parts.append(f"total {amounts.seconds(stats['total_s'])}")
    if parts:
        cached = " (from the compile cache)" if stats.get("cached") else ""
        yield f"  compile   {', '.join(parts)}{cached}"


def _checked(errors: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the check of every unit found, if there was one."""
    if not errors:
        return
    missed = sum(e.ratio > 1 for e in errors.values())
    name, nearest = max(errors.items(), key=lambda item: item[1].ratio)
    yield (
        f"  check     {len(errors)} units compared one by one, {missed} missed; nearest to its "
        f"tolerance: {name} on {nearest.probe}, "
        f"error {nearest.error:.2g} of {nearest.tolerance:.2g}"
    )


def _stages(stages: Sequence[Any], why: str) -> Iterator[str]:
    if not stages:
        yield f"  passes    {why or 'none ran: the program came from the compile cache'}"
        return
    width = max(len(s.name) for s in stages)
    yield "  passes"
    for s in stages:
        change = f"{len(s.before.ops)} -> {len(s.after.ops)} ops" if s.changed else "no change"
        yield f"    {s.name:<{width}} {amounts.seconds(s.seconds):>9}  {change}"


def _heaviest(rows: Sequence[summary.UnitRow]) -> Iterator[str]:
    total = sum(r.flops for r in rows)
    top = sorted(rows, key=lambda r: -r.flops)[:_HEAVIEST]
    if not total or len(rows) < 2:
        return
    yield "  most work"
    for r in top:
        kernels = ", ".join(r.kernels) or r.runs
        yield f"    {amounts.share(r.flops / total):>7}  {r.name} [{r.pattern or 'op'}: {kernels}]"


def _through_torch(rows: Sequence[summary.UnitRow]) -> Iterator[str]:
    found = summary.refusals(rows)
    if found:
        yield "  through torch"
    for reason, names in found:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        yield f"    {reason}: {', '.join(names[:_NAMED])}{more}"


def _remarks(rows: Sequence[summary.RemarkRow]) -> Iterator[str]:
    yield f"  remarks   {len(rows)}; report(format='json') has each of them"
    yield from (f"    {line}" for line in grouped(rows))
