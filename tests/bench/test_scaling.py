"""Scaling to two threads beside what two copies do."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from leptonc.bench import scaling
from leptonc.bench.protocol import Times


def times(one: float, two: float, beside: float, other: float) -> dict[str, Times]:
    """Return times whose fastest calls are these, with slow calls and a slow round among them."""
    names = (scaling.ONE, scaling.TWO, scaling.BESIDE, scaling.OTHER)
    return {
        name: Times([[t, 2 * t], [3 * t, t], [9 * t, 10 * t]])
        for name, t in zip(names, (one, two, beside, other), strict=True)
    }


def test_what_two_threads_do_is_held_to_two_copies() -> None:
    assert scaling.ratios(times(8.0, 5.0, 8.0, 16.0)) == pytest.approx((0.8, 0.75, 0.5))
    assert scaling.ratios(times(8.0, 4.0, 8.0, 8.0)) == (1.0, 1.0, 1.0)


def test_the_table_has_a_row_for_each_network() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(scaling.table({"net": times(8e-3, 5e-3, 8e-3, 10e-3)}))
    (row,) = [line for line in console.export_text().splitlines() if "0.90" in line]
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells == ["net", "8.0", "5.0", "0.80", "0.90", "0.80"]


@pytest.mark.numba
def test_a_small_network_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "_SETTLE_S", 0.001)
    found = scaling.measure("mlp", 0.0)
    assert all(len(t.rounds) >= 5 and t.min > 0 for t in found.values())
