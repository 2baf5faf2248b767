"""A pipeline's stages: contiguous parts of a program, the longest as short as can be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leptonc.ir.core import Function, Value
from leptonc.ir.kinds.data import Constant
from leptonc.shard.simulate.repeat import Short

Numbers = NDArray[np.float64]
_MANY = 256  # places for a cut at most: those that much data crosses are left out first


def crossing(short: Short) -> Numbers:
    """Return the bytes alive before each op of the whole program that a later op reads.

    Weights and parameters do not count: they lie where they are read. ``[n + 1]``, 0 at both ends.
    """
    fn = short.whole
    last = _last_reads(fn)
    change = np.zeros(len(fn.ops) + 2)
    for i, op in enumerate(fn.ops):
        if isinstance(op.kind, Constant):
            continue
        for v in op.results:
            end = last.get(v, i)
            if end > i:
                numel = v.type.numel
                size = v.type.dtype.nbytes * (numel if isinstance(numel, int) else 1)
                change[i + 1] += size
                change[end + 1] -= size
    alive = np.cumsum(change)[: len(fn.ops) + 1]
    alive[-1] = 0.0
    return alive


def _last_reads(fn: Function) -> dict[Value, int]:
    return {v: i for i, op in enumerate(fn.ops) for v in op.operands}


def places(short: Short, crossed: Numbers) -> tuple[int, ...]:
    """Return the ops before which a stage may begin, the first op among them.

    These are the first reads of named weights, which other phases of the work have, too; any op
    where there are few.
    """
    ops = short.whole.ops
    names = Counter(op.results[0].hint for op in ops if isinstance(op.kind, Constant))
    found = [
        i for i, op in enumerate(ops)
        if i and isinstance(op.kind, Constant) and names[op.result.hint] == 1
        and not isinstance(ops[i - 1].kind, Constant)
    ]  # fmt: skip
    if len(found) < 2:
        found = list(range(1, len(ops)))
    if len(found) > _MANY:
        little = float(np.quantile(crossed[found], 0.25))
        found = [i for i in found if crossed[i] <= little]
    count = min(len(found), _MANY)
    return (0, *(found[i * len(found) // count] for i in range(count)))


@dataclass(frozen=True, eq=False)
class Cutter:
    """Cuts a program into stages; all numbers of stages up to a largest are found at once.

    Attributes:
        starts: ops before which a stage may begin.
        before: for each number of stages less one, and each end of the last of them (an index into
            ``starts``, whose length stands for the end of the program), where that one begins.
    """

    starts: tuple[int, ...]
    before: tuple[NDArray[np.intp], ...]

    @staticmethod
    def of(seconds: Numbers, received: Numbers, starts: Sequence[int], most: int) -> Cutter:
        """Return the cutter of a program.

        Args:
            seconds: of each op.
            received: seconds to receive what crosses into a stage that begins before each op.
            starts: ops before which a stage may begin.
            most: stages at most.
        """
        total = np.concatenate(([0.0], np.cumsum(seconds)))
        ends = np.array([*starts, len(seconds)])
        cost = total[ends][None, :] - total[ends][:, None] + received[ends][:, None]
        cost[np.tril_indices(len(ends))] = np.inf
        best = cost[0]
        before = [np.zeros(len(ends), np.intp)]
        for _ in range(min(most, len(starts)) - 1):
            longest = np.maximum(best[:, None], cost)
            before.append(longest.argmin(axis=0))
            best = longest.min(axis=0)
        return Cutter(tuple(starts), tuple(before))

    @property
    def most(self) -> int:
        """The largest number of stages."""
        return len(self.before)

    def cut(self, count: int) -> tuple[int, ...]:
        """Return the first op of each of ``count`` stages."""
        at, found = len(self.starts), list[int]()
        for k in range(count - 1, -1, -1):
            at = int(self.before[k][at])
            found.append(self.starts[at])
        return tuple(reversed(found))
