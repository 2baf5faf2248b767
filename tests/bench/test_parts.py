"""The benchmark of parts, workers and pools: its figures, and all of it on a tiny net."""

from __future__ import annotations

import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from leptonc.bench import parts, suites

TIMES = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=9)


@given(TIMES)
def test_the_slowest_over_the_mean_is_between_one_and_the_count(times: list[float]) -> None:
    found = parts.uneven(times)
    assert 1 - 1e-9 <= found <= len(times) + 1e-9
    assert parts.uneven([t * 2 for t in times]) == pytest.approx(found)
    assert parts.uneven([times[0]] * len(times)) == pytest.approx(1)


def test_a_slow_member_computes_as_often_as_it_is_told() -> None:
    calls: list[int] = []
    member = parts.Counted(lambda x: calls.append(len(x)) or x, times=3)
    assert torch.equal(member(torch.ones(2)), torch.ones(2))
    assert calls == [2, 2, 2] and member.rows == 2


@pytest.mark.numba
def test_shares_are_of_all_rows_and_of_all_speeds() -> None:
    (net,) = suites.pick(tuple(suites.SUITES), ["mlp"])
    with torch.no_grad():
        speeds, shares = parts.pool(net, parts.Options(batch=6, seconds=0.0))
    assert sum(s.rows for s in shares) == pytest.approx(1) == sum(s.speed for s in shares)
    assert [s.way for s in speeds] == ["fast", "pool"] and speeds[0].ratio is None


@pytest.mark.numba
def test_it_prints_every_way() -> None:
    console = Console(width=120, file=io.StringIO(), record=True)
    parts.main(["mlp", "--batch", "6", "--microbatches", "3", "--seconds", "0"], console)
    text = console.export_text()
    for words in ("whole", "pipeline", "parallel", "fast", "pool", "slow", "estimated", "of speed"):
        assert words in text
