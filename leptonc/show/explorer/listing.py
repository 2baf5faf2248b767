"""show > explorer > listing: which lines of the emitted module belong to which unit."""

from __future__ import annotations

import re

_UNIT = re.compile(r"\s*# unit (\d+): ")


def program_lines(source: str) -> dict[int, list[int]]:
    """Return [first, last] line (0-based, last one included) of every unit in an emitted module."""
    found: dict[int, list[int]] = {}
    unit = -1
    for i, line in enumerate(source.split("\n")):
        if m := _UNIT.match(line):
            unit = int(m[1])
            found.setdefault(unit, [i, i])
        elif unit >= 0 and line.strip():
            found[unit][1] = i
    return found
