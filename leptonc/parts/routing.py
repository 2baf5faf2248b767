"""parts > routing: who gets the next request, and how a batch is shared out. Pure decisions.

Work is counted in units (rows of a batch, or requests); a speed is units a second, 0 for a member
that is out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from leptonc.errors import PartError

GAIN = 0.10  # a new sharing must promise this much less time to be worth changing
EVERY = 8  # batches between two changes
FOLLOW = 0.3  # weight of the latest measurement in a speed


def route(loads: Sequence[float], speeds: Sequence[float], size: float = 1.0) -> int:
    """Return the member that will have done ``size`` more units first; of equals, the faster one.

    Args:
        loads: units that wait at or run in each member.
        speeds: of each member.
        size: units of the request.

    Raises:
        PartError: every member is out.
    """
    ready = [i for i, s in enumerate(speeds) if s > 0]
    if not ready:
        raise PartError("no member takes requests")
    return min(ready, key=lambda i: ((loads[i] + size) / speeds[i], -speeds[i], i))


def apportion(total: int, weights: Sequence[float]) -> tuple[int, ...]:
    """Return ``total`` units shared so that the largest ``share / weight`` is smallest.

    Whole quotas first, then unit by unit to whoever would have done it first.

    Raises:
        PartError: no weight is positive.
    """
    whole = sum(w for w in weights if w > 0)
    if not whole > 0:
        raise PartError("no member takes requests")
    given = [int(total * w / whole) if w > 0 else 0 for w in weights]
    for _ in range(total - sum(given)):
        given[route([float(n) for n in given], weights)] += 1
    return tuple(given)


def makespan(shares: Sequence[int], speeds: Sequence[float]) -> float:
    """Return the seconds until the last member has done its share; infinite if one is out."""
    times = [n / s if s > 0 else float("inf") for n, s in zip(shares, speeds, strict=True) if n]
    return max(times, default=0.0)


def shares(
    total: int, speeds: Sequence[float], old: Sequence[float] | None = None, gain: float = GAIN
) -> tuple[int, ...]:
    """Return the units of each member: as ``old`` had it, unless a new sharing is ``gain`` faster.

    Args:
        total: units to share.
        speeds: of each member.
        old: weights of the sharing so far, e.g. the shares of the last batch; None for none.
        gain: least part of the time that a change must save.
    """
    new = apportion(total, speeds)
    if old is None or len(old) != len(speeds) or not any(w > 0 for w in old):
        return new
    kept = apportion(total, old)
    return new if makespan(new, speeds) < (1 - gain) * makespan(kept, speeds) else kept


@dataclass(frozen=True)
class Balance:
    """How batches are shared at present.

    Attributes:
        weights: what batches are shared by: the speeds when that was last decided.
        since: batches since then.
        changes: how often it was decided anew.
        gain: least part of the time that a change must save.
        every: least batches between two changes; a member that leaves or returns waits for none.
    """

    weights: tuple[float, ...] = ()
    since: int = 0
    changes: int = 0
    gain: float = GAIN
    every: int = EVERY

    def next(self, total: int, speeds: Sequence[float]) -> tuple[Balance, tuple[int, ...]]:
        """Return the balance after a batch of ``total`` units, and the shares of that batch."""
        same = [w > 0 for w in self.weights] == [s > 0 for s in speeds]
        if same and self.since < self.every:
            return replace(self, since=self.since + 1), apportion(total, self.weights)
        kept = apportion(total, self.weights) if same else None
        made = shares(total, speeds, self.weights if same else None, self.gain)
        if kept is not None and made == kept:
            return replace(self, since=self.since + 1), made
        changes = self.changes + bool(self.weights)
        return replace(self, weights=tuple(speeds), since=1, changes=changes), made


def followed(old: float | None, units: float, seconds: float) -> float:
    """Return the speed after ``units`` took ``seconds``, smoothed; ``old`` None for the first.

    Seconds a unit are averaged, not units a second: one quick call does not make a member fast.
    """
    took = max(seconds, 1e-9) / max(units, 1e-9)
    if old is None:
        return 1.0 / took
    return 1.0 / ((1 - FOLLOW) / old + FOLLOW * took)


def assumed(speeds: Sequence[float | None]) -> tuple[float, ...]:
    """Return the speeds, that of a member not measured yet being the fastest of the others.

    It so gets requests, and is measured.
    """
    known = [s for s in speeds if s is not None and s > 0]
    guess = max(known, default=1.0)
    return tuple(guess if s is None else s for s in speeds)
