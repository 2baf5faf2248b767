"""compress > choice: which of several forms of a unit was taken, and what each of them took."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

FLOAT = "float"
MARGIN = 0.97  # a form must take at most this part of another's time to be faster than it


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a call: the median, and how far the true one may be from it."""

    ms: float
    noise: float = 0.0

    @classmethod
    def of(cls, calls: Sequence[float]) -> Timing:
        """Return the timing of ``calls`` in ms, at least two.

        The noise is the notch of McGill, Tukey and Larsen (Variations of Box Plots, 1978): medians
        whose intervals do not touch differ at about the 95 % level.
        """
        low, middle, high = statistics.quantiles(calls, n=4, method="inclusive")
        return cls(middle, 1.57 * (high - low) / math.sqrt(len(calls)))

    def beats(self, other: Timing) -> bool:
        """Return whether this is faster by more than the noise of both and the margin."""
        return self.ms <= MARGIN * other.ms and self.ms + self.noise < other.ms - other.noise


@dataclass(frozen=True)
class Choice:
    """The form of one unit.

    Attributes:
        where: module path of the unit.
        chosen: name of the form that was taken.
        times: of every form that was tried, measured in turns; the more exact forms come first.
    """

    where: str
    chosen: str
    times: Mapping[str, Timing]

    def over(self, form: str) -> float:
        """Return how much more time ``form`` takes than the one that was taken; 0.25 is 25 %."""
        return self.times[form].ms / self.times[self.chosen].ms - 1.0

    def __str__(self) -> str:
        lost = (
            f"{form} takes {time.ms:.3f} ms ({100 * self.over(form):+.0f} %)"
            for form, time in self.times.items() if form != self.chosen
        )  # fmt: skip
        verb = "stays" if self.chosen == FLOAT else "becomes"
        return f"{verb} {self.chosen}, {self.times[self.chosen].ms:.3f} ms: {', '.join(lost)}"


def choose(where: str, times: Mapping[str, Timing]) -> Choice:
    """Return the choice among forms, the more exact ones first in ``times``.

    It is the most exact one of those that the fastest does not clearly beat.
    """
    fastest = min(times.values(), key=lambda t: t.ms)
    return Choice(where, next(f for f, t in times.items() if not fastest.beats(t)), dict(times))


def rows(choices: Sequence[Choice]) -> tuple[list[str], list[list[str]]]:
    """Return heads and rows of a table: for each unit the form, and ms of every form."""
    most_first = sorted(choices, key=lambda c: -len(c.times))  # the others leave forms out
    forms = list(dict.fromkeys(form for c in most_first for form in c.times))
    body = [[c.where, c.chosen, *(_cell(c, form) for form in forms)] for c in choices]
    return ["unit", "form", *(f"{form} ms" for form in forms)], body


def table(choices: Sequence[Choice]) -> Table:
    """Return the choices as a table; what a form lost by stands behind its time."""
    heads, body = rows(choices)
    made = Table(*heads, caption="ms of a unit alone, and how much more than with its form")
    for row in body:
        made.add_row(*row)
    return made


def _cell(choice: Choice, form: str) -> str:
    if form not in choice.times:
        return ""
    lost = "" if form == choice.chosen else f" ({100 * choice.over(form):+.0f} %)"
    return f"{choice.times[form].ms:.3f}{lost}"


__all__ = ["FLOAT", "Choice", "Timing", "choose", "rows", "table"]
