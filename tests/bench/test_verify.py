"""The cost of the self-check: what is counted, and what the default is held to."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from leptonc.bench import suites, verify


def runs(total: float, passes: float, check: float) -> list[dict[str, float]]:
    return [{"total_s": total, "passes_s": passes, "verify_s": check}] * 3


STAGES = {
    "off": [{"total_s": 1.0, "passes_s": 0.1}] * 3,
    "final": runs(1.5, 0.2, 0.5),
    "pass": runs(3.0, 0.9, 0.6),
}


def test_pass_counts_what_it_adds_between_the_passes() -> None:
    off, final, every = verify.costs("net", STAGES, eager_s=0.1)
    assert off.check_s == 0.0
    assert final.check_s == pytest.approx(0.5)
    assert every.check_s == pytest.approx(0.6 + 0.8)


def test_the_bound_is_two_runs_of_eager_and_a_fifth_of_the_rest() -> None:
    final = verify.costs("net", STAGES, eager_s=0.1)[1]
    assert final.bound_s == pytest.approx(2 * 0.1 + 0.2 * 1.0)


def test_only_a_default_over_its_bound_is_marked() -> None:
    rows = verify.costs("slow", STAGES, 0.1) + verify.costs("fast", STAGES, 0.2)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(verify.table(rows))
    over = [line for line in console.export_text().splitlines() if "over" in line]
    assert len(over) == 1 and "slow" in over[0] and "final" in over[0]


def test_a_small_net_is_measured_with_every_kind() -> None:
    (net,) = suites.pick(["tiny"], ["mlp"])
    rows = verify.measure(net, repeats=1, threads=1)
    assert [r.level for r in rows] == list(verify.LEVELS)
    by = {r.level: r for r in rows}
    assert by["off"].check_s == 0.0 < by["final"].check_s < by["unit"].check_s
    assert all(r.compile_s > 0 and r.eager_s > 0 for r in rows)
