"""Settings: what the environment can say, and what it is told when it says it wrongly."""

from __future__ import annotations

from pathlib import Path

import pytest

from leptonc.settings import Settings, SettingsError, read_settings


def test_defaults() -> None:
    found = read_settings({})
    assert found == Settings(cache_dir=Path.home() / ".cache" / "leptonc")


def test_everything_set() -> None:
    found = read_settings(
        {
            "LEPTONC_CACHE_DIR": "/c",
            "LEPTONC_CACHE_BYTES": "5",
            "LEPTONC_NUM_THREADS": " 2 ",
            "LEPTONC_LANES": "8",
            "LEPTONC_SPIN_US": "0",
            "LEPTONC_CACHE": "off",
            "LEPTONC_HELPERS": "1",
            "LEPTONC_TUNE": "no",
            "LEPTONC_TUNE_MS": "250",
        }
    )
    assert found == Settings(
        cache_dir=Path("/c"),
        cache_bytes=5,
        num_threads=2,
        lanes=8,
        spin_us=0,
        cache_enabled=False,
        helpers=1,
        tune=False,
        tune_ms=250,
    )


def test_xdg() -> None:
    assert read_settings({"XDG_CACHE_HOME": "/x"}).cache_dir == Path("/x/leptonc")


@pytest.mark.parametrize(
    ("name", "value"),
    [("LEPTONC_LANES", "5"), ("LEPTONC_NUM_THREADS", "0"), ("LEPTONC_NUM_THREADS", "two")],
)
def test_wrong_values_are_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        read_settings({name: value})
