"""Choose one state of each variable at the least sum of costs, exactly where that is affordable.

Variables are eliminated one by one: the best state of one is tabled for all states of its
neighbours (dynamic programming over the graph; R. Dechter, "Bucket elimination", 1999), those with
few neighbours first. Where a table would be too large, a neighbour is fixed to what looks best,
and the choice is improved afterwards, one variable at a time; the result says that it is not exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from leptonc.shard.eliminate import Elimination, States, Table

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
        return float(self.costs(np.array([states], np.intp))[0])

    def costs(self, states: States) -> Table:
        """Return what each row of ``states`` costs."""
        total = np.zeros(len(states))
        columns = list(states.T)
        for t, own in zip(self.alone, columns, strict=True):
            total += t[own]
        for (a, b), t in self.pairs.items():
            total += t[columns[a], columns[b]]
        return total

    def elimination(self, largest: int = LARGEST) -> Elimination:
        """Return the steps that solve this problem, and any with the same pairs."""
        return Elimination([len(t) for t in self.alone], self.pairs, largest)


@dataclass(frozen=True)
class Choice:
    """A state of each variable, their cost, and whether nothing is cheaper."""

    states: tuple[int, ...]
    cost: float
    exact: bool


def solve(problem: Problem, largest: int = LARGEST) -> Choice:
    """Return the cheapest choice; of equally cheap ones, that with the lowest states in order."""
    steps = problem.elimination(largest)
    (states,) = choices(problem, steps, [t[np.newaxis] for t in problem.alone], 1)
    made = tuple(map(int, states))
    return Choice(made, problem.cost(made), steps.exact)


def choices(problem: Problem, steps: Elimination, alone: Sequence[Table], cases: int) -> States:
    """Return the choice of each case, when states cost ``alone`` (``[cases or 1, states]``)."""
    found = steps.run(alone, cases)
    if steps.exact:
        return found
    near = neighbours(problem)
    rows = [
        _improved(near, [t[min(k, len(t) - 1)] for t in alone], row.tolist())
        for k, row in enumerate(found)
    ]
    return np.array(rows, np.intp)


Near: TypeAlias = "Mapping[int, list[tuple[int, Table]]]"


def neighbours(problem: Problem) -> Near:
    """Return of each variable its neighbours, and tables whose rows are the neighbour's states."""
    near: Near = {i: [] for i in range(len(problem.alone))}
    for (a, b), table in problem.pairs.items():
        near[a].append((b, table.T))
        near[b].append((a, table))
    return near


def _improved(near: Near, alone: Sequence[Table], states: list[int]) -> list[int]:
    """Return ``states`` with single variables changed for the better until none is."""
    waiting = dict.fromkeys(range(len(states)))
    while waiting:
        i = next(iter(waiting))
        del waiting[i]
        costs = alone[i].copy()
        for j, table in near[i]:
            costs += table[states[j]]
        best = int(np.argmin(costs))
        if costs[best] < costs[states[i]] * (1 - 1e-12) - 1e-15:
            states[i] = best
            waiting.update(dict.fromkeys(j for j, _ in near[i]))
    return states
