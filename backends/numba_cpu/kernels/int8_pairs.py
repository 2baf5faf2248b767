"""numba_cpu > kernels > int8_pairs: which sums of products stay inside int16, proven from weights.

The form ``pairs`` of :mod:`int8_dot` adds the products of two neighbouring bytes in int16, where it
saturates. Weights are constants and codes have a known range, so the extremes of every pair are
known. Of a pair that could leave int16 the second weight is taken out of the panel and multiplied
apart, in a step of its own: one product alone always fits. Nothing is taken out where codes are of
7 bits, or weights small enough (``Quantize(reduce_range=True)``); of weights as they come, about
one step of depth in ten.

Where the sums of ``GROUP`` steps stay inside int16, too, they are added there and made int32 once:
five instructions for two steps instead of six, three of them multiplications instead of four. Of a
group that could leave int16 the pair of its last step is taken out. A panel is multiplied in groups
if that costs less with all that has then to be taken out.

What was taken out is one array of bytes: for each panel of each group a header of three int64,
bytes from the header to the panel's entries, their number, and the steps that are added in int16 (1
or GROUP), then the entries: two int64, the tap and the byte of its depth, and ``i8[PANEL][4]``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leptonc.backends.numba_cpu.kernels.microkernel import PANEL
from leptonc.backends.numba_cpu.kernels.pack import aligned_empty

LEAST, MOST = -(1 << 15), (1 << 15) - 1
HEADER, PLACE = 24, 16  # bytes of a header, of the place before an entry's weights
ENTRY = PLACE + 4 * PANEL
GROUP = 2  # steps of one tap, from an even one on
# Cycles of a row with a panel of two registers: a step, one of a group, an entry with its address.
_STEP, _GROUPED, _APART = 2.2, 1.5, 3.2


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

    ``codes`` are unsigned.
    """
    return _leaves(*_extremes(weights, codes))


def saturating_groups(weights: np.ndarray, codes: Range) -> np.ndarray:
    """Return which groups' sums could leave int16 where their pairs do not.

    ``weights: i8[..., steps, n, 4]``; the result is ``bool[..., groups, n, 2]``. A last step that
    is no group is none.
    """
    whole = weights.shape[-3] // GROUP
    cut = weights[..., : whole * GROUP, :, :]
    cut = cut.reshape(*weights.shape[:-3], whole, GROUP, *weights.shape[-2:])
    return _leaves(*(at.sum(-3) for at in _extremes(cut, codes)))


def _extremes(weights: np.ndarray, codes: Range) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the largest sum of each pair.

    The extremes of a product are those at the ends of the range; two codes of a pair take any
    values of it, so the extremes of a pair are the sums of both products'.
    """
    ends = weights.astype(np.int32)[..., None] * np.array([codes.low, codes.high], np.int32)
    least, most = (
        at.reshape(*weights.shape[:-1], weights.shape[-1] // 2, 2).sum(-1)
        for at in (ends.min(-1), ends.max(-1))
    )
    return least, most


def _leaves(least: np.ndarray, most: np.ndarray) -> np.ndarray:
    return (least < LEAST) | (most > MOST)


@dataclass(frozen=True)
class Apart:
    """Panels in which no sum saturates, and what was taken out of them (see the module)."""

    panels: np.ndarray
    extra: np.ndarray


def taken_apart(panels: np.ndarray, codes: Range) -> Apart:
    """Return panels ``i8[groups, panels, taps, steps, PANEL, 4]`` for the form ``pairs``.

    ``codes``: those that may stand in A, unsigned, the zero point of padding among them.
    """
    out = np.zeros_like(panels)
    out[..., 1::2] = np.where(saturating(panels, codes), panels[..., 1::2], 0)
    more = _of_groups(panels - out, codes)
    grouped = _saves(out, more)
    more[~grouped] = 0
    kept = aligned_empty(panels.shape, np.int8)
    kept[...] = panels - out - more
    return Apart(kept, _listed((out, more), grouped))


def _of_groups(kept: np.ndarray, codes: Range) -> np.ndarray:
    """Return what to take out of panels in which no pair saturates, lest a group does."""
    bad = saturating_groups(kept, codes)
    more = np.zeros_like(kept)
    last = slice(GROUP - 1, bad.shape[-3] * GROUP, GROUP)
    more[..., last, :, :] = np.where(bad.repeat(2, -1), kept[..., last, :, :], 0)
    return more


def _saves(out: np.ndarray, more: np.ndarray) -> np.ndarray:
    """Return which panels cost less in groups: ``bool[groups, panels]``."""
    steps, entries = out.shape[2] * out.shape[3], more.any((-1, -2)).sum((-1, -2))
    return (_GROUPED - _STEP) * steps + _APART * entries < 0


def _listed(parts: tuple[np.ndarray, ...], grouped: np.ndarray) -> np.ndarray:
    """Return the headers of all panels and the entries of what ``parts`` hold."""
    panels = grouped.size
    found = [np.argwhere(part.any((-1, -2))) for part in parts]
    weights = [part[tuple(at.T)] for part, at in zip(parts, found, strict=True)]
    places, taken = np.concatenate(found), np.concatenate(weights)
    numbers = places[:, 0] * grouped.shape[1] + places[:, 1]
    order = np.argsort(numbers, kind="stable")
    of_panel = np.bincount(numbers, minlength=panels)
    first = HEADER * panels
    extra = aligned_empty((first + ENTRY * len(places),), np.uint8)
    headers = extra[:first].view(np.int64).reshape(-1, 3)
    starts = first + ENTRY * (np.cumsum(of_panel) - of_panel)
    headers[:, 0] = starts - HEADER * np.arange(panels)
    headers[:, 1] = of_panel
    headers[:, 2] = np.where(grouped.reshape(-1), GROUP, 1)
    entries = extra[first:].reshape(-1, ENTRY)
    at = np.ascontiguousarray(np.stack([places[:, 2], 4 * places[:, 3]], 1).astype(np.int64))
    entries[:, :PLACE] = at[order].view(np.uint8).reshape(-1, PLACE)
    entries[:, PLACE:] = taken[order].reshape(-1, 4 * PANEL).view(np.uint8)
    return extra


def entries_in(nbytes: int, panels: int) -> int:
    """Return how many entries an array of ``nbytes`` holds for the panels of all groups."""
    return (nbytes - HEADER * panels) // ENTRY
