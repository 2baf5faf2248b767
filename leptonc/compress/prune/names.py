"""compress > prune > names: patterns of module paths, and what a wrong one probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from leptonc.compress.recipe import CompressError


def matches(patterns: Iterable[str], names: Iterable[str]) -> bool:
    """Return whether any of ``names`` matches any of ``patterns`` (``*`` as in file names)."""
    names = list(names)
    return any(fnmatchcase(n, p) for p in patterns for n in names)


def check_patterns(patterns: Iterable[str], names: Sequence[str], option: str) -> None:
    """Raise CompressError, which lists close names, for a pattern that matches none of ``names``.

    Args:
        patterns: what the user gave.
        names: every module path there is.
        option: of the recipe, where the patterns were given.
    """
    for pattern in patterns:
        if any(fnmatchcase(n, pattern) for n in names):
            continue
        close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4) or sorted(names)[:3]
        raise CompressError(
            f"Prune({option}): {pattern!r} matches none of the {len(names)} units; "
            f"did you mean {' or '.join(map(repr, close))}?"
        )


def ratio_of(names: Sequence[str], per_unit: Mapping[str, float]) -> float | None:
    """Return the ratio of the first pattern that matches one of ``names``; None without one."""
    return next((r for p, r in per_unit.items() if matches((p,), names)), None)


__all__ = ["check_patterns", "matches", "ratio_of"]
