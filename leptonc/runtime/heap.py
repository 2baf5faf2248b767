"""runtime > heap: freed memory goes back to the system at once, not when the C library likes."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable


def trim() -> None:
    """Give back what is free, where the C library can (glibc's ``malloc_trim``)."""
    _trimmer()(0)


@functools.cache
def _trimmer() -> Callable[[int], object]:
    try:
        return ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):
        return lambda _: None
