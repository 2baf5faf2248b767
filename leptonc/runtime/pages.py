"""runtime > pages: what was read of a file once does not stay resident for good.

Capturing a model and checking a result run code of torch that calls of the compiled network never
come to, and a stored program has operands to be tried on. The system has such pages on disk and
takes them when it needs room, but until then they count as this process's. So they are unmapped:
whoever needs one again finds it in the system's cache. Elsewhere than on Linux nothing is done.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

_PRESENT, _OF_FILE = np.uint64(1 << 63), np.uint64(1 << 61)  # the kernel's pagemap.rst
_LEAST = 1 << 20  # bytes of a mapping that is worth a look
_PROC = Path("/proc/self")
Span = tuple[int, int]  # first address of a mapping, and the first one behind it


@contextlib.contextmanager
def borrowed() -> Iterator[None]:
    """Let go, at the end of the block, of pages of libraries' code that came in since it began."""
    before = _resident()
    try:
        yield
    finally:
        for span, now in _resident().items():
            known = before.get(span)
            _drop(span[0], now if known is None else now & ~known)


def _resident() -> dict[Span, np.ndarray]:
    """Return which pages of each mapping of code or constants this process has: bool[pages]."""
    try:
        with open(_PROC / "pagemap", "rb", buffering=0) as file:
            return {span: _pages(file.fileno(), span) for span in _code()}
    except OSError:
        return {}


def _pages(pagemap: int, span: Span) -> np.ndarray:
    """Return which pages of ``span`` are there and as the file has them: bool[pages]."""
    first, count = span[0] // mmap.PAGESIZE, (span[1] - span[0]) // mmap.PAGESIZE
    words = np.frombuffer(os.pread(pagemap, 8 * count, 8 * first), np.uint64)
    wanted = _PRESENT | _OF_FILE
    found = np.zeros(count, bool)
    found[: len(words)] = words & wanted == wanted
    return found


def _code() -> Iterator[Span]:
    """Yield the large mappings of shared libraries that nobody may write to."""
    for line in (_PROC / "maps").read_text().splitlines():
        where, access, _, _, _, *path = line.split(maxsplit=5)
        if path and ".so" in path[0] and access in ("r-xp", "r--p"):
            start, end = (int(text, 16) for text in where.split("-"))
            if end - start >= _LEAST:
                yield start, end


def let_go(array: np.ndarray) -> None:
    """Let go of the pages that lie wholly in ``array``, if it is part of a mapped file."""
    whole = array
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    block = whole.base.obj if isinstance(whole.base, memoryview) else whole.base
    if not isinstance(block, mmap.mmap) or not memoryview(block).readonly:
        return
    offset = array.ctypes.data - whole.ctypes.data
    first = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
    size = (offset + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - first
    if size > 0 and hasattr(mmap, "MADV_DONTNEED"):
        with contextlib.suppress(OSError):
            block.madvise(mmap.MADV_DONTNEED, first, size)


def _drop(start: int, pages: np.ndarray) -> None:
    """Unmap the pages that are True, the first of which would be at ``start``."""
    edges = np.flatnonzero(np.diff(pages, prepend=False, append=False))
    for first, behind in edges.reshape(-1, 2).tolist():
        size = (behind - first) * mmap.PAGESIZE
        _madvise()(start + first * mmap.PAGESIZE, size, mmap.MADV_DONTNEED)


@functools.cache
def _madvise() -> Callable[[int, int, int], object]:
    """Return the C library's ``madvise``; where it refuses, pages stay, which is no harm."""
    found = ctypes.CDLL(None).madvise
    found.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    return found
