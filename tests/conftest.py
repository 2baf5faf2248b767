"""Settings shared by all tests: Hypothesis profiles (chosen by HYPOTHESIS_PROFILE)."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

_SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)

settings.register_profile("dev", max_examples=25, deadline=None, suppress_health_check=_SLOW)
settings.register_profile(
    "ci", max_examples=200, deadline=None, derandomize=True, suppress_health_check=_SLOW
)
settings.register_profile("deep", max_examples=5000, deadline=None, suppress_health_check=_SLOW)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


# Tests that want candidates timed say so: what a busy machine measures is no test's business.
os.environ.setdefault("LEPTONC_TUNE", "0")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--update-lir``, which rewrites outputs under ``tests/lir``, and ``--lir FILE``."""
    parser.addoption("--update-lir", action="store_true", help="rewrite tests/lir/**/*.lir")
    parser.addoption("--lir", action="append", help="a counter-example that tests/properties runs")
