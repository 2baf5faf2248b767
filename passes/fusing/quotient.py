"""Groups of ops whose quotient graph stays acyclic: the ground that fuse stands on."""

from __future__ import annotations

from collections.abc import Iterator

from leptonc.ir.core import Function, Op


class Quotient:
    """The ops of a function, merged into ever larger groups.

    The groups stand in one topological order throughout. ``merge`` looks only at the stretch
    between the two groups, so merging neighbours costs the distance between them (a bounded-region
    form of Pearce & Kelly, "A dynamic topological sort algorithm", 2007).
    """

    def __init__(self, fn: Function, reach: int = 256) -> None:
        """Start with one group per op; groups further than ``reach`` apart never merge."""
        self.fn, self.reach = fn, reach
        self.index = {id(op): i for i, op in enumerate(fn.ops)}
        self._group = list(range(len(fn.ops)))
        self._members: dict[int, list[int]] = {i: [i] for i in range(len(fn.ops))}
        self._slots: list[int] = list(range(len(fn.ops)))  # -1 where a group has gone
        self._at = list(range(len(fn.ops)))
        producer = fn.producer
        self._preds: dict[int, set[int]] = {
            i: {self.index[id(producer[v])] for v in op.operands if v in producer}
            for i, op in enumerate(fn.ops)
        }

    def group(self, op: Op) -> int:
        """Return the group that ``op`` is in (a name, good until its next merge)."""
        return self._group[self.index[id(op)]]

    def ops(self, group: int) -> tuple[Op, ...]:
        """Return the ops of a group in the function's order."""
        return tuple(self.fn.ops[i] for i in sorted(self._members[group]))

    def groups(self) -> Iterator[int]:
        """Yield the groups in a topological order of the quotient graph."""
        return (g for g in self._slots if g >= 0)

    def merge(self, a: Op, b: Op) -> bool:
        """Make one group of those of ``a`` and ``b``; False if that would close a cycle."""
        u, v = self.group(a), self.group(b)
        if u == v:
            return True
        if self._at[u] > self._at[v]:
            u, v = v, u
        lo, hi = self._at[u], self._at[v]
        if hi - lo > self.reach:
            return False
        between = [g for g in self._slots[lo + 1 : hi] if g >= 0]
        after: list[int] = []
        reached: set[int] = set()
        for g in between:
            preds = self._current_preds(g)
            if u in preds or not reached.isdisjoint(preds):
                reached.add(g)
                after.append(g)
        if not reached.isdisjoint(self._current_preds(v)):
            return False
        before = [g for g in between if g not in reached]
        self._join(u, v)
        order = [*before, u, *after]
        self._slots[lo : hi + 1] = [*order, *[-1] * (hi + 1 - lo - len(order))]
        for i, g in enumerate(order, start=lo):
            self._at[g] = i
        return True

    def _current_preds(self, group: int) -> set[int]:
        """Return the groups that ``group`` reads; stored indices are renamed lazily."""
        return {self._group[p] for p in self._preds[group]}

    def _join(self, u: int, v: int) -> None:
        for i in self._members[v]:
            self._group[i] = u
        self._members[u].extend(self._members.pop(v))
        self._preds[u] |= self._preds.pop(v)
