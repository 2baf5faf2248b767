"""runtime > group > entry: from the text ``"module:function"`` to the function.

Only modules under allowed prefixes are imported: the text may come from a file.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from leptonc.errors import WorkerError

ALLOWED = ("leptonc.",)
_FORM = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def check_entry(entry: str, allowed: Sequence[str] = ALLOWED) -> tuple[str, str]:
    """Return the module's and the function's name.

    Args:
        entry: ``"module:function"``.
        allowed: prefixes of modules; one that ends in a dot allows everything below it.

    Raises:
        WorkerError: the text has another form, or its module is not allowed.
    """
    if not _FORM.fullmatch(entry):
        raise WorkerError(f"entry {entry!r}: expected 'package.module:function'")
    module, _, function = entry.partition(":")
    if not any(module == p.rstrip(".") or module.startswith(_dotted(p)) for p in allowed):
        raise WorkerError(
            f"entry {entry!r}: module {module} is not below {', '.join(allowed)}: name its prefix "
            "in allowed= if you trust it"
        )
    return module, function


def resolve_entry(entry: str, allowed: Sequence[str] = ALLOWED) -> Callable[..., Any]:
    """Return the function that ``entry`` names.

    Raises:
        WorkerError: see :func:`check_entry`; or the module has no such function.
    """
    module, function = check_entry(entry, allowed)
    found = getattr(importlib.import_module(module), function, None)
    if not callable(found):
        raise WorkerError(f"entry {entry!r}: module {module} has no function {function}")
    return found


def _dotted(prefix: str) -> str:
    return prefix if prefix.endswith(".") else f"{prefix}."
