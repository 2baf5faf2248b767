"""What every topic of the importer table shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from leptonc.capture.context import Args, Context

Importer: TypeAlias = "Callable[[Context, Args], Any]"


def named(importer: Importer, *targets: str) -> Mapping[str, Importer]:
    """Return a table that gives every target (``conv2d.default``) the same importer."""
    return {f"aten.{t}": importer for t in targets}


def first(c: Context, a: Args) -> Any:
    """Return the first argument as it is: ops that change no element."""
    return next(iter(a.given.values()))
