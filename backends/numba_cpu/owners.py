"""numba_cpu > owners: buffers of an arena moved to where their writers wrote last. Pure arithmetic.

Threads share the rows of a result, each writes a stretch of its memory. Lines that another core
wrote last come from that core's cache first, which takes long where the two share none: a layer
that writes such lines only may take three times as long. Where a buffer lies decides whose they
are. So buffers move within the gaps that a plan leaves, one after another, to where fewest bytes
change hands: mostly to where their middle is that of the buffers before them. The arena keeps its
size. A call follows another, so the first buffers lie on what the last ones left.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

ALIGN = 64  # bytes: what offsets are multiples of
GRAINS = 256  # parts of an arena that are told apart
SWEEPS = 3  # through all buffers; more gain little
NOBODY = -1

Offsets = tuple[int, ...]
T = TypeVar("T", int, np.ndarray)


@dataclass(frozen=True, slots=True)
class Claim:
    """A buffer of ``bytes`` that is written at step ``first`` and read last at step ``last``.

    ``owner``: the thread that writes it, or None if all write equal parts, one behind the other.
    ``fixed``: whether it has to stay where it is.
    """

    bytes: int
    first: int
    last: int
    owner: int | None = None
    fixed: bool = False


def settled(claims: Sequence[Claim], offsets: Offsets, total: int, threads: int) -> Offsets:
    """Return offsets within ``total`` bytes with at most as many :func:`foreign` bytes.

    ``offsets``: of a plan in which no two buffers overlap that live at one step; nor do they then.
    """
    best, least = offsets, foreign(claims, offsets, total, threads)
    for _ in range(SWEEPS):
        offsets = tuple(_sweep(claims, offsets, total, threads))
        bytes_now = foreign(claims, offsets, total, threads)
        if bytes_now >= least:
            break
        best, least = offsets, bytes_now
    return best


def foreign(claims: Sequence[Claim], offsets: Offsets, total: int, threads: int) -> int:
    """Return about how many bytes a call writes that another thread wrote last."""
    grain = _grain(total)
    rows = [_row(c, o, grain, threads) for c, o in zip(claims, offsets, strict=True)]
    order, count = _in_order(claims), 0
    owner = _last_of([rows[i] for i in order])
    for i in order:
        count += int(np.count_nonzero((rows[i] >= 0) & (owner >= 0) & (owner != rows[i])))
        owner = np.where(rows[i] >= 0, rows[i], owner)
    return int(count * grain)


def _grain(total: int) -> float:
    return max(total / GRAINS, ALIGN)


def _in_order(claims: Sequence[Claim]) -> list[int]:
    return sorted(range(len(claims)), key=lambda i: (claims[i].first, i))


def _bounds(claim: Claim, offset: T, threads: int) -> list[tuple[int, T]]:
    """Return whose parts of a buffer begin where: threads and offsets, the end's last."""
    if claim.owner is not None:
        return [(claim.owner, offset), (NOBODY, offset + claim.bytes)]
    parts = [(t, offset + claim.bytes * t // threads) for t in range(threads)]
    return [*parts, (NOBODY, offset + claim.bytes)]


def _row(claim: Claim, offset: int, grain: float, threads: int) -> np.ndarray:
    """Return who writes each grain: ``i16[GRAINS]``, ``NOBODY`` beside the buffer."""
    row = np.full(GRAINS, NOBODY, np.int16)
    bounds = _bounds(claim, offset, threads)
    for (owner, begin), (_, end) in itertools.pairwise(bounds):
        row[round(begin / grain) : round(end / grain)] = owner
    return row


def _last_of(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Return who writes each grain last."""
    owner = np.full(GRAINS, NOBODY, np.int16)
    for row in rows:
        owner = np.where(row >= 0, row, owner)
    return owner


def _sweep(claims: Sequence[Claim], offsets: Offsets, total: int, threads: int) -> list[int]:
    """Return the offsets after each buffer had its turn, in the order in which they are written."""
    grain, order, made = _grain(total), _in_order(claims), [*offsets]
    rows = [_row(c, o, grain, threads) for c, o in zip(claims, offsets, strict=True)]
    later, following = dict[int, np.ndarray](), _last_of([rows[i] for i in reversed(order)])
    for i in reversed(order):
        later[i] = following
        following = np.where(rows[i] >= 0, rows[i], following)
    owner = _last_of([rows[i] for i in order])
    first, last = (np.array([getattr(c, n) for c in claims]) for n in ("first", "last"))
    for i in order:
        claim = claims[i]
        if not claim.fixed and claim.bytes >= grain:
            beside = np.flatnonzero((first <= claim.last) & (last >= claim.first))
            taken = sorted((made[j], made[j] + claims[j].bytes) for j in beside.tolist() if j != i)
            costs = _costs(owner, later[i], threads)
            made[i] = _best(claim, made[i], taken, costs, total, grain, threads)
            rows[i] = _row(claim, made[i], grain, threads)
        owner = np.where(rows[i] >= 0, rows[i], owner)
    return made


def _costs(before: np.ndarray, after: np.ndarray, threads: int) -> list[np.ndarray]:
    """Return, for each thread, how many grains up to one change hands if that thread has them."""
    without = (before >= 0) & (after >= 0) & (before != after)
    found = []
    for t in range(threads):
        changes = ((before >= 0) & (before != t)).astype(np.int64)
        changes += ((after >= 0) & (after != t)).astype(np.int64) - without
        found.append(np.concatenate([[0], np.cumsum(changes)]))
    return found


def _best(
    claim: Claim,
    now: int,
    taken: Sequence[tuple[int, int]],
    costs: Sequence[np.ndarray],
    total: int,
    grain: float,
    threads: int,
) -> int:
    """Return the offset beside what is ``taken`` that costs least, ``now`` if none costs less."""
    size, end, places = -(-claim.bytes // ALIGN) * ALIGN, 0, [np.array([now])]
    for begin, stop in [*taken, (total, total)]:
        most = (begin - size) // ALIGN * ALIGN
        if most >= end:
            places.append(np.arange(end, most + 1, max(int(grain) // ALIGN, 1) * ALIGN))
            places.append(np.array([most]))
        end = max(end, -(-stop // ALIGN) * ALIGN)
    offsets = np.concatenate(places)
    bounds = [(t, np.rint(at / grain).astype(int)) for t, at in _bounds(claim, offsets, threads)]
    cost = sum(
        costs[t][end] - costs[t][begin] for (t, begin), (_, end) in itertools.pairwise(bounds)
    )
    return int(offsets[int(np.argmin(cost))])
