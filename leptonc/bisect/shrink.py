"""Bisect > shrink: make a failing function smaller while it still fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from leptonc import meaning
from leptonc.bisect.data import recipes
from leptonc.bisect.slices import (
    around,
    body_part,
    constants_in,
    narrowed,
    part,
    resized,
    sizes_of,
    values_of,
    with_constants,
    work_of,
)
from leptonc.errors import LeptoncError
from leptonc.ir.core import Function, Op
from leptonc.ir.kinds.region import Unit

T = TypeVar("T")
Program = tuple[Function, tuple[Tensor, ...]]  # a function and its inputs
Fails = Callable[[Function, Sequence[Tensor]], bool]
_RADII = (0, 1, 2, 3, 4, 6, 8, 12, 16)
# What a program that was cut too far may raise, in a pass, a lowering or torch.
_REFUSALS = (LeptoncError, RuntimeError, ValueError, TypeError, AssertionError, LookupError)
_TRIES = 300  # programs tried in each way to shrink


def smallest(items: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> tuple[T, ...]:
    """Return some items without any one of which it no longer fails, given that all of them do.

    Delta debugging (Zeller and Hildebrandt 2002, "Simplifying and Isolating Failure-Inducing
    Input"): drop ever smaller chunks. After 300 tries what was found so far is returned.
    """
    kept, chunk, tries = tuple(items), max(1, (len(items) + 1) // 2), 0
    while kept and tries < _TRIES:
        dropped = False
        at = len(kept)
        while at > 0 and tries < _TRIES:
            at = max(0, at - chunk)
            rest = kept[:at] + kept[at + chunk :]
            tries += 1
            if rest and fails(rest):
                kept, dropped = rest, True
                at = min(at, len(kept))
        if not dropped:
            if chunk == 1:
                break
            chunk = (chunk + 1) // 2
    return kept


@dataclass(frozen=True)
class Shrinker:
    """Shrinks programs for which ``fails`` holds; a program that raises does not fail."""

    fails: Fails

    def holds(self, fn: Function, inputs: Sequence[Tensor]) -> bool:
        """Return whether a program still shows the fault."""
        try:
            return self.fails(fn, inputs)
        except _REFUSALS:
            return False  # it says something else, or nothing at all

    def region(self, fn: Function, inputs: Sequence[Tensor], guilty: Op | None) -> Program | None:
        """Return the smallest neighbourhood of ``guilty`` that fails, else all of ``fn``.

        None when not even that fails.
        """
        seen = 0
        for steps in _RADII if guilty is not None else ():
            assert guilty is not None
            keep = around(fn, guilty, steps)
            if len(keep) == seen:
                break
            seen = len(keep)
            found = self._part(fn, inputs, keep)
            if found is not None:
                return found
        return (fn, tuple(inputs)) if self.holds(fn, inputs) else None

    def ops(self, program: Program) -> Program:
        """Return the program with as few ops as it takes."""
        fn, inputs = program
        work = work_of(fn)
        env = values_of(fn, inputs, {v for op in work for v in op.operands})

        def fails(keep: Sequence[Op]) -> bool:
            cut = part(fn, keep)
            return self.holds(cut, [env[p] for p in cut.params])

        cut = part(fn, smallest(work, fails))
        best = (cut, tuple(env[p] for p in cut.params))
        return best if self.holds(*best) else program

    def body(self, program: Program) -> Program:
        """Return a program of one unit with as few ops in the unit's body as it takes."""
        fn, inputs = program
        units = [op for op in fn.ops if isinstance(op.kind, Unit)]
        if len(units) != 1 or len(work_of(fn)) != 1:
            return program
        (unit,) = units
        assert isinstance(unit.kind, Unit)
        body, given = unit.kind.body, dict(zip(fn.params, inputs, strict=True))
        work = work_of(body)
        operands = [given[v] for v in unit.operands]
        env = values_of(body, operands, {v for op in work for v in op.operands})

        def cut(keep: Sequence[Op]) -> Program:
            made = body_part(unit, keep)
            params = part(body, keep).params
            return made, tuple(env[p] for p in params)

        best = cut(smallest(work, lambda keep: self.holds(*cut(keep))))
        return best if self.holds(*best) else program

    def returns(self, program: Program) -> Program:
        """Return the program with one result, if one shows the fault."""
        fn, inputs = program
        for v in fn.returns if len(fn.returns) > 1 else ():
            one = Function(fn.name, fn.params, fn.ops, (v,), fn.dims)
            if self.holds(one, inputs):
                return one, inputs
        return program

    def sizes(self, program: Program) -> Program:
        """Return the program with smaller sizes."""
        for old in sizes_of(program[0]):
            for new in _smaller(old):
                try:
                    fn = resized(program[0], old, new)
                except _REFUSALS:
                    continue
                inputs = tuple(narrowed(t, old, new) for t in program[1])
                if self.holds(fn, inputs):
                    program = fn, inputs
                    break
        return program

    def data(self, program: Program) -> Program:
        """Return the program with constants and inputs that a short text can make again."""
        fn, inputs = program
        for c in constants_in(fn):
            for t in recipes(meaning.tensor_of(c)):
                tried = with_constants(fn, {c.digest: meaning.const_of(t)})
                if self.holds(tried, inputs):
                    fn = tried
                    break
        for i in range(len(inputs)):
            for t in recipes(inputs[i]):
                tried_inputs = (*inputs[:i], t, *inputs[i + 1 :])
                if self.holds(fn, tried_inputs):
                    inputs = tried_inputs
                    break
        return fn, inputs

    def all(self, program: Program) -> Program:
        """Return the program shrunk in every way."""
        for step in (self.ops, self.body, self.returns, self.sizes, self.data):
            program = step(program)
        return program

    def _part(self, fn: Function, inputs: Sequence[Tensor], keep: Sequence[Op]) -> Program | None:
        cut = part(fn, keep)
        env = values_of(fn, inputs, set(cut.params))
        given = tuple(env[p] for p in cut.params)
        return (cut, given) if self.holds(cut, given) else None


def _smaller(size: int) -> Iterator[int]:
    """Yield sizes to try in place of one, smallest first."""
    tried = {1, 2, 3, 4, 5, 7, 8, 16, 17, size // 4, size // 2}
    yield from sorted(n for n in tried if 0 < n < size)
