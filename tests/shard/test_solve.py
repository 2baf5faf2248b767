"""The solver: as good as trying everything, and as an integer program solved by others."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies.choices import as_program, cheapest, random_problem

from leptonc.shard import eliminate
from leptonc.shard.solve import Problem, choices, solve


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 4), st.floats(0, 1))
def test_it_finds_what_trying_everything_finds(
    seed: int, variables: int, states: int, edges: float
) -> None:
    p = random_problem(seed, variables, states, edges)
    got = solve(p)
    assert got.exact
    assert got.cost == p.cost(got.states) == cheapest(p)


@given(st.integers(0, 10**6), st.integers(2, 9), st.floats(0, 1), st.sampled_from([8, 1 << 21]))
def test_many_cases_are_solved_as_each_alone(
    seed: int, variables: int, edges: float, largest: int
) -> None:
    """Costs of some variables differ from case to case, those of others do not."""
    p, rng = random_problem(seed, variables, 4, edges), np.random.default_rng(seed)
    cases = int(rng.integers(1, 6))
    alone = [
        t + (rng.integers(0, 9, (cases, len(t))) if rng.random() < 0.5 else np.zeros((1, len(t))))
        for t in p.alone
    ]
    found = choices(p, p.elimination(largest), alone, cases)
    for k, states in enumerate(found.tolist()):
        own = Problem([t[min(k, len(t) - 1)] for t in alone], p.pairs)
        assert tuple(states) == solve(own, largest).states


def test_runs_of_too_many_entries_are_parted(monkeypatch: pytest.MonkeyPatch) -> None:
    p = random_problem(5, 7, 4, 0.6)
    alone = [t + np.arange(11.0)[:, np.newaxis] % (i + 2) for i, t in enumerate(p.alone)]
    whole = choices(p, p.elimination(), alone, 11)
    monkeypatch.setattr(eliminate, "_AT_ONCE", 100)
    assert (choices(p, p.elimination(), alone, 11) == whole).all()


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


def test_it_agrees_with_an_integer_program() -> None:
    """200 random graphs: chains as in networks, and denser ones."""
    for seed in range(200):
        dense = seed % 4 == 0
        p = random_problem(seed, 8 if dense else 14, 4, 0.5 if dense else 0.15)
        assert solve(p).cost == pytest.approx(as_program(p), abs=1e-6)
