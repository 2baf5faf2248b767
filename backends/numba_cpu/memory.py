"""Arena plan: where each buffer of a schedule lies, from how long it lives. Pure arithmetic.

Greedy by size with best fit (Pisarchyk & Lee, "Efficient Memory Management for Deep Neural Net
Inference", 2020, section 5): large buffers first, each into the tightest gap between those placed
buffers that live at the same time. No one order suits every net, hence other orders follow until
one needs no more than the largest live set: those of the fullest steps first (their section 4,
greedy by breadth), large or early ones of these in front, and those of most bytes times steps. Of
each order a few variants: the buffer that ends last had its turn too late, and comes first then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass

VARIANTS = 8  # of each order


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A buffer of ``bytes`` that is written first at step ``first`` and read last at step ``last``.

    ``alias`` is the index of a buffer that dies at step ``first`` and that this one may replace in
    place: the two may share memory then, but only from the same offset on. ``at``: its offset, if
    that is given.
    """

    bytes: int
    first: int
    last: int
    alias: int | None = None
    at: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Byte offsets, one a buffer; the arena's extent; the largest live set; the sum of all."""

    offsets: tuple[int, ...]
    total: int
    lower_bound: int
    sum: int


def plan(
    lifetimes: Sequence[Lifetime], align: int = 64, enough: int = 0, variants: int = VARIANTS
) -> Plan:
    """Return offsets such that no two buffers that live at one step overlap.

    Args:
        lifetimes: the buffers.
        align: what offsets are multiples of, in bytes.
        enough: an arena of so many bytes is as good as a smaller one.
        variants: of each order, how many to try at most.

    Raises:
        ValueError: a lifetime that ends before it starts, a negative size, an ``alias`` that is not
            an index of another buffer, given offsets that are not aligned or overlap.
    """
    for i, life in enumerate(lifetimes):
        known = life.alias is None or (0 <= life.alias < len(lifetimes) and life.alias != i)
        aligned = life.at is None or (life.at >= 0 and life.at % align == 0)
        if life.last < life.first or life.bytes < 0 or not known or not aligned:
            raise ValueError(f"buffer {i}: {life} is no lifetime")
    sizes = [-(-life.bytes // align) * align for life in lifetimes]
    # Ties go to the older buffer, so that the plan is a function of its input alone.
    by_size = sorted(range(len(sizes)), key=lambda i: (-sizes[i], lifetimes[i].first, i))
    widest = _widest(lifetimes, sizes)
    keys: tuple[Callable[[int], tuple[int, ...]], ...] = (
        lambda i: (),
        lambda i: (-widest[i],),
        lambda i: (-widest[i], lifetimes[i].first),
        lambda i: (-sizes[i] * (lifetimes[i].last - lifetimes[i].first + 1),),
        lambda i: (lifetimes[i].first - lifetimes[i].last,),
    )
    best: Plan | None = None
    given = _Placer(lifetimes, sizes)
    for i in by_size:
        if lifetimes[i].at is not None:
            given.place(i)
    by_size = [i for i in by_size if lifetimes[i].at is None]
    for key in keys:
        order = sorted(by_size, key=key)
        for _ in range(variants):
            found = _placed(given, order)
            if best is None or found.total < best.total:
                best = found
            if best.total <= max(best.lower_bound, enough) or not order:
                return best
            last = max(order, key=lambda i: found.offsets[i] + sizes[i])
            order.remove(last)
            order.insert(0, last)
    assert best is not None  # there are keys
    return best


def _widest(lifetimes: Sequence[Lifetime], sizes: list[int]) -> list[int]:
    """Return, for each buffer, the bytes that live at the fullest of its steps."""
    steps = max((life.last + 1 for life in lifetimes), default=0)
    live = [0] * steps
    for life, size in zip(lifetimes, sizes, strict=True):
        for t in range(life.first, life.last + 1):
            live[t] += size
    return [max(live[life.first : life.last + 1]) for life in lifetimes]


def _placed(given: _Placer, order: Sequence[int]) -> Plan:
    """Return the plan that places the buffers of ``order`` one by one beside those ``given``."""
    placer = given.copy()
    for i in order:
        placer.place(i)
    return placer.plan()


class _Placer:
    """Offsets so far, and at each step the placed buffers that live then."""

    def __init__(self, lifetimes: Sequence[Lifetime], sizes: list[int]) -> None:
        self.lifetimes, self.sizes = lifetimes, sizes
        self.offsets = [0] * len(sizes)
        self.live: dict[int, list[int]] = {}
        self.partners: dict[int, list[int]] = {}  # pairs that may share an offset
        self.placed: set[int] = set()
        self.lower_bound = _lower_bound(lifetimes, sizes)
        for i, life in enumerate(lifetimes):
            if life.alias is not None and lifetimes[life.alias].last == life.first:
                self.partners.setdefault(i, []).append(life.alias)
                self.partners.setdefault(life.alias, []).append(i)

    def copy(self) -> _Placer:
        """Return one with the same buffers, which goes on by itself."""
        made = copy(self)
        made.offsets, made.placed = [*self.offsets], {*self.placed}
        made.live = {t: [*found] for t, found in self.live.items()}
        return made

    def plan(self) -> Plan:
        """Return the plan when all are placed."""
        total = max((o + s for o, s in zip(self.offsets, self.sizes, strict=True)), default=0)
        return Plan(tuple(self.offsets), total, self.lower_bound, sum(self.sizes))

    def place(self, i: int) -> None:
        life, size = self.lifetimes[i], self.sizes[i]
        steps = range(life.first, life.last + 1)
        if size:
            rivals = {j for t in steps for j in self.live.get(t, ())}
            self.offsets[i] = self._choose(i, size, rivals)
            for t in steps:
                self.live.setdefault(t, []).append(i)
        else:
            self.offsets[i] = life.at or 0
        self.placed.add(i)

    def _choose(self, i: int, size: int, rivals: set[int]) -> int:
        given = self.lifetimes[i].at
        if given is not None:
            if not self._free(given, size, rivals):
                raise ValueError(f"buffer {i}: another one lies at byte {given}, too")
            return given
        for j in self.partners.get(i, ()):
            at = self.offsets[j]
            if j in rivals and self._free(at, size, rivals - self._sharing(i, at)):
                return at
        return _best_fit(size, sorted((self.offsets[j], self.sizes[j]) for j in rivals))

    def _sharing(self, i: int, at: int) -> set[int]:
        return {j for j in self.partners[i] if j in self.placed and self.offsets[j] == at}

    def _free(self, at: int, size: int, rivals: set[int]) -> bool:
        return all(
            at + size <= self.offsets[j] or self.offsets[j] + self.sizes[j] <= at for j in rivals
        )


def _best_fit(size: int, taken: list[tuple[int, int]]) -> int:
    """Return the start of the tightest gap that holds ``size``, else the end of what is taken."""
    best, waste, end = -1, -1, 0
    for offset, length in taken:
        gap = offset - end
        if gap >= size and (best < 0 or gap - size < waste):
            best, waste = end, gap - size
        end = max(end, offset + length)
    return end if best < 0 else best


def largest_live_set(lifetimes: Sequence[Lifetime], align: int = 64) -> int:
    """Return the most bytes that live at a step, which no plan can do without."""
    return _lower_bound(lifetimes, [-(-life.bytes // align) * align for life in lifetimes])


def _lower_bound(lifetimes: Sequence[Lifetime], sizes: list[int]) -> int:
    """Return the largest live set; a buffer replaced in place counts once at the step it dies."""
    change: dict[int, int] = {}
    for life, size in zip(lifetimes, sizes, strict=True):
        change[life.first] = change.get(life.first, 0) + size
        change[life.last + 1] = change.get(life.last + 1, 0) - size
    shared: dict[int, dict[int, int]] = {}
    for life, size in zip(lifetimes, sizes, strict=True):
        old = life.alias
        if old is not None and lifetimes[old].last == life.first:
            saved = shared.setdefault(life.first, {})
            saved[old] = max(saved.get(old, 0), min(size, sizes[old]))
    most = live = 0
    for t in sorted(change):
        live += change[t]
        most = max(most, live - sum(shared.get(t, {}).values()))
    return most
