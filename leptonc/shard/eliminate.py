"""Elimination of variables, worked out once and run for many costs of the states at a time.

The order of the variables and which tables meet depend on the graph alone. Costs come with an
axis of cases in front (one case a price of memory, say); a table that is the same in all cases has
one there, so each step is one sum and one minimum over arrays, however many cases there are.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Table: TypeAlias = "NDArray[np.float64]"
States: TypeAlias = "NDArray[np.intp]"  # [cases, variables]
_AT_ONCE = 1 << 22  # entries of the largest table over all cases of one run


@dataclass(frozen=True, slots=True)
class _Factor:
    """A table over sorted variables, to be found in a slot."""

    slot: int
    variables: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Take:
    """How a factor enters a sum: its axes in the order of the sum's, and ones between them."""

    slot: int
    order: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Eliminate:
    """Table the best state of ``variable`` for all states of ``others``."""

    variable: int
    others: tuple[int, ...]
    takes: tuple[_Take, ...]
    put: int


@dataclass(frozen=True, slots=True)
class _Fix:
    """Give ``variable`` the state that is best by the costs it has now, others at their best.

    Attributes:
        variable: which.
        hopes: slots of factors, and which of their axes are not the variable's.
        puts: slots of factors, the variable's axis there, and the slots of what is left of them.
    """

    variable: int
    hopes: tuple[tuple[int, tuple[int, ...]], ...]
    puts: tuple[tuple[int, int, int], ...]


