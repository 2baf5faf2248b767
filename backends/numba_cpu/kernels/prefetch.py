"""numba_cpu > kernels > prefetch: kernels ask for cache lines before they need them."""

from __future__ import annotations

from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels.vectype import pointer, prefetch


def _code(level: int, write: bool):
    """Return signature and code of an intrinsic that asks for the line at an address."""

    def code(context, b, sig, args):
        prefetch(b, pointer(b, args[0]), level, write)
        return context.get_dummy_value()

    return types.void(types.int64), code


@intrinsic
def ask_soon(typingctx, address):
    """Ask for the cache line at ``address``, which is read soon; any address is allowed."""
    return _code(1, write=False)


@intrinsic
def ask_later(typingctx, address):
    """Ask for the cache line at ``address``, which is read later; any address is allowed."""
    return _code(2, write=False)


@intrinsic
def ask_to_write(typingctx, address):
    """Ask for the cache line at ``address``, which will be written; any address is allowed."""
    return _code(1, write=True)
