"""runtime > choices: what was measured on this machine, in memory and as one JSON file per machine.

Layout: ``<root>/choices/<machine>.json``: question, chosen candidate, seconds by candidate. A file
is replaced in one rename; one that is damaged in any way counts as empty. It holds names and
numbers only, and whoever reads it still checks that a name is a candidate.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leptonc.runtime.cache import cache_key, private_directory

FORMAT = 1
MOST = 20_000  # questions in a file
MOST_BYTES = 16 << 20


@dataclass(frozen=True)
class Measured:
    """The candidate chosen and the seconds of each that was timed; none if only estimated."""

    chosen: str
    times: Mapping[str, float]


class Book:
    """Answers by question: what one process decided stays decided while it lives.

    Args:
        root: the cache root; None keeps nothing on disk.
        machine: text that names everything the times depend on besides the question.
    """

    def __init__(self, root: Path | None, machine: str) -> None:
        self._path = None if root is None else root / "choices" / f"{cache_key(machine)[:32]}.json"
        self._lock = threading.Lock()
        self._known = self._read()

    def get(self, key: str) -> Measured | None:
        """Return what was decided for a question."""
        with self._lock:
            return self._known.get(key)

    def settle(self, found: Mapping[str, Measured]) -> None:
        """Keep these decisions, and those that were measured on disk; earlier ones win."""
        with self._lock:
            new = {k: m for k, m in found.items() if k not in self._known}
            self._known.update(new)
            if any(m.times for m in new.values()):
                self._write()

    def _read(self) -> dict[str, Measured]:
        try:
            if self._path is None or self._path.stat().st_size > MOST_BYTES:
                return {}
            return parse(json.loads(self._path.read_bytes()))
        except (OSError, ValueError, TypeError, RecursionError):
            return {}

    def _write(self) -> None:
        """Write what was measured, with what other processes wrote meanwhile."""
        if self._path is None or not private_directory(self._path.parent):
            return
        measured = {k: m for k, m in {**self._read(), **self._known}.items() if m.times}
        rows = {k: {"chosen": m.chosen, "times": dict(m.times)} for k, m in measured.items()}
        text = json.dumps({"format": FORMAT, "choices": dict(list(rows.items())[-MOST:])}, indent=1)
        with contextlib.suppress(OSError):
            handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=".tmp-")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    file.write(text)
                Path(name).replace(self._path)
            except OSError:
                Path(name).unlink(missing_ok=True)


def parse(data: Any) -> dict[str, Measured]:
    """Return the decisions in decoded JSON. Raises ValueError for anything of another form."""
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError("not a file of choices")
    rows = data.get("choices")
    if not isinstance(rows, dict):
        raise ValueError("not a file of choices")
    return {key: _measured(row) for key, row in rows.items()}


def _measured(row: Any) -> Measured:
    if not isinstance(row, dict) or not isinstance(row.get("times"), dict):
        raise ValueError("not a choice")
    times = row["times"]
    for seconds in times.values():
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise ValueError("not a time")
        if not math.isfinite(seconds) or seconds <= 0:
            raise ValueError("not a time")
    if row.get("chosen") not in times:
        raise ValueError("a choice that was not timed")
    return Measured(row["chosen"], {c: float(t) for c, t in times.items()})


@functools.cache
def book(root: Path | None, machine: str) -> Book:
    """Return the process's only book of this place and machine."""
    return Book(root, machine)
