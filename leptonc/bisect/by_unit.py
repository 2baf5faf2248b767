"""Bisect > by_unit: the guilty unit of a partitioned program, or the units wrong only together."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import Tensor

from leptonc import meaning
from leptonc.bisect.case import Native, native_problem
from leptonc.bisect.judge import Judge
from leptonc.bisect.shrink import smallest
from leptonc.bisect.slices import unit_alone
from leptonc.errors import LeptoncError
from leptonc.ir.core import Function, Op, Value
from leptonc.ir.kinds.region import Unit


@dataclass(frozen=True)
class Miss:
    """A unit whose native result is not the reference's on its true operands."""

    op: Op
    operands: tuple[Tensor, ...]  # one per parameter of the unit alone
    why: str


def misses(
    fn: Function, inputs: Sequence[Tensor], native: Native, only: Collection[str] | None = None
) -> list[Miss]:
    """Return the units (of those named, or all) that miss when they run alone, in order."""
    env: dict[Value, Tensor] = dict(zip(fn.params, inputs, strict=True))
    own, found = set(fn.ops), list[Miss]()
    left = dict(fn.use_count)

    def observe(op: Op, results: tuple[Tensor, ...]) -> None:
        if op not in own:
            return
        alone = unit_alone(op)
        operands = tuple(env[v] for v in alone.params)
        asked = isinstance(op.kind, Unit) and (only is None or op.kind.name in only)
        if asked and (why := _problem(alone, operands, native)) is not None:
            found.append(Miss(op, operands, why))
        env.update(zip(op.results, results, strict=True))
        for v in op.operands:
            left[v] -= 1
            if not left[v]:
                env.pop(v, None)

    meaning.run(fn, *inputs, observe=observe)
    return found


def _problem(alone: Function, operands: Sequence[Tensor], native: Native) -> str | None:
    try:
        bad = native_problem(alone, operands, native)
    except LeptoncError as e:
        return str(e)
    return None if bad is None else str(bad)


def recovering(
    fn: Function,
    inputs: Sequence[Tensor],
    native: Native,
    judge: Judge,
    first: Sequence[str],
    always: Sequence[str] = (),
) -> tuple[str, ...]:
    """Return the fewest units that must run through torch for the judge to be content.

    ``first`` are suspects, tried alone first; ``always`` run through torch anyway. Empty when even
    all of them do not help.
    """

    def content(names: Sequence[str]) -> bool:
        return judge(native.run(fn, inputs, (*names, *always))) is None

    for name in first:
        if content((name,)):
            return (name,)
    units = [op.kind.name for op in fn.ops if isinstance(op.kind, Unit)]
    names = [n for n in units if n not in always]
    return smallest(names, content) if content(names) else ()
