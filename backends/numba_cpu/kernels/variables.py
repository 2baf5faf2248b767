"""numba_cpu > kernels > variables: where a kernel's variables lie, what they are where ways meet.

A variable lies in memory of its function's, one place for each type it is given; LLVM makes
registers of them. Where ways meet, a number that has different types on them is converted to one
that holds both, as numba has it.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from llvmlite import ir
from numba.core import types

from leptonc.backends.numba_cpu.kernels import operands as ops
from leptonc.backends.numba_cpu.kernels.expressions import Expressions
from leptonc.backends.numba_cpu.kernels.operands import Known, Operand, Value
from leptonc.backends.numba_cpu.kernels.syntax import KernelError


@dataclass(frozen=True, eq=False)
class Place:
    """Where a variable lies; each type it is given has one."""

    type: types.Type
    at: ir.Value


@dataclass(frozen=True)
class Unclear:
    """Bound to things of different kinds on different ways: nothing may read it."""


Binding: TypeAlias = "Known | Place | Unclear | tuple[Binding, ...]"
Bindings: TypeAlias = dict[str, Binding]
Edge: TypeAlias = tuple[ir.Block, Bindings]  # a block without an end, and what is bound there


@dataclass
class Loop:
    """Ways out of a loop's body: to its next round, and out of it."""

    again: list[Edge] = field(default_factory=list[Edge])
    out: list[Edge] = field(default_factory=list[Edge])


class Variables(Expressions):
    """Binds the variables of one function.

    Attributes:
        first: the block that makes their places, before all others.
    """

    def __init__(self, fn: Any, code: ir.Function) -> None:
        self.first = code.append_basic_block("variables")
        super().__init__(fn, ir.IRBuilder(code.append_basic_block("entry")))
        self._places: dict[tuple[str, types.Type], Place] = {}
        self.bound: Bindings | None = {}  # None where no way leads

    @property
    def here(self) -> Bindings:
        """What variables are bound to at the end of the builder's block."""
        assert self.bound is not None
        return self.bound

    def read(self, name: str) -> Operand:
        """Return the value of a variable."""
        bound = self.here.get(name)
        if bound is None:
            raise KernelError(f"{name} has no value here")
        return self._read(bound)

    def _read(self, bound: Binding) -> Operand:
        if isinstance(bound, tuple):
            return tuple(map(self._read, bound))
        if isinstance(bound, Known):
            return bound
        if isinstance(bound, Unclear):
            raise KernelError("a variable is read that holds one thing or another: use two names")
        kind = ops.llvm_type(bound.type)
        return Value(bound.type, self.b.load(bound.at, typ=kind))

    def bind(self, name: str, x: Operand) -> None:
        """Give a variable a value."""
        self.here[name] = self._stored(name, x)

    def _stored(self, name: str, x: Operand) -> Binding:
        """Return the binding of a variable to ``x``, written to its place unless it is known."""
        if isinstance(x, tuple):
            return tuple(self._stored(f"{name}.{i}", part) for i, part in enumerate(x))
        if isinstance(x, Known) and not ops.is_number(x):
            return x
        value = ops.computed(x)
        place = self.place(name, value.type)
        self.b.store(value.code, place.at)
        return place

    def place(self, name: str, kind: types.Type) -> Place:
        """Return where a variable lies that holds a value of this type."""
        found = self._places.get((name, kind))
        if found is None:
            at = ir.IRBuilder(self.first).alloca(ops.llvm_type(kind), name=name)
            found = self._places[name, kind] = Place(kind, at)
        return found

    def assign(self, target: ast.expr, x: Operand) -> None:
        """Give the variables of a target, a name or a tuple of targets, their values."""
        if isinstance(target, ast.Name):
            self.bind(target.id, x)
        elif isinstance(target, ast.Tuple):
            parts = self.parts(x)
            if len(parts) != len(target.elts):
                raise KernelError(f"{len(parts)} values for {ast.unparse(target)}")
            for one, part in zip(target.elts, parts, strict=True):
                self.assign(one, part)
        else:
            raise KernelError(f"{ast.unparse(target)} is no variable")

    # ----- ways that meet -----------------------------------------------------------------------
    def meet(self, edges: Sequence[Edge], block: ir.Block) -> None:
        """Lead all ``edges`` to ``block`` and go on there, with what is bound on any of them."""
        names = dict.fromkeys(name for _, bound in edges for name in bound)
        met: Bindings = {}
        for name in names:
            has = [(end, bound[name]) for end, bound in edges if name in bound]
            met[name] = self._one_binding(name, has)
        for end, _ in edges:
            self.b.position_at_end(end)
            self.b.branch(block)
        self.b.position_at_end(block)
        self.bound = met if edges else None

    def _one_binding(self, name: str, has: Sequence[tuple[ir.Block, Binding]]) -> Binding:
        """Return the one binding of a variable that is bound at the ends of several blocks."""
        first = has[0][1]
        if all(other == first for _, other in has[1:]):
            return first
        if all(isinstance(one, tuple) for _, one in has):
            tuples: list[tuple[ir.Block, Any]] = list(has)
            if len({len(one) for _, one in tuples}) == 1:
                return tuple(
                    self._one_binding(f"{name}.{i}", [(end, one[i]) for end, one in tuples])
                    for i in range(len(tuples[0][1]))
                )
        kind = kind_of_all([one for _, one in has])
        if kind is None:
            return Unclear()
        for end, one in has:
            self.b.position_at_end(end)
            self._stored(name, ops.cast(self.b, self._read(one), kind))
        return self.place(name, kind)

    def restore(self, name: str, old: Binding) -> bool:
        """Let a variable be bound as it was, converted where that holds what it is; else False."""
        new = self.here[name]
        if old == new or isinstance(old, Unclear):
            return True
        if not isinstance(old, Place) or kind_of_all([old, new]) != old.type:
            return False
        self.bind(name, ops.cast(self.b, self.read(name), old.type))
        return True

    def edge(self) -> Edge:
        """Return the way from here; what follows is not reached from here any more."""
        edge = self.b.block, self.here
        self.bound = None
        return edge


def kind_of_all(bound: Sequence[Binding]) -> types.Type | None:
    """Return the type of numbers that holds what all are bound to; None if there is none."""
    kinds = [one.type for one in bound if isinstance(one, Place)]
    if len(kinds) < len(bound) or not kinds:
        return None
    try:
        return functools.reduce(ops.common, kinds)
    except KernelError:
        return None
