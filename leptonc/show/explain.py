"""Why each unit is computed the way it is: candidates, estimated and measured times, the reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from leptonc.backends.numba_cpu import peak
from leptonc.backends.numba_cpu.kernels.machine_code import lanes
from leptonc.backends.numba_cpu.lower.choices import Decision
from leptonc.backends.numba_cpu.schedule import Schedule, UnitInfo

_NAMED = 3  # units named that asked the same question


def explain(plan: Schedule, cycles_per_us: float | None = None) -> str:
    """Return the decisions of a schedule as text, equal questions told once.

    ``cycles_per_us`` are one core's (default: measured); estimates count cycles.
    """
    rate = cycles_per_us or core_rate()
    asked = _asked(plan)
    told = [(d, names) for d, names in asked.values() if len(d.question.costs) > 1]
    single = [(d, names) for d, names in asked.values() if len(d.question.costs) == 1]
    lines = [f"{plan.name}: ways to compute its units, {plan.threads} thread(s); * is chosen"]
    for decision, names in told:
        lines += _told(decision, names, rate * plan.threads)
    lines += _single(single)
    lines += _through_torch(plan.units)
    silent = sum(not u.decisions and not u.reason for u in plan.units)
    if silent:
        lines.append(f"  nothing to choose: {silent} unit{'s' * (silent > 1)}")
    return "\n".join(lines) + "\n"


def core_rate() -> float:
    """Return the cycles of one core in a microsecond: it does two vector multiply-adds in each."""
    return peak.gflops(1) * 1e3 / (4 * lanes())


def _asked(plan: Schedule) -> Mapping[str, tuple[Decision, list[str]]]:
    """Return each question once, with the names of the units that asked it."""
    found: dict[str, tuple[Decision, list[str]]] = {}
    for u in plan.units:
        for d in u.decisions:
            found.setdefault(d.question.key, (d, []))[1].append(u.name)
    return found


def _told(d: Decision, names: Sequence[str], rate: float) -> Iterator[str]:
    yield f"  {_some(names)}"
    yield f"    {d.question.about}; {d.answer.why}"
    yield from ways(d, rate)


def ways(d: Decision, rate: float) -> Iterator[str]:
    """Yield the candidates of a decision with their times; ``rate`` are cycles a microsecond."""
    for c in d.question.ranked:
        mark = "*" if c == d.answer.chosen else " "
        seconds = d.answer.times.get(c)
        timed = "" if seconds is None else f"  measured {seconds * 1e6:9.1f} us"
        yield f"    {mark} {c:<12} estimated {d.question.costs[c] / rate:9.1f} us{timed}"


def _single(found: Sequence[tuple[Decision, list[str]]]) -> Iterator[str]:
    """Yield the units that had only one candidate, by candidate."""
    units: dict[str, list[str]] = {}
    for d, names in found:
        units.setdefault(f"{d.answer.chosen}, {d.answer.why}", []).extend(names)
    for how, names in units.items():
        yield f"  {how}: {_some(names)}"


def _through_torch(units: Sequence[UnitInfo]) -> Iterator[str]:
    for u in units:
        if u.reason:
            yield f"  {u.name}: through torch: {u.reason}"


def _some(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
