"""compress > prune > relations: which indices of which axes must be removed together.

Every axis of every value is a run of indices. Rules of kinds (:mod:`rules`) say that two axes are
the same index by index, that some indices of one go with some of another, or that an axis is
pinned. Two levels keep this small: whole axes are merged first, then single indices of what is
left, by union-find (Tarjan 1975). The idea of the dependency graph is DepGraph's (Fang et al.,
CVPR 2023); here it stands on values and axes, not on modules.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from leptonc.ir.core import Value

Indices = Sequence[int]
PIN = 0  # the node of all that is never removed


@dataclass(frozen=True)
class Choice:
    """Axes that a reshape merges or splits: exactly one before and one after can be pruned.

    Element ``e`` of the run lies at index ``before[i][e]`` of axis ``ins[i]`` and at
    ``after[j][e]`` of axis ``outs[j]``.
    """

    ins: tuple[int, ...]
    outs: tuple[int, ...]
    before: tuple[Indices, ...]
    after: tuple[Indices, ...]
    why: str

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Every pair of an axis before and one after, outermost first."""
        return tuple((i, j) for i in range(len(self.ins)) for j in range(len(self.outs)))


@dataclass
class Relations:
    """Axes of values and what rules said about them; grows while rules run."""

    axes: dict[tuple[Value, int], int] = field(default_factory=dict[tuple[Value, int], int])
    sizes: list[int] = field(default_factory=list[int])
    parent: list[int] = field(default_factory=list[int])
    links: list[tuple[int, Indices, int, Indices]] = field(default_factory=list)
    pins: list[tuple[int, Indices | None, str]] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list[Choice])

    def axis(self, value: Value, axis: int) -> int | None:
        """Return the number of an axis; None where its size is 1 or symbolic: nothing to prune."""
        axis %= max(len(value.type.shape), 1)
        size = value.type.shape[axis] if value.type.shape else 1
        if not isinstance(size, int) or size <= 1:
            return None
        found = self.axes.get((value, axis))
        if found is None:
            found = self.axes[value, axis] = len(self.sizes)
            self.sizes.append(size)
            self.parent.append(found)
        return found

    def rep(self, axis: int) -> int:
        """Return the axis that stands for all that are the same as ``axis``."""
        while self.parent[axis] != axis:
            self.parent[axis] = self.parent[self.parent[axis]]
            axis = self.parent[axis]
        return axis

    def same(self, a: Value, i: int, b: Value, j: int) -> None:
        """Axis ``i`` of ``a`` is axis ``j`` of ``b``, index by index (a size of 1 broadcasts)."""
        x, y = self.axis(a, i), self.axis(b, j)
        if x is None or y is None:
            return
        if self.sizes[x] != self.sizes[y]:
            raise AssertionError(f"axes of {self.sizes[x]} and {self.sizes[y]} are not the same")
        self.parent[self.rep(x)] = self.rep(y)

    def link(self, a: Value, i: int, at: Indices, b: Value, j: int, to: Indices) -> None:
        """Index ``at[n]`` of axis ``i`` of ``a`` goes with ``to[n]`` of axis ``j`` of ``b``."""
        x, y = self.axis(a, i), self.axis(b, j)
        if x is None or y is None:  # what meets a lone index can not be removed
            known, where = (y, to) if x is None else (x, at)
            if known is not None:
                self.pins.append((known, where, "the only one on an axis"))
            return
        self.links.append((x, at, y, to))

    def pin(self, value: Value, axis: int, why: str, at: Indices | None = None) -> None:
        """Nothing (or none of ``at``) is removed from this axis."""
        if (x := self.axis(value, axis)) is not None:
            self.pins.append((x, at, why))

    def pin_all(self, values: Iterable[Value], why: str) -> None:
        """Nothing is removed from any axis of ``values``."""
        for v in values:
            for axis in range(len(v.type.shape)):
                self.pin(v, axis, why)

    def members(self) -> dict[int, list[tuple[Value, int]]]:
        """Return by standing axis all axes that are the same, in the order they were met."""
        found: dict[int, list[tuple[Value, int]]] = {}
        for key, axis in self.axes.items():
            found.setdefault(self.rep(axis), []).append(key)
        return found

    def why(self, axis: int) -> str:
        """Return the nearest reason for which something of ``axis`` is pinned; "" if none is."""
        reasons: dict[int, str] = {}
        for a, _, why in self.pins:
            reasons.setdefault(self.rep(a), why)
        near: dict[int, set[int]] = {}
        runs = [(a, b) for a, _, b, _ in self.links]
        runs += [(a, b) for c in self.choices for a in c.ins for b in c.outs]
        for a, b in runs:
            near.setdefault(self.rep(a), set()).add(self.rep(b))
            near.setdefault(self.rep(b), set()).add(self.rep(a))
        queue, seen = deque([self.rep(axis)]), {self.rep(axis)}
        while queue:
            at = queue.popleft()
            if at in reasons:
                return reasons[at]
            queue += sorted(near.get(at, set()) - seen)
            seen |= near.get(at, set())
        return ""


