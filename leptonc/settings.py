"""Settings: the one module that reads environment variables (besides ``cli``).

Nothing is read at import time: :func:`read_settings` returns a frozen snapshot, and whoever needs a
fresh view calls it again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from leptonc.errors import LeptoncError

GIB = 1 << 30
LANE_CHOICES = (4, 8, 16)
NO = ("0", "off", "no", "false")


class SettingsError(LeptoncError, ValueError):
    """An environment variable holds a value that leptonc cannot use."""


@dataclass(frozen=True)
class Settings:
    """What the environment asks for; ``None`` means "decide from the machine".

    Attributes:
        cache_dir: root of every on-disk cache (``LEPTONC_CACHE_DIR``, else XDG, else ``~/.cache``).
        cache_bytes: upper bound of the compile cache in bytes (``LEPTONC_CACHE_BYTES``).
        num_threads: threads asked for (``LEPTONC_NUM_THREADS``).
        lanes: float32 lanes of a vector register (``LEPTONC_LANES``: 4, 8 or 16).
        tiles: whether kernels use tile registers where there are some (``LEPTONC_TILES=0``: not).
        spin_us: how long an idle worker spins before it blocks, in microseconds
            (``LEPTONC_SPIN_US``).
        balance: whether threads get shares as large as their cores are fast
            (``LEPTONC_BALANCE=1``).
        cache_enabled: whether caches on disk are used at all (``LEPTONC_CACHE=0`` turns them off).
        helpers: most processes that compile kernels for this one (``LEPTONC_HELPERS``; 0: none).
        tune: whether a compile times alternatives (``LEPTONC_TUNE=0`` trusts the cost model).
        tune_ms: how long it may do so, in milliseconds (``LEPTONC_TUNE_MS``).
    """

    cache_dir: Path
    cache_bytes: int = 2 * GIB
    num_threads: int | None = None
    lanes: int | None = None
    tiles: bool = True
    spin_us: int = 75
    balance: bool = False
    cache_enabled: bool = True
    helpers: int = 4
    tune: bool = True
    tune_ms: int = 1000


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Return the settings that ``environ`` (default: the process environment) describes.

    Raises:
        SettingsError: a variable is set to something that is not usable; the message names it.
    """
    env = os.environ if environ is None else environ
    lanes = _int(env, "LEPTONC_LANES", low=1)
    if lanes is not None and lanes not in LANE_CHOICES:
        raise SettingsError(f"LEPTONC_LANES={lanes}: expected one of {LANE_CHOICES}")
    return Settings(
        cache_dir=_cache_dir(env),
        cache_bytes=_int(env, "LEPTONC_CACHE_BYTES", low=0, default=2 * GIB),
        num_threads=_int(env, "LEPTONC_NUM_THREADS", low=1),
        lanes=lanes,
        tiles=env.get("LEPTONC_TILES", "1").strip().lower() not in NO,
        spin_us=_int(env, "LEPTONC_SPIN_US", low=0, default=75),
        balance=env.get("LEPTONC_BALANCE", "0").strip().lower() not in NO,
        cache_enabled=env.get("LEPTONC_CACHE", "1").strip().lower() not in NO,
        helpers=_int(env, "LEPTONC_HELPERS", low=0, default=4),
        tune=env.get("LEPTONC_TUNE", "1").strip().lower() not in NO,
        tune_ms=_int(env, "LEPTONC_TUNE_MS", low=0, default=1000),
    )


def child_environ(changes: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a process that we start: ours, with ``changes``."""
    return {**os.environ, **changes}


def _cache_dir(env: Mapping[str, str]) -> Path:
    """Return the cache root: the explicit variable, then XDG, then ``~/.cache``."""
    if env.get("LEPTONC_CACHE_DIR"):
        return Path(env["LEPTONC_CACHE_DIR"]).expanduser()
    if env.get("XDG_CACHE_HOME"):
        return Path(env["XDG_CACHE_HOME"]) / "leptonc"
    return Path.home() / ".cache" / "leptonc"


@overload
def _int(env: Mapping[str, str], name: str, low: int, default: int) -> int: ...
@overload
def _int(env: Mapping[str, str], name: str, low: int) -> int | None: ...
def _int(env: Mapping[str, str], name: str, low: int, default: int | None = None) -> int | None:
    """Return variable ``name``, an integer of at least ``low``, or ``default`` if it is not set."""
    text = env.get(name, "").strip()
    if not text:
        return default
    try:
        value = int(text)
    except ValueError:
        raise SettingsError(f"{name}={text!r}: expected an integer") from None
    if value < low:
        raise SettingsError(f"{name}={value}: expected at least {low}")
    return value
