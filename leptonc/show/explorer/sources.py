"""show > explorer > sources: the lines of the user's files that ops come from."""

from __future__ import annotations

import linecache
from collections.abc import Mapping, Sequence
from typing import Any

MARGIN = 25  # lines shown above and below a line that made an op


def excerpts(files: Mapping[str, str], used: Sequence[str]) -> dict[str, Any]:
    """Return the text around the lines in ``used``, each ``name.py:12``, by file.

    ``files`` tells where a line's file lies. A file that cannot be read is left out. Each entry
    has the file's path and ``lines``: pairs of line number (from 1) and text.
    """
    wanted: dict[str, set[int]] = {}
    paths: dict[str, str] = {}
    for line in used:
        if (path := files.get(line)) is not None:
            name, _, number = line.rpartition(":")
            paths[name] = path
            wanted.setdefault(name, set()).add(int(number))
    found: dict[str, Any] = {}
    for name, numbers in wanted.items():
        text = linecache.getlines(paths[name])
        near = sorted({
            k
            for n in numbers
            for k in range(max(1, n - MARGIN), min(len(text), n + MARGIN) + 1)
        })  # fmt: skip
        if near:
            found[name] = {"path": paths[name], "lines": [[k, text[k - 1].rstrip()] for k in near]}
    return found
