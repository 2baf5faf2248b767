"""numba_cpu > kernels > amx_permission: ask the system for Intel's tile registers (AMX).

A tile register is 1 KiB. Linux saves them only for processes that asked once, because they make the
place where a signal handler finds the registers larger; who touches one without is killed.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import sys

_ARCH_PRCTL, _REQUEST, _TILE_DATA = 158, 0x1023, 18  # x86-64; ARCH_REQ_XCOMP_PERM; XTILEDATA


@functools.cache
def permitted() -> bool:
    """Return whether this process and all its threads may use tile registers from now on."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    try:
        return ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST, _TILE_DATA) == 0
    except (OSError, AttributeError):  # no such function in this C library
        return False
