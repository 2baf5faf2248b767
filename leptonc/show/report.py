"""The text report of a compiled model: what runs natively, what does not and why, time, memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MIB = 1 << 20


def describe(net: Any, remarks: bool = False) -> str:
    """Return the report of a ``CompiledModel`` as text."""
    if not net.specializations:
        return f"{net.name}: compiled at its first call\n"
    return "\n".join(_lines(net, remarks)) + "\n"


def _lines(net: Any, remarks: bool) -> Iterator[str]:
    s = net.stats
    yield f"{net.name}: {s['units']} units, {s['steps']} steps, {s['threads']} thread(s)"
    yield f"  threads   {s.get('governor', '')}"
    yield f"  ops       {s['ops_native']} native, {s['ops_torch']} through torch"
    if "flops" in s:
        share = 100.0 * s["flops_native"] / max(s["flops"], 1)
        yield f"  work      {s['flops'] / 1e9:.3f} GFLOP, {share:.1f} % native"
    yield (
        f"  memory    arena {s['arena_bytes'] / MIB:.2f} MiB (largest live set "
        f"{s['arena_lower_bound_bytes'] / MIB:.2f}, all activations "
        f"{s['arena_sum_bytes'] / MIB:.2f}), constants {s['constant_bytes'] / MIB:.2f} MiB"
    )
    times = [(k, s[f"{k}_s"]) for k in ("capture", "passes", "schedule", "verify") if f"{k}_s" in s]
    total = f", total {s['total_s']:.2f} s" if "total_s" in s else ""
    yield "  compile   " + ", ".join(f"{k} {v:.2f} s" for k, v in times) + total
    for step in net.stages:
        change = f"{len(step.before.ops)} -> {len(step.after.ops)} ops"
        yield f"    {step.name:<32} {step.seconds * 1e3:8.1f} ms  {change}"
    yield from _through_torch(net)
    if remarks:
        yield "  remarks"
        for spec in net.specializations:
            yield from (f"    {r}" for r in spec.remarks)


def _through_torch(net: Any) -> Iterator[str]:
    units = [u for u in net.schedule.units if u.torch_ops]
    if units:
        yield "  through torch"
    for u in units:
        yield f"    {u.name}: {u.reason}"
