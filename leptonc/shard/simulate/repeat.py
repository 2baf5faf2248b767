"""Layers that repeat: a program of many equal layers, told by three of them.

Planning and pricing take time per op; a decoder of 105 layers has 2,000 of them, and they say the
same 105 times. Of a run of equal layers the first two and the last are kept; the second stands for
those between.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from leptonc.ir.core import Function, Op, Origin, Value
from leptonc.ir.kinds.data import Constant

_KEPT = 3  # the first two and the last
_LONGEST = 400  # ops of a layer, at most


@dataclass(frozen=True, eq=False)
class Short:
    """A program with few of its equal layers.

    Attributes:
        whole: the program, with each constant right before its first reader.
        function: what is left; the origin of each op is ``#i``, its place in ``function.ops``.
        stands: for each op of ``whole`` the place of the op that tells about it.
    """

    whole: Function
    function: Function
    stands: tuple[int, ...]

    def names(self, i: int) -> str:
        """Return the name of the constant at place ``i``."""
        return self.function.ops[i].results[0].hint


@dataclass(frozen=True)
class Run:
    """Ops ``start`` to ``start + count * period`` are ``count`` equal layers."""

    start: int
    period: int
    count: int


def shorten(fn: Function) -> Short:
    """Return ``fn`` without all but three of its equal layers, or all of it if there are none."""
    whole = _constants_near(fn)
    run = find_run(whole)
    kept, stands = _places(len(whole.ops), run)
    ops = [whole.ops[i] for i in kept]
    renamed = _stand_ins(whole, run)
    made, mapped = list[Op](), dict[Value, Value]()
    for place, op in enumerate(ops):
        operands = tuple(mapped.get(v, v) for v in (renamed.get(v, v) for v in op.operands))
        made.append(dataclasses.replace(op, operands=operands, origin=Origin(f"#{place}")))
    used = {v for op in made for v in op.operands}
    produced = {r for op in made for r in op.results}
    returns = dict.fromkeys(renamed.get(v, v) for v in whole.returns)
    params = tuple(p for p in whole.params if p in used or p in returns or not run)
    results = tuple(v for v in returns if v in produced or v in params)
    short = Function(whole.name, params, tuple(made), results, whole.dims)
    return Short(whole, short, stands)


def place_of(op: Op) -> int:
    """Return the place in the short program of the op that ``op`` was lowered from."""
    return int(op.origin.module[1:])


def _constants_near(fn: Function) -> Function:
    """Return ``fn`` with each constant moved right before its first reader."""
    ops, done = list[Op](), set[Value]()
    for op in fn.ops:
        if isinstance(op.kind, Constant):
            continue
        for v in op.operands:
            maker = fn.producer.get(v)
            if maker is not None and isinstance(maker.kind, Constant) and v not in done:
                ops.append(maker)
                done.add(v)
        ops.append(op)
    left = [op for op in fn.ops if isinstance(op.kind, Constant) and op.result not in done]
    return dataclasses.replace(fn, ops=(*left, *ops))


def find_run(fn: Function) -> Run | None:
    """Return the run of equal layers that saves most ops, None where none saves any."""
    codes = _codes(fn)
    best: Run | None = None
    for period in range(2, min(_LONGEST, len(codes) // (_KEPT + 1)) + 1):
        start, length = _longest(codes[:-period] == codes[period:])
        if _saved(Run(start, period, length // period + 1)) <= _saved(best):
            continue
        run = _wired(fn, period, start, length)
        if _saved(run) > _saved(best):
            best = run
    return best


def _saved(run: Run | None) -> int:
    return 0 if run is None else (run.count - _KEPT) * run.period


def _codes(fn: Function) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return a number for each op; equal ones mean equal kinds and types."""
    known: dict[object, int] = {}
    codes = list[int]()
    for op in fn.ops:
        kind = type(op.kind) if isinstance(op.kind, Constant) else op.kind
        key = (kind, *(v.type for v in (*op.operands, *op.results)))
        codes.append(known.setdefault(key, len(known)))
    return np.array(codes, np.int64)


def _longest(equal: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> tuple[int, int]:
    """Return start and length of the longest run of true."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], equal.astype(np.int8), [0]))))
    if not len(edges):
        return 0, 0
    starts, ends = edges[::2], edges[1::2]
    at = int(np.argmax(ends - starts))
    return int(starts[at]), int(ends[at] - starts[at])


def _wired(fn: Function, period: int, start: int, length: int) -> Run | None:
    """Return the longest part of a run in which equal ops also read from equal places."""
    place = {r: (i, k) for i, op in enumerate(fn.ops) for k, r in enumerate(op.results)}
    alike = np.array([_alike(fn, place, i, period) for i in range(start, start + length)], np.bool_)
    first, found = _longest(alike)
    count = found // period + 1
    return Run(start + first, period, count) if count > _KEPT else None


def _alike(fn: Function, place: Mapping[Value, tuple[int, int]], i: int, period: int) -> bool:
    """Return whether op ``i`` and the one a period later read alike."""
    for a, b in zip(fn.ops[i].operands, fn.ops[i + period].operands, strict=True):
        if a is b:
            continue
        if (a in place) != (b in place):
            return False
        if a in place:
            (x, k), (y, m) = place[a], place[b]
            if y - x != period or k != m:
                return False
    return True


def _places(count: int, run: Run | None) -> tuple[list[int], tuple[int, ...]]:
    """Return the ops that are kept, and for every op the place of its stand-in among them."""
    if run is None:
        return list(range(count)), tuple(range(count))
    dropped = (run.count - _KEPT) * run.period
    head = run.start + 2 * run.period
    kept = [*range(head), *range(head + dropped, count)]
    between = [run.start + run.period + i % run.period for i in range(dropped)]
    return kept, (*range(head), *between, *range(head, len(kept)))


def _stand_ins(fn: Function, run: Run | None) -> dict[Value, Value]:
    """Return for each value of a dropped layer that of the layer that stands for it."""
    if run is None:
        return {}
    second = run.start + run.period
    found = dict[Value, Value]()
    for i in range(second + run.period, second + (run.count - _KEPT + 1) * run.period):
        twin: Sequence[Value] = fn.ops[second + (i - second) % run.period].results
        found.update(zip(fn.ops[i].results, twin, strict=True))
    return found


__all__ = ["Run", "Short", "find_run", "place_of", "shorten"]
