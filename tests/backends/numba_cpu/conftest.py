"""Fixtures of the tests of the CPU backend."""

from __future__ import annotations

import pytest

from leptonc.backends.numba_cpu.lower import product_cost


@pytest.fixture
def no_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose as on a processor without tile registers."""
    monkeypatch.setattr(product_cost, "AMX", False)
