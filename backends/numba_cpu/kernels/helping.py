"""numba_cpu > kernels > helping: what runs in the processes that :mod:`ahead` starts.

One new interpreter imports numba and the kernels' modules, a quarter of a second, then forks the
helpers. A helper reads orders from a socket, a line each, leaves machine code in the cache, and
answers with a byte when it begins and when it is done with an order. When the input of the first
process ends, it ends the helpers and itself.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from leptonc.backends.numba_cpu.kernels.base import KERNELS, Native

Recipe = tuple[str, str, Sequence[Any]]


def supervise(ends: Sequence[int], modules: Iterable[str]) -> None:
    """Fork a helper for each socket, and end them when the standard input ends.

    Args:
        ends: file descriptors of the sockets.
        modules: what is imported before.
    """
    for module in modules:
        importlib.import_module(module)
    helpers = [_fork(end, ends) for end in ends]
    for end in ends:
        os.close(end)
    sys.stdin.read()
    for helper in helpers:
        os.kill(helper, signal.SIGKILL)  # all that was asked for is done, or nobody wants it
    for helper in helpers:
        os.waitpid(helper, 0)
    os._exit(0)  # nothing here is worth a tenth of a second of the interpreter's own end


def _fork(own: int, ends: Iterable[int]) -> int:
    """Return the process that works for whoever holds the other end of ``own``."""
    helper = os.fork()
    if helper == 0:
        try:
            for end in ends:
                if end != own:  # a socket is closed when nobody has it open any more
                    os.close(end)
            with socket.socket(fileno=own) as orders:
                serve(orders)
        finally:
            os._exit(0)
    return helper


def serve(orders: socket.socket) -> None:
    """Compile the kernels that are asked for until there are no more orders."""
    orders.sendall(b".")
    with orders.makefile("r") as lines:
        for line in lines:
            found = _found(*json.loads(line))
            if found is not None:
                found.store()
            orders.sendall(b".")


def order(kernel: Native) -> str:
    """Return the line that asks for ``kernel``."""
    return json.dumps([kernel.module, kernel.name, kernel.recipe]) + "\n"


def _found(module: str, name: str, recipe: Recipe | None) -> Native | None:
    """Return a kernel; None for one that only its asker has, as a test does."""
    importlib.import_module(module)
    if recipe is None:
        return KERNELS.find(module, name)
    maker, function, params = recipe
    return getattr(importlib.import_module(maker), function)(*params)
