"""numba_cpu > kernels > int8_pairs: which pairs of products stay inside int16, proven from weights.

The form ``pairs`` of :mod:`int8_dot` adds the products of two neighbouring bytes in int16, where it
saturates. Weights are constants and codes have a known range, so the extremes of every pair are
known. Of a pair that could leave int16 the second weight is taken out of the panel and multiplied
apart, in a step of its own: one product alone always fits. Nothing is taken out where codes are of
7 bits; of weights as they come, about one step of depth in ten.

What was taken out is one array of bytes: for each panel of each group a header of two int64, bytes
from the header to the panel's entries and their number, then the entries: two int64, the tap and
the byte of its depth, and ``i8[PANEL][4]``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leptonc.backends.numba_cpu.kernels.microkernel import PANEL
from leptonc.backends.numba_cpu.kernels.pack import aligned_empty

LEAST, MOST = -(1 << 15), (1 << 15) - 1
HEADER, PLACE = 16, 16  # bytes of a header, of the place before an entry's weights
ENTRY = PLACE + 4 * PANEL


@dataclass(frozen=True)
class Range:
    """Codes from ``low`` to ``high``."""

    low: int = 0
    high: int = 255

    def moved(self, by: int) -> Range:
        """Return the range of codes that are all moved by a number."""
        return Range(self.low + by, self.high + by)

    def joined(self, other: Range) -> Range:
        """Return the smallest range that holds both."""
        return Range(min(self.low, other.low), max(self.high, other.high))


def saturating(weights: np.ndarray, codes: Range) -> np.ndarray:
    """Return which pairs of ``weights: i8[..., 2p]`` could leave int16, ``bool[..., p]``.

    ``codes`` are unsigned. The extremes of a product are those at the ends of the range; two codes
    of a pair take any values of it, so the extremes of a pair are the sums of both products'.
    """
    ends = weights.astype(np.int32)[..., None] * np.array([codes.low, codes.high], np.int32)
    least, most = (
        at.reshape(*weights.shape[:-1], -1, 2).sum(-1) for at in (ends.min(-1), ends.max(-1))
    )
    return (least < LEAST) | (most > MOST)


@dataclass(frozen=True)
class Apart:
    """Panels in which no pair saturates, and what was taken out of them (see the module)."""

    panels: np.ndarray
    extra: np.ndarray


def taken_apart(panels: np.ndarray, codes: Range) -> Apart:
    """Return panels ``i8[groups, panels, taps, steps, PANEL, 4]`` for the form ``pairs``.

    ``codes``: those that may stand in A, unsigned, the zero point of padding among them.
    """
    groups, count = panels.shape[:2]
    bad = saturating(panels, codes)
    out = np.zeros_like(panels)
    out[..., 1::2] = np.where(bad, panels[..., 1::2], 0)
    kept = aligned_empty(panels.shape, np.int8)
    kept[...] = panels - out
    places = np.argwhere(bad.any((-1, -2)))  # in order of panels
    of_panel = np.bincount(places[:, 0] * count + places[:, 1], minlength=groups * count)
    first = HEADER * groups * count
    extra = aligned_empty((first + ENTRY * len(places),), np.uint8)
    headers = extra[:first].view(np.int64).reshape(-1, 2)
    starts = first + ENTRY * (np.cumsum(of_panel) - of_panel)
    headers[:, 0] = starts - HEADER * np.arange(groups * count)
    headers[:, 1] = of_panel
    entries = extra[first:].reshape(-1, ENTRY)
    at = np.ascontiguousarray(np.stack([places[:, 2], 4 * places[:, 3]], 1).astype(np.int64))
    entries[:, :PLACE] = at.view(np.uint8).reshape(-1, PLACE)
    entries[:, PLACE:] = out[tuple(places.T)].reshape(-1, 4 * PANEL).view(np.uint8)
    return Apart(kept, extra)


def entries_in(nbytes: int, panels: int) -> int:
    """Return how many entries an array of ``nbytes`` holds for the panels of all groups."""
    return (nbytes - HEADER * panels) // ENTRY
