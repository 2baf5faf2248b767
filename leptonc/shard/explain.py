"""A plan in words: what is cut and how, what it costs, what else there was, whether it pays."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from leptonc.cost.flops import known, op_cost
from leptonc.ir.core import Op
from leptonc.ir.kinds.data import Constant
from leptonc.shard.hints import weight_names
from leptonc.shard.placement import Replicate, Shard
from leptonc.shard.plan import Plan
from leptonc.shard.strategy import Strategy

_NAMED = 6  # ops listed of a group
_MIB = 2**20


def explain(plan: Plan, full: bool = False) -> str:
    """Return what was planned and why; ``full`` lists every weight and every op."""
    return "\n".join(_lines(plan, full))


def _lines(plan: Plan, full: bool) -> Iterator[str]:
    c, f, one = plan.cluster, plan.figures, plan.alone
    how = "fewest bytes of weights a rank" if plan.objective == "memory" else _proven(plan)
    yield (
        f"{plan.function.name} on {c.count} x {c.device.name} over {c.link.name}: planned in "
        f"{plan.planning_s * 1e3:.0f} ms ({how})"
    )
    yield f"  predicted {_ms(f.total_s)} a call, {_ms(one.total_s)} on one device" + _verdict(plan)
    yield (
        f"  terms     arithmetic {_ms(f.arithmetic_s)}, memory {_ms(f.memory_s)}, "
        f"launches {_ms(f.launch_s)}, communication {_ms(f.communication_s)} in "
        f"{f.collectives} collectives ({f.sent / _MIB:.2f} MiB)"
    )
    yield (
        f"  a rank    weights {f.weights / _MIB:.2f} of {one.weights / _MIB:.2f} MiB, "
        f"other values at most {f.activations / _MIB:.2f} MiB"
    )
    yield from _meets(plan)
    yield from _weights(plan, full)
    yield from _ops(plan, full)
    yield from _whole(plan)
    yield from _rejected(plan)


def _proven(plan: Plan) -> str:
    if plan.exact:
        return "no choice is predicted to be faster"
    if math.isinf(plan.gap):
        return "not proven to be the fastest"
    return f"no choice that fits is predicted to be more than {plan.gap:.2%} faster"


def _verdict(plan: Plan) -> str:
    if plan.figures.collectives == 0 and not plan.cut_ops:
        return ": sharding does not pay here, every rank runs everything"
    ratio = plan.alone.total_s / plan.figures.total_s if plan.figures.total_s else 1.0
    if plan.pays:
        return f": {ratio:.2f}x"
    return (
        f": {ratio:.2f}x, sharding does not pay here; it saves memory. One device is faster: "
        "leave out the number of devices"
    )


def _meets(plan: Plan) -> Iterator[str]:
    counts = Counter(op.kind.NAME for op in plan.program.collectives)
    if counts:
        yield "  ranks     meet in " + ", ".join(f"{n} {name}" for name, n in counts.items())


def _weights(plan: Plan, full: bool) -> Iterator[str]:
    """Yield where the weights are, the largest first."""
    rows = list[tuple[float, str]]()
    for op, s in zip(plan.function.ops, plan.strategies, strict=True):
        if isinstance(op.kind, Constant) and op.result.type.rank >= 2:
            size = float(known(op.result.type.numel)) * op.result.type.dtype.nbytes
            names = weight_names(plan.function, op)
            rows.append((size, f"{names[0] if names else '?'}: {op.result.type}, {place(s)}"))
    rows.sort(key=lambda r: -r[0])
    for size, text in rows if full else rows[:_NAMED]:
        yield f"  weight    {text} ({size / _MIB:.2f} MiB)"
    if not full and len(rows) > _NAMED:
        yield f"            and {len(rows) - _NAMED} more"


def place(s: Strategy) -> str:
    """Return where the result of a strategy is, in words."""
    p = s.outs[0]
    if isinstance(p, Shard):
        return f"cut along axis {p.axis}" + (f" in {p.outer} blocks" if p.outer > 1 else "")
    return "whole on every rank" if isinstance(p, Replicate) else "a sum over the ranks"


def _ops(plan: Plan, full: bool) -> Iterator[str]:
    """Yield how the ops run, by kind and strategy."""
    rows = Counter[tuple[str, str]]()
    for op, s in zip(plan.function.ops, plan.strategies, strict=True):
        if s.divides and op.operands:
            rows[op.kind.NAME, str(s)] += 1
    most = rows.most_common(None if full else 2 * _NAMED)
    for (name, text), n in most:
        yield f"  op        {n} x {name} {text}"
    if len(rows) > len(most):
        yield f"            and {len(rows) - len(most)} more ways"


def _whole(plan: Plan) -> Iterator[str]:
    """Yield what every rank runs alike, and why where too few units are the reason."""
    heavy = [op for op in plan.whole_ops if known(op_cost(op).flops) > 0]
    if not heavy:
        return
    counts = Counter(op.kind.NAME for op in heavy)
    listed = ", ".join(f"{n} {name}" for name, n in counts.most_common(_NAMED))
    yield f"  whole     every rank runs {listed}" + (" ..." if len(counts) > _NAMED else "")
    for op in heavy[:_NAMED]:
        yield from _few(plan, op)


def _few(plan: Plan, op: Op) -> Iterator[str]:
    few = {u for _, u in plan.spread.dropped.get(op, ())}
    if few:
        units = ", ".join(map(str, sorted(few)))
        at = f" {op.origin.module}" if op.origin.module else ""
        yield (
            f"            {op.kind.NAME}{at} could be cut between {units} units, fewer than "
            f"{plan.cluster.count} ranks; up to {max(few)} ranks would share it"
        )


def _rejected(plan: Plan) -> Iterator[str]:
    for r in plan.rejected:
        yield (f"  rejected  {r.name}: {_ms(r.seconds)}, weights {r.weights / _MIB:.2f} MiB a rank")


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3f} ms"
