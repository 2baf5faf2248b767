"""Choose one state of each variable at the least sum of costs, exactly where that is affordable.

Variables are eliminated one by one: the best state of one is tabled for all states of its
neighbours (dynamic programming over the graph; R. Dechter, "Bucket elimination", 1999), those with
few neighbours first. Where a table would be too large, a neighbour is fixed to what looks best,
and the choice is improved afterwards, one variable at a time; the result says that it is not exact.
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
LARGEST = 1 << 21  # entries of a table


@dataclass
class Problem:
    """Costs of single states, and of pairs of states; inf where a pair cannot be."""

    alone: list[Table] = field(default_factory=list[Table])
    pairs: dict[tuple[int, int], Table] = field(default_factory=dict[tuple[int, int], Table])

    def variable(self, costs: Sequence[float] | Table) -> int:
        """Add a variable and return its number."""
        self.alone.append(np.asarray(costs, np.float64))
        return len(self.alone) - 1

    def pair(self, a: int, b: int, costs: Table) -> None:
        """Add costs ``[states of a, states of b]`` of two variables."""
        if a > b:
            a, b, costs = b, a, costs.T
        held = self.pairs.get((a, b))
        self.pairs[a, b] = costs if held is None else held + costs

    def cost(self, states: Sequence[int]) -> float:
        """Return what a choice costs."""
        total = sum(float(t[states[i]]) for i, t in enumerate(self.alone))
        return total + sum(float(t[states[a], states[b]]) for (a, b), t in self.pairs.items())


@dataclass(frozen=True)
class Choice:
    """A state of each variable, their cost, and whether nothing is cheaper."""

    states: tuple[int, ...]
    cost: float
    exact: bool


def solve(problem: Problem, largest: int = LARGEST) -> Choice:
    """Return the cheapest choice; of equally cheap ones, that with the lowest states in order."""
    search = _Elimination(problem, largest)
    states = search.run()
    exact = not search.fixed
    if not exact:
        states = _improved(problem, states)
    return Choice(tuple(states), problem.cost(states), exact)


@dataclass
class _Bucket:
    """What is known of an eliminated variable: its best state by the states of others."""

    variable: int
    others: tuple[int, ...]
    best: NDArray[np.intp]


class _Elimination:
    """One run of the elimination; factors are tables over sorted variables."""

    def __init__(self, problem: Problem, largest: int) -> None:
        self.largest = largest
        self.size = [len(t) for t in problem.alone]
        self.alone = [t.copy() for t in problem.alone]
        self.factors: list[dict[tuple[int, ...], Table]] = [{} for _ in problem.alone]
        self.near: list[set[int]] = [set() for _ in problem.alone]
        self.fixed: dict[int, int] = {}
        for (a, b), table in problem.pairs.items():
            self._add((a, b), table)

    def run(self) -> list[int]:
        done = [False] * len(self.size)
        queue = [(len(near), i) for i, near in enumerate(self.near)]
        heapq.heapify(queue)
        buckets = list[_Bucket]()
        while queue:
            count, i = heapq.heappop(queue)
            if done[i] or count != len(self.near[i]):
                continue
            self._shrink(i)
            touched = sorted(self.near[i])
            done[i] = True
            buckets.append(self._eliminate(i))
            for v in (*touched, *self.pending):
                if not done[v]:
                    heapq.heappush(queue, (len(self.near[v]), v))
        states = [0] * len(self.size)
        for b in reversed(buckets):
            states[b.variable] = int(b.best[tuple(states[v] for v in b.others)])
        return states

    def _shrink(self, i: int) -> None:
        """Fix neighbours of ``i`` until its table is small enough."""
        self.pending = list[int]()
        while self.near[i] and self._entries(i) > self.largest:
            worst = max(self.near[i], key=lambda v: (len(self.near[v]), self.size[v], v))
            self.pending += [*self.near[worst], worst]
            self._fix(worst)

    def _entries(self, i: int) -> int:
        return math.prod(self.size[v] for v in (i, *self.near[i]))

    def _fix(self, v: int) -> None:
        """Give ``v`` the state that is best by the costs it has now, others at their best."""
        hopes = self.alone[v].copy()
        for variables, table in self.factors[v].items():
            axis = variables.index(v)
            hopes += table.min(axis=tuple(k for k in range(len(variables)) if k != axis))
        state = int(np.argmin(hopes))
        self.fixed[v] = state
        only = np.full(self.size[v], np.inf)
        only[state] = self.alone[v][state]
        self.alone[v] = only
        for variables, table in list(self.factors[v].items()):
            self._remove(variables)
            rest = tuple(u for u in variables if u != v)
            self._put(
                rest, np.take(table, [state], axis=variables.index(v)).squeeze(variables.index(v))
            )
        for u in self.near[v]:
            self.near[u].discard(v)
        self.near[v] = set()

    def _eliminate(self, i: int) -> _Bucket:
        others = tuple(sorted(self.near[i]))
        place = {v: k for k, v in enumerate(others)}
        place[i] = len(others)
        shape = [self.size[v] for v in others] + [self.size[i]]
        total = np.zeros(shape) + self.alone[i]
        for variables, table in list(self.factors[i].items()):
            order = sorted(range(len(variables)), key=lambda k: place[variables[k]])
            wide = [1] * len(shape)
            for k in order:
                wide[place[variables[k]]] = table.shape[k]
            total += table.transpose(order).reshape(wide)
            self._remove(variables)
        best = total.argmin(axis=-1)
        rest = total.min(axis=-1)
        for v in others:
            self.near[v].discard(i)
        if others:
            self._put(others, rest)
            for v in others:
                self.near[v].update(u for u in others if u != v)
        return _Bucket(i, others, np.asarray(best))

    def _put(self, variables: tuple[int, ...], table: Table) -> None:
        """Add a factor over sorted variables; one over a single one is its own cost."""
        if len(variables) == 1:
            self.alone[variables[0]] = self.alone[variables[0]] + table
        elif variables:
            self._add(variables, table)

    def _add(self, variables: tuple[int, ...], table: Table) -> None:
        for v in variables:
            held = self.factors[v].get(variables)
            self.factors[v][variables] = table if held is None else held + table
            self.near[v].update(u for u in variables if u != v)

    def _remove(self, variables: tuple[int, ...]) -> None:
        for v in variables:
            self.factors[v].pop(variables, None)


def _improved(problem: Problem, states: list[int]) -> list[int]:
    """Return ``states`` with single variables changed for the better until none is."""
    near: Mapping[int, list[tuple[int, Table]]] = {i: [] for i in range(len(problem.alone))}
    for (a, b), table in problem.pairs.items():
        near[a].append((b, table.T))
        near[b].append((a, table))
    waiting = dict.fromkeys(range(len(states)))
    while waiting:
        i = next(iter(waiting))
        del waiting[i]
        costs = problem.alone[i].copy()
        for j, table in near[i]:
            costs += table[states[j]]
        best = int(np.argmin(costs))
        if costs[best] < costs[states[i]] * (1 - 1e-12) - 1e-15:
            states[i] = best
            waiting.update(dict.fromkeys(j for j, _ in near[i]))
    return states