@dataclass
class Elimination:
    """The steps for one graph of variables.

    Attributes:
        sizes: states of each variable.
        pairs: costs ``[states of a, states of b]`` by ``(a, b)``, ``a < b``.
        largest: entries of a table of one case; a neighbour is fixed where more were needed.
        exact: whether no variable is fixed, so that the results are the best there are.
    """

    sizes: Sequence[int]
    pairs: Mapping[tuple[int, int], Table]
    largest: int
    exact: bool = True
    _slots: int = 0
    _widest: int = 1
    _steps: list[_Eliminate | _Fix] = field(default_factory=list[_Eliminate | _Fix])

    def __post_init__(self) -> None:
        self._near: list[set[int]] = [set() for _ in self.sizes]
        self._of: list[dict[int, _Factor]] = [{} for _ in self.sizes]
        for pair in self.pairs:
            self._add(pair)
        self._order()
        del self._near, self._of

    # ----- the order ------------------------------------------------------------------------------

    def _order(self) -> None:
        """Take variables with few neighbours first."""
        done = [False] * len(self.sizes)
        queue = [(len(near), i) for i, near in enumerate(self._near)]
        heapq.heapify(queue)
        while queue:
            count, i = heapq.heappop(queue)
            if done[i] or count != len(self._near[i]):
                continue
            touched = self._shrink(i) | self._near[i]
            done[i] = True
            self._eliminate(i)
            for v in sorted(touched):
                if not done[v]:
                    heapq.heappush(queue, (len(self._near[v]), v))

    def _shrink(self, i: int) -> set[int]:
        """Fix neighbours of ``i`` until its table is small enough; return whom that concerns."""
        touched = set[int]()
        while self._near[i] and self._entries(i) > self.largest:
            worst = max(self._near[i], key=lambda v: (len(self._near[v]), self.sizes[v], v))
            touched |= {*self._near[worst], worst}
            self._fix(worst)
        return touched - {i}

    def _entries(self, i: int) -> int:
        return math.prod(self.sizes[v] for v in (i, *self._near[i]))

    def _fix(self, v: int) -> None:
        self.exact = False
        factors = list(self._of[v].values())
        hopes = tuple(
            (f.slot, tuple(k + 1 for k, u in enumerate(f.variables) if u != v)) for f in factors
        )
        puts = list[tuple[int, int, int]]()
        for f in factors:
            self._remove(f)
            if rest := tuple(u for u in f.variables if u != v):
                puts.append((f.slot, f.variables.index(v) + 1, self._add(rest)))
        for u in self._near[v]:
            self._near[u].discard(v)
        self._near[v] = set()
        self._steps.append(_Fix(v, hopes, tuple(puts)))

    def _eliminate(self, i: int) -> None:
        others = tuple(sorted(self._near[i]))
        self._widest = max(self._widest, self._entries(i))
        factors = sorted(self._of[i].values(), key=lambda f: (len(f.variables), f.slot))
        takes = tuple(self._take(f, (*others, i)) for f in factors)
        for f in factors:
            self._remove(f)
        for v in others:
            self._near[v].discard(i)
        put = self._add(others) if others else -1
        self._steps.append(_Eliminate(i, others, takes, put))

    def _take(self, f: _Factor, axes: tuple[int, ...]) -> _Take:
        order = sorted(range(len(f.variables)), key=lambda k: axes.index(f.variables[k]))
        wide = tuple(self.sizes[v] if v in f.variables else 1 for v in axes)
        return _Take(f.slot, (0, *(k + 1 for k in order)), wide)

    def _add(self, variables: tuple[int, ...]) -> int:
        f = _Factor(self._slots, variables)
        self._slots += 1
        for v in variables:
            self._of[v][f.slot] = f
            self._near[v].update(u for u in variables if u != v)
        return f.slot

    def _remove(self, f: _Factor) -> None:
        for v in f.variables:
            del self._of[v][f.slot]

    # ----- the numbers ----------------------------------------------------------------------------

    def run(self, alone: Sequence[Table], cases: int) -> States:
        """Return the choice of each case, of equal ones that with the lowest states in order.

        Args:
            alone: of each variable the costs of its states, ``[cases or 1, states]``.
            cases: how many.
        """
        each = max(_AT_ONCE // self._widest, 1)
        parts = [range(i, min(i + each, cases)) for i in range(0, cases, each)]
        return np.concatenate([self._run([_part(t, p) for t in alone], len(p)) for p in parts])

    def _run(self, alone: list[Table], cases: int) -> States:
        slots: list[Table] = [t[np.newaxis] for t in self.pairs.values()]
        slots += [_EMPTY] * (self._slots - len(slots))
        best = list[States]()
        for step in self._steps:
            if isinstance(step, _Eliminate):
                best.append(_eliminated(step, alone[step.variable], slots))
            else:
                alone[step.variable] = _fixed(step, alone[step.variable], slots, cases)
        states = np.zeros((len(self.sizes), cases), np.intp)
        ordered = [s for s in self._steps if isinstance(s, _Eliminate)]
        rows = np.arange(cases)
        for step, table in zip(reversed(ordered), reversed(best), strict=True):
            first = rows if len(table) == cases else 0
            states[step.variable] = table[(first, *(states[v] for v in step.others))]
        return states.T


def _part(table: Table, cases: range) -> Table:
    return table if len(table) == 1 else table[cases.start : cases.stop]


def _eliminated(step: _Eliminate, own: Table, slots: list[Table]) -> States:
    """Return the best states of the variable, and leave its table for the others."""
    total = own.reshape((len(own), *[1] * len(step.others), -1))
    for take in step.takes:
        table = slots[take.slot]
        total = total + table.transpose(take.order).reshape((len(table), *take.shape))
        slots[take.slot] = _EMPTY
    if step.put >= 0:
        slots[step.put] = total.min(axis=-1)
    return total.argmin(axis=-1)


def _fixed(step: _Fix, own: Table, slots: list[Table], cases: int) -> Table:
    """Return the costs of the variable that has one state left, and what is left of its tables."""
    hopes = own
    for slot, axes in step.hopes:
        hopes = hopes + slots[slot].min(axis=axes)
    hopes = np.broadcast_to(hopes, (cases, hopes.shape[1]))
    state = hopes.argmin(axis=1)
    rows = np.arange(cases)
    for slot, axis, put in step.puts:
        table = np.moveaxis(slots[slot], axis, 1)
        slots[put] = np.broadcast_to(table, (cases, *table.shape[1:]))[rows, state]
        slots[slot] = _EMPTY
    only = np.full(hopes.shape, np.inf)
    only[rows, state] = np.broadcast_to(own, hopes.shape)[rows, state]
    return only


_EMPTY: Table = np.empty(0)
