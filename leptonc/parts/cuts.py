"""parts > cuts: where to cut a row of blocks so that the slowest part is as fast as possible.

Part ``d`` of the blocks ``[j, i)`` takes ``(work[j] + ... + work[i-1]) / speeds[d]`` seconds, plus
``arrive[j]`` for the values that cross the cut before block ``j``. Dynamic programming over the
cuts is exact: O(parts * blocks^2) additions, in numpy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_COLUMNS = 256  # cuts looked at together: their table stays in the caches


def bottleneck(work: Sequence[float], arrive: Sequence[float], speeds: Sequence[float]) -> float:
    """Return the seconds of the slowest part of the best cuts; see :func:`best_cuts`."""
    return _least(_prefix(work), np.asarray(arrive, float), speeds)[0]


def best_cuts(
    work: Sequence[float], arrive: Sequence[float], speeds: Sequence[float]
) -> tuple[int, ...]:
    """Return offsets ``0 = c[0] < c[1] < ... < c[n] = blocks``: part ``d`` is ``c[d]:c[d+1]``.

    The slowest part is as fast as it can be; of all cuts that achieve it, these move the fewest
    seconds of values in total.

    Args:
        work: seconds of each block at speed 1.
        arrive: seconds to move what crosses the cut before each block; ``arrive[0]`` is for what
            the first part is given.
        speeds: how fast the device of each part is.

    Raises:
        ValueError: more parts than blocks, or no part.
    """
    if not 1 <= len(speeds) <= len(work):
        raise ValueError(f"{len(work)} blocks do not make {len(speeds)} parts")
    prefix, moved = _prefix(work), np.asarray(arrive, float)
    limit, _ = _least(prefix, moved, speeds)
    return _fewest_moved(prefix, moved, speeds, limit * (1 + 1e-12))


def _prefix(work: Sequence[float]) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(np.asarray(work, float))])


def _least(
    prefix: np.ndarray, arrive: np.ndarray, speeds: Sequence[float]
) -> tuple[float, np.ndarray]:
    """Return the least bottleneck, and that of every prefix of the blocks."""
    best = np.full(len(prefix), np.inf)
    best[0] = 0.0
    for speed in speeds:
        new = np.full(len(prefix), np.inf)
        for low, high in _chunks(len(prefix)):
            times = _times(prefix, arrive, speed, low, high)
            new[low:high] = np.maximum(best[: high - 1, None], times).min(0)
        best = new
    return float(best[-1]), best


def _fewest_moved(
    prefix: np.ndarray, arrive: np.ndarray, speeds: Sequence[float], limit: float
) -> tuple[int, ...]:
    """Return the cuts of least total ``arrive`` among those whose parts all stay in ``limit``."""
    best = np.full(len(prefix), np.inf)
    best[0] = 0.0
    froms: list[np.ndarray] = []
    for speed in speeds:
        new, came = np.full(len(prefix), np.inf), np.zeros(len(prefix), int)
        for low, high in _chunks(len(prefix)):
            times = _times(prefix, arrive, speed, low, high)
            moved = (best[: high - 1] + arrive[: high - 1])[:, None]
            total = np.where(times <= limit, moved, np.inf)
            came[low:high] = at = total.argmin(0)
            new[low:high] = total[at, np.arange(high - low)]
        best = new
        froms.append(came)
    cuts = [len(prefix) - 1]
    for came in reversed(froms):
        cuts.append(int(came[cuts[-1]]))
    return tuple(reversed(cuts))


def _chunks(count: int) -> list[tuple[int, int]]:
    """Return the ends of parts, from 1 on, in runs."""
    return [(low, min(low + _COLUMNS, count)) for low in range(1, count, _COLUMNS)]


def _times(prefix: np.ndarray, arrive: np.ndarray, speed: float, low: int, high: int) -> np.ndarray:
    """Return the seconds of parts ``[j, i)`` at ``[j, i - low]``; infinite where ``j >= i``."""
    starts = prefix[: high - 1, None]
    times = (prefix[None, low:high] - starts) / speed + arrive[: high - 1, None]
    empty = np.arange(high - 1)[:, None] >= np.arange(low, high)[None, :]
    times[empty] = np.inf
    return times
