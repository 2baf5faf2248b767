"""The solver: as good as trying everything, and as an integer program solved by others."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonc.shard.solve import Problem, solve


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


def cheapest(p: Problem) -> float:
    """Return the least cost of all choices."""
    return min(p.cost(c) for c in itertools.product(*(range(len(t)) for t in p.alone)))


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 4), st.floats(0, 1))
def test_it_finds_what_trying_everything_finds(
    seed: int, variables: int, states: int, edges: float
) -> None:
    p = random_problem(seed, variables, states, edges)
    got = solve(p)
    assert got.exact
    assert got.cost == p.cost(got.states) == cheapest(p)


@given(st.integers(0, 10**6), st.integers(2, 6), st.floats(0.3, 1), st.integers(1, 12))
def test_small_tables_still_give_a_choice_that_is_possible(
    seed: int, variables: int, edges: float, largest: int
) -> None:
    p = random_problem(seed, variables, 4, edges)
    got = solve(p, largest)
    assert np.isfinite(got.cost)
    assert got.cost == p.cost(got.states) >= cheapest(p)
    assert not got.exact or got.cost == cheapest(p)


def test_fixing_a_variable_is_told() -> None:
    p = random_problem(3, 7, 4, 1.0)
    assert solve(p).exact
    assert not solve(p, largest=8).exact


def test_no_single_change_improves_what_small_tables_give() -> None:
    for seed in range(30):
        p = random_problem(seed, 7, 4, 0.8, blocked=0.0)
        got = solve(p, largest=8)
        for i, t in enumerate(p.alone):
            for s in range(len(t)):
                other = (*got.states[:i], s, *got.states[i + 1 :])
                assert p.cost(other) >= got.cost - 1e-9


def test_costs_of_a_pair_add_up_in_either_order() -> None:
    p = Problem()
    a, b = p.variable([0.0, 1.0]), p.variable([0.0, 1.0, 2.0])
    p.pair(a, b, np.array([[9.0, 9, 9], [9, 9, 0]]))
    p.pair(b, a, np.array([[0.0, 0], [0, 0], [0, 5]]))
    assert p.cost((1, 2)) == 1 + 2 + 0 + 5
    assert solve(p).cost == cheapest(p) == 8


def test_of_equal_choices_the_first_states_are_taken() -> None:
    p = Problem()
    for _ in range(4):
        p.variable([1.0, 1.0])
    for a, b in itertools.combinations(range(4), 2):
        p.pair(a, b, np.zeros((2, 2)))
    assert solve(p).states == (0, 0, 0, 0)


def test_nothing_to_choose() -> None:
    assert solve(Problem()).states == ()
    p = Problem()
    p.variable([3.0])
    assert solve(p).cost == 3.0


def as_program(p: Problem) -> float:
    """Return the least cost that ``scipy.optimize.milp`` finds (HiGHS, to a gap of 0)."""
    optimize = pytest.importorskip("scipy.optimize")
    sparse = pytest.importorskip("scipy.sparse")
    first = np.cumsum([0, *(len(t) for t in p.alone)])
    costs = list(np.concatenate(p.alone))
    rows, cols, values, wanted = list[int](), list[int](), list[float](), list[float]()

    def equation(terms: list[tuple[int, float]], right: float) -> None:
        for col, value in terms:
            rows.append(len(wanted))
            cols.append(col)
            values.append(value)
        wanted.append(right)

    for i, t in enumerate(p.alone):
        equation([(int(first[i]) + s, 1.0) for s in range(len(t))], 1.0)
    upper = [1.0] * len(costs)
    for (a, b), table in p.pairs.items():
        at = len(costs)
        costs += list(np.where(np.isfinite(table), table, 0.0).ravel())
        upper += list(np.where(np.isfinite(table), 1.0, 0.0).ravel())
        n, m = table.shape
        for s in range(n):
            equation([(int(first[a]) + s, -1.0), *((at + s * m + k, 1.0) for k in range(m))], 0.0)
        for k in range(m):
            equation([(int(first[b]) + k, -1.0), *((at + s * m + k, 1.0) for s in range(n))], 0.0)
    matrix = sparse.csr_matrix((values, (rows, cols)), (len(wanted), len(costs)))
    whole = np.arange(len(costs)) < first[-1]
    found = optimize.milp(
        np.array(costs), integrality=whole, bounds=optimize.Bounds(0, np.array(upper)),
        constraints=optimize.LinearConstraint(matrix, wanted, wanted),
    )  # fmt: skip
    assert found.success, found.message
    return float(found.fun)


def test_it_agrees_with_an_integer_program() -> None:
    """200 random graphs: chains as in networks, and denser ones."""
    for seed in range(200):
        dense = seed % 4 == 0
        p = random_problem(seed, 8 if dense else 14, 4, 0.5 if dense else 0.15)
        assert solve(p).cost == pytest.approx(as_program(p), abs=1e-6)
