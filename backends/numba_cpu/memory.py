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
from dataclasses import dataclass

VARIANTS = 8  # of each order


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A buffer of ``bytes`` that is written first at step ``first`` and read last at step ``last``.

    ``alias`` is the index of a buffer that dies at step ``first`` and that this one may replace in
    place: the two may share memory then, but only from the same offset on.
    """

    bytes: int
    first: int
    last: int
    alias: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Byte offsets, one a buffer; the arena's extent; the largest live set; the sum of all."""

    offsets: tuple[int, ...]
    total: int
    lower_bound: int
    sum: int


def plan(lifetimes: Sequence[Lifetime], align: int = 64) -> Plan:
    """Return offsets such that no two buffers that live at one step overlap.

    Raises:
        ValueError: a lifetime that ends before it starts, a negative size, or an ``alias`` that is
            not an index of another buffer.
    """
    for i, life in enumerate(lifetimes):
        known = life.alias is None or (0 <= life.alias < len(lifetimes) and life.alias != i)
        if life.last < life.first or life.bytes < 0 or not known:
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
    for key in keys:
        order = sorted(by_size, key=key)
        for _ in range(VARIANTS):
            found = _placed(lifetimes, sizes, order)
            if best is None or found.total < best.total:
                best = found
            if best.total <= best.lower_bound:
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


def _placed(lifetimes: Sequence[Lifetime], sizes: list[int], order: Sequence[int]) -> Plan:
    """Return the plan that places the buffers one by one in this order."""
    placer = _Placer(lifetimes, sizes)
    for i in order:
        placer.place(i)
    total = max((o + s for o, s in zip(placer.offsets, sizes, strict=True)), default=0)
    return Plan(tuple(placer.offsets), total, _lower_bound(lifetimes, sizes), sum(sizes))


class _Placer:
    """Offsets so far, and at each step the placed buffers that live then."""

    def __init__(self, lifetimes: Sequence[Lifetime], sizes: list[int]) -> None:
        self.lifetimes, self.sizes = lifetimes, sizes
        self.offsets = [0] * len(sizes)
        self.live: dict[int, list[int]] = {}
        self.partners: dict[int, list[int]] = {}  # pairs that may share an offset
        self.placed: set[int] = set()
        for i, life in enumerate(lifetimes):
            if life.alias is not None and lifetimes[life.alias].last == life.first:
                self.partners.setdefault(i, []).append(life.alias)
                self.partners.setdefault(life.alias, []).append(i)

    def place(self, i: int) -> None:
        life, size = self.lifetimes[i], self.sizes[i]
        steps = range(life.first, life.last + 1)
        if size:
            rivals = {j for t in steps for j in self.live.get(t, ())}
            self.offsets[i] = self._choose(i, size, rivals)
            for t in steps:
                self.live.setdefault(t, []).append(i)
        self.placed.add(i)

    def _choose(self, i: int, size: int, rivals: set[int]) -> int:
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
