"""runtime > slabs: weights side by side on huge pages.

A network reads all its weights in every call. On pages of 4 KiB that is more pages than a processor
keeps addresses of, so each is looked up anew, and what the processor asks for ahead ends with every
page. Which physical pages a process got decides besides what meets in a cache: the same program
took a few percent more or less from process to process. On huge pages neither happens.

The system gives huge pages only to memory that covers them whole, and most weights are smaller than
two. So they are copied side by side into slabs, each of which lives as long as an array in it.
"""

from __future__ import annotations

import contextlib
import mmap

import numpy as np

HUGE = 2**21  # bytes of a huge page, and of the weights from which on they are worth one
SLAB = 16 * HUGE  # bytes that are mapped at a time; memory is taken as they are written
FEWEST, MOST = 2**16, 8 * HUGE  # bytes of an array to copy; larger ones have their own huge pages
LINE = 64  # bytes of a cache line, at which an array starts; as many behind it are zero


class Slabs:
    """Memory of one network's weights; ``expected``: bytes of them that are known to come."""

    def __init__(self, expected: int = 0) -> None:
        self._seen, self._free = expected, np.empty(0, np.uint8)

    def placed(self, array: np.ndarray) -> np.ndarray:
        """Return ``array`` on huge pages if it is one of many, else as it is.

        Args:
            array: contiguous, of any type and shape; the copy is at a cache line, with a line of
                zeros behind it.
        """
        if not FEWEST <= array.nbytes < MOST or not hasattr(mmap, "MADV_HUGEPAGE"):
            return array
        self._seen += array.nbytes
        if self._seen < HUGE:  # a small network would pay a whole page for little
            return array
        copy = self._room(array.nbytes).view(array.dtype).reshape(array.shape)
        copy[...] = array
        return copy

    def _room(self, nbytes: int) -> np.ndarray:
        """Return zero bytes of a slab, a new one where the last has not enough left."""
        taken = -(-nbytes // LINE) * LINE + LINE
        if taken > len(self._free):
            self._free = _slab()
        room, self._free = self._free[:nbytes], self._free[taken:]
        return room


def _slab() -> np.ndarray:
    """Return ``SLAB`` zero bytes that begin with a huge page, for which the system is asked."""
    block = mmap.mmap(-1, SLAB + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        block.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(block, np.uint8)
    start = -whole.ctypes.data % HUGE
    return whole[start : start + SLAB]
