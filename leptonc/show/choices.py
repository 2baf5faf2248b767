"""show > choices: what the choice of an algorithm has to say about a unit, in the user's terms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from leptonc.backends.numba_cpu.lower.choices import MEASURED, Decision
from leptonc.backends.numba_cpu.schedule import Schedule, UnitInfo

PLAIN = "igemm"  # the way without a transform: a unit that runs so keeps it
WORDS: Mapping[str, str] = {
    "igemm": "direct convolution",
    "winograd2": "Winograd F(2x2)",
    "winograd3": "Winograd F(3x3)",
    "winograd4": "Winograd F(4x4)",
    "late4": "Winograd F(4x4), weights transformed as they are used",
    "lateline4": "Winograd F(4) along one axis, weights transformed as they are used",
    "phases2": "Winograd F(2x2) on the phases of its stride",
    "latephases2": "Winograd F(2x2) on phases, weights transformed as they are used",
    "line4": "Winograd F(4) along one axis",
    "depthwise": "depthwise convolution",
}


@dataclass(frozen=True)
class Said:
    """What is to be told of one unit: by whom, ``missed`` or ``applied``, and why."""

    unit: UnitInfo
    by: str
    says: str
    why: str


def remarks(plan: Schedule) -> Iterator[Said]:
    """Yield how units are computed that could be computed otherwise, or not natively at all."""
    for unit in plan.units:
        if unit.reason:
            yield Said(unit, "schedule", "missed", f"runs through torch: {unit.reason}")
        for d in unit.decisions:
            if len(d.question.costs) > 1:
                yield Said(unit, "choose", *sentence(d))


def word(candidate: str) -> str:
    """Return a candidate's name as a user knows it."""
    return WORDS.get(candidate, candidate)


def sentence(d: Decision) -> tuple[str, str]:
    """Return ``missed`` or ``applied``, and why: by how much each other way is slower."""
    chosen = d.answer.chosen
    others = ", ".join(_compared(d, c) for c in d.question.ranked if c != chosen)
    if chosen == PLAIN:
        return "missed", f"keeps {word(chosen)}: {others}"
    return "applied", f"runs as {word(chosen)}: {others}"


def _compared(d: Decision, other: str) -> str:
    """Return how ``other`` compares with what was chosen: measured where that decided."""
    chosen, times, costs = d.answer.chosen, d.answer.times, d.question.costs
    measured = d.answer.why == MEASURED and chosen in times and other in times
    by = times if measured else costs
    how = "measured" if measured else "estimated"
    ratio = by[other] / by[chosen] if by[chosen] else float("inf")
    if ratio < 1:
        return f"{word(other)} {how} {1 / ratio:.2f}x faster, too little to go by"
    return f"{word(other)} {how} {ratio:.2f}x slower"
