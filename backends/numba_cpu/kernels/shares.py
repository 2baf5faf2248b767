"""numba_cpu > kernels > shares: which part of its work a kernel does on one of its threads.

Threads have equal shares unless ``cuts`` says where each one's begins: the address of ``nt + 1``
words, 0 first and ``ONE`` last. Cores do not all have the same speed, see :mod:`balance`.
"""

from __future__ import annotations

from leptonc.backends.numba_cpu.kernels.base import inline_njit
from leptonc.backends.numba_cpu.kernels.vec import ldi64

ONE = 1 << 20  # the whole of the work


@inline_njit
def share(n, tid, nt, cuts):
    """Return the first of thread ``tid``'s share of ``n`` things and the first behind it."""
    return boundary(n, tid, nt, 0, 1, cuts), boundary(n, tid + 1, nt, 0, 1, cuts)


@inline_njit
def part(n, i, parts, first, each, cuts):
    """Return the bounds of part ``i`` of ``parts`` of ``n`` things, see :func:`boundary`."""
    low = boundary(n, i, parts, first, each, cuts)
    return low, boundary(n, i + 1, parts, first, each, cuts)


@inline_njit
def boundary(n, i, parts, first, each, cuts):
    """Return where part ``i`` of ``parts`` of ``n`` things begins.

    The things belong to the threads from ``first`` on, every part to ``each`` of them, which
    divide it among themselves: parts of parts are shares of the whole. No part is empty if there
    are as many things.
    """
    if cuts == 0 or n < parts:
        return n * i // parts
    # One thing each, and of all others as the cuts say.
    low, high = ldi64(cuts, first), ldi64(cuts, first + parts * each)
    whole = high - low
    return i + ((n - parts) * (ldi64(cuts, first + i * each) - low) + whole // 2) // whole
