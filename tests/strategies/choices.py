"""Problems of choice at random, and what others make of them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pytest

from leptonc.shard.eliminate import Table
from leptonc.shard.solve import Problem


def random_problem(
    seed: int, variables: int, states: int, edges: float, blocked: float = 0.2
) -> Problem:
    """Return a problem that has a solution: state 0 of each variable goes with any other."""
    rng = np.random.default_rng(seed)
    p = Problem()
    sizes = rng.integers(1, states + 1, variables)
    for n in sizes:
        p.variable(rng.integers(0, 20, n).astype(float))
    for a, b in itertools.combinations(range(variables), 2):
        if rng.random() < edges:
            table = rng.integers(0, 20, (sizes[a], sizes[b])).astype(float)
            shut = rng.random(table.shape) < blocked
            shut[0, :] = shut[:, 0] = False
            p.pair(*((a, b, np.where(shut, np.inf, table)) if rng.random() < 0.5
                     else (b, a, np.where(shut, np.inf, table).T)))  # fmt: skip
    return p


def random_bytes(p: Problem, seed: int) -> dict[int, Table]:
    """Return bytes of the states of about half of the variables."""
    rng = np.random.default_rng(seed)
    return {
        i: rng.integers(0, 50, len(t)).astype(float)
        for i, t in enumerate(p.alone) if rng.random() < 0.6
    }  # fmt: skip


def bytes_of(weighs: Mapping[int, Table], states: tuple[int, ...]) -> float:
    """Return what a choice holds."""
    return sum(float(t[states[i]]) for i, t in weighs.items())


def cheapest(p: Problem, weighs: Mapping[int, Table] | None = None, limit: float = 0.0) -> float:
    """Return the least cost of all choices that keep the limit; inf if none does."""
    every = itertools.product(*(range(len(t)) for t in p.alone))
    return min((p.cost(c) for c in every if bytes_of(weighs or {}, c) <= limit), default=np.inf)


class _Program:
    """A linear program with a variable for each state and each pair of states."""

    def __init__(self, p: Problem) -> None:
        self.first = np.cumsum([0, *(len(t) for t in p.alone)])
        self.costs = list(np.concatenate(p.alone))
        self.upper = [1.0] * len(self.costs)
        self.terms: list[tuple[int, int, float]] = []
        self.low: list[float] = []
        self.high: list[float] = []
        for i, t in enumerate(p.alone):
            self.row([(self.at(i, s), 1.0) for s in range(len(t))], 1.0, 1.0)
        for (a, b), table in p.pairs.items():
            self._pair(a, b, table)

    def at(self, i: int, state: int) -> int:
        return int(self.first[i]) + state

    def row(self, terms: list[tuple[int, float]], low: float, high: float) -> None:
        self.terms += [(len(self.low), col, value) for col, value in terms]
        self.low.append(low)
        self.high.append(high)

    def _pair(self, a: int, b: int, table: Table) -> None:
        at = len(self.costs)
        self.costs += list(np.where(np.isfinite(table), table, 0.0).ravel())
        self.upper += list(np.where(np.isfinite(table), 1.0, 0.0).ravel())
        n, m = table.shape
        for s in range(n):
            own = [(at + s * m + k, 1.0) for k in range(m)]
            self.row([(self.at(a, s), -1.0), *own], 0.0, 0.0)
        for k in range(m):
            own = [(at + s * m + k, 1.0) for s in range(n)]
            self.row([(self.at(b, k), -1.0), *own], 0.0, 0.0)


def as_program(p: Problem, weighs: Mapping[int, Table] | None = None, limit: float = 0.0) -> float:
    """Return the least cost that ``scipy.optimize.milp`` finds (HiGHS, to a gap of 0).

    With ``weighs`` under one more row, the limit; inf if no choice keeps it.
    """
    optimize = pytest.importorskip("scipy.optimize")
    sparse = pytest.importorskip("scipy.sparse")
    made = _Program(p)
    if weighs:
        held = [(made.at(i, s), float(b)) for i, t in weighs.items() for s, b in enumerate(t)]
        made.row(held, -np.inf, limit)
    rows, cols, values = zip(*made.terms, strict=True)
    matrix = sparse.csr_matrix((values, (rows, cols)), (len(made.low), len(made.costs)))
    whole = np.arange(len(made.costs)) < made.first[-1]
    found = optimize.milp(
        np.array(made.costs), integrality=whole,
        bounds=optimize.Bounds(0, np.array(made.upper)),
        constraints=optimize.LinearConstraint(matrix, made.low, made.high),
        options={"mip_rel_gap": 0.0},
    )  # fmt: skip
    assert found.success or found.status == 2, found.message
    return float(found.fun) if found.success else np.inf
