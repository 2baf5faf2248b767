"""numba_cpu > huge_pages: weights that are read from memory once a call, on pages of 2 MiB.

A decoder's step is as fast as its matrices come from memory, and where they come from thousands of
small pages, each end of one stops the processor's own prefetch and each start asks the tables of
pages. The matrices are too small to be mapped one by one, and lie where the heap put them. Linux
(6.1 or later) puts pages together that are in use already; what holds them does not change.
"""

from __future__ import annotations

import ctypes
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

BLOCK = 2 << 20  # bytes of a huge page
LEAST = 16 << 20  # bytes of weights from which it is worth asking: fewer may stay in a cache
_SHARE = 7 / 8  # of a block that must be weights: the rest of it becomes resident, too
_COLLAPSE = 25  # MADV_COLLAPSE of madvise(2)
_PRIVATE = ("rw-p", "0")  # permissions and inode of memory that belongs to no file
Span = tuple[int, int]  # first address, address behind the last


def gather(arrays: Iterable[np.ndarray]) -> int:
    """Put the pages of ``arrays`` together where that is possible; return the blocks of 2 MiB.

    Nothing is asked for where the arrays together are less than LEAST bytes.
    """
    spans = [(a.ctypes.data, a.ctypes.data + a.nbytes) for a in arrays]
    if sys.platform != "linux" or sum(end - start for start, end in spans) < LEAST:
        return 0
    try:
        mappings = anonymous(Path("/proc/self/maps").read_text())
    except OSError:
        return 0
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return sum(advise(start, BLOCK, _COLLAPSE) == 0 for start in blocks(spans, mappings))


def blocks(spans: Sequence[Span], mappings: Sequence[Span]) -> list[int]:
    """Return the addresses of the blocks inside ``mappings`` that ``spans`` fill nearly.

    Neither the spans nor the mappings overlap each other.
    """
    filled: Counter[int] = Counter()
    for start, end in spans:
        for block in range(start - start % BLOCK, end, BLOCK):
            filled[block] += min(end, block + BLOCK) - max(start, block)
    full = sorted(block for block, size in filled.items() if size >= _SHARE * BLOCK)
    return [b for b in full if any(s <= b and b + BLOCK <= e for s, e in mappings)]


def anonymous(maps: str) -> list[Span]:
    """Return the private memory without a file that ``maps`` (of proc(5)) lists."""
    found: list[Span] = []
    for line in maps.splitlines():
        span, permissions, _, _, inode, *_ = line.split()
        if (permissions, inode) == _PRIVATE:
            start, end = (int(x, 16) for x in span.split("-"))
            found.append((start, end))
    return found