class Solution:
    """Indices of standing axes, merged: ``root(axis, i)`` is the same for what goes together."""

    def __init__(self, relations: Relations) -> None:
        self.relations = relations
        self.offset: dict[int, int] = {}
        at = PIN + 1
        for axis in sorted({relations.rep(a) for a in range(len(relations.sizes))}):
            self.offset[axis] = at
            at += relations.sizes[axis]
        self.parent = list(range(at))
        for a, where, _ in relations.pins:
            self._pin(a, where)
        for a, ia, b, ib in relations.links:
            self._merge(a, ia, b, ib)
        self.base = list(self.parent)
        self.taken = self._choose({})
        self._improve()

    def nodes(self, axis: int) -> range:
        """Return the nodes of all indices of an axis."""
        start = self.offset[self.relations.rep(axis)]
        return range(start, start + self.relations.sizes[axis])

    def root(self, node: int) -> int:
        """Return what stands for all that goes together with ``node``."""
        parent = self.parent
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    def pinned(self, axis: int) -> bool:
        """Return whether nothing of ``axis`` can be removed."""
        pin = self.root(PIN)
        return all(self.root(n) == pin for n in self.nodes(axis))

    def live(self) -> set[int]:
        """Return the roots of what can be removed and leaves something on every axis."""
        roots = {axis: {self.root(n) for n in self.nodes(axis)} for axis in self.offset}
        dead = {r for found in roots.values() if len(found) == 1 for r in found}
        return set().union(*roots.values()) - dead - {self.root(PIN)} if roots else set()

    def _union(self, a: int, b: int) -> None:
        a, b = self.root(a), self.root(b)
        if a != b:
            self.parent[max(a, b)] = min(a, b)

    def _pin(self, axis: int, where: Indices | None) -> None:
        nodes = self.nodes(axis)
        for n in nodes if where is None else (nodes[i] for i in where):
            self._union(PIN, n)

    def _merge(self, a: int, ia: Indices, b: int, ib: Indices) -> None:
        for n, m in zip(map(self.nodes(a).__getitem__, ia), map(self.nodes(b).__getitem__, ib),
                        strict=True):  # fmt: skip
            self._union(n, m)

    def _choose(self, barred: dict[int, set[tuple[int, int]]]) -> dict[int, tuple[int, int]]:
        """Settle every choice in order by the first pair that is neither barred nor pinned."""
        self.parent = list(self.base)
        taken: dict[int, tuple[int, int]] = {}
        for n, choice in enumerate(self.relations.choices):
            free_in = [not self.pinned(a) for a in choice.ins]
            free_out = [not self.pinned(a) for a in choice.outs]
            free = [p for p in choice.pairs if free_in[p[0]] and free_out[p[1]]]
            left = [p for p in free if p not in barred.get(n, ())] or free[:1]
            keep = left[0] if left else (-1, -1)
            if left:
                taken[n] = keep
                i, j = keep
                self._merge(choice.ins[i], choice.before[i], choice.outs[j], choice.after[j])
            for axes, kept in ((choice.ins, keep[0]), (choice.outs, keep[1])):
                for i, axis in enumerate(axes):
                    if i != kept:
                        self._pin(axis, None)
        return taken

    def _improve(self) -> None:
        """Try other pairs where the first let nothing go, or cut a channel shuffle the long way."""
        barred: dict[int, set[tuple[int, int]]] = {}
        best, state = len(self.live()), (self.parent, self.taken)
        for _ in range(max((len(c.pairs) for c in self.relations.choices), default=1) - 1):
            doubtful = self._doubtful(barred)
            for n in doubtful:
                barred.setdefault(n, set()).add(self.taken[n])
            if not doubtful:
                break
            self.taken = self._choose(barred)
            if (found := len(self.live())) > best:
                best, state = found, (self.parent, self.taken)
        self.parent, self.taken = state

    def _doubtful(self, barred: dict[int, set[tuple[int, int]]]) -> list[int]:
        """Return the choices to settle otherwise, of those with a pair left to try."""
        live, rep = self.live(), self.relations.rep
        choices = self.relations.choices
        turned = {rep(choices[n].ins[i]) for n, (i, _) in self.taken.items() if i > 0}
        found: list[int] = []
        for n, (i, j) in self.taken.items():
            choice = choices[n]
            left = len(choice.pairs) > len(barred.get(n, ())) + 1
            dead = not any(self.root(x) in live for x in self.nodes(choice.ins[i]))
            # a shuffle splits channels, swaps the two axes and merges them again
            shuffled = len(choice.outs) > 1 and j == 0 and rep(choice.outs[j]) in turned
            if left and (dead or shuffled):
                found.append(n)
        return found


__all__ = ["PIN", "Choice", "Indices", "Relations", "Solution"]
