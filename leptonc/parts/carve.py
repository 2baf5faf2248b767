"""parts > carve: a program cut into pieces, each a program of its own with named values.

A value that one piece makes and another reads is an output of the one and an input of the other,
under the same name. A constant is in the piece that reads it; one that several pieces read is
*held* by the first of them, which hands it on as it is, without computing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Any, cast

import sympy

from leptonc.ir.core import Function, Op, Value
from leptonc.ir.dims import DimRange, free_symbols
from leptonc.ir.kinds.data import Constant
from leptonc.ir.types import TensorType
from leptonc.parts.blocks import SOURCES, Blocks


@dataclass(frozen=True)
class Piece:
    """One part of a program.

    Attributes:
        function: what it computes; a parameter for each of ``inputs``, a return for each of
            ``computed``.
        inputs: names of what it takes.
        computed: names of what it computes for others or for the caller.
        held: constants that it hands on, by name.
        sources: values of the whole program that its parameters stand for.
        blocks: which of the program's blocks it is, ``start:stop``.
    """

    function: Function
    inputs: tuple[str, ...]
    computed: tuple[str, ...]
    held: Mapping[str, Constant]
    sources: tuple[Value, ...]
    blocks: tuple[int, int]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of everything that it gives."""
        return (*self.computed, *self.held)


@dataclass(frozen=True)
class Carved:
    """A program in pieces.

    Attributes:
        whole: the program that was cut.
        pieces: its parts, in order.
        params: the name of every parameter of ``whole``.
        returns: the name of every value that ``whole`` returns.
    """

    whole: Function
    pieces: tuple[Piece, ...]
    params: tuple[str, ...]
    returns: tuple[str, ...]


def carve(
    blocks: Blocks,
    cuts: Sequence[int],
    params: Sequence[str],
    copied: Mapping[Value, Sequence[str]],
) -> Carved:
    """Return the program of ``blocks`` cut at offsets ``cuts`` (``0`` and the end included).

    Args:
        blocks: the program.
        cuts: part ``d`` is blocks ``cuts[d]:cuts[d+1]``.
        params: the name of every parameter.
        copied: constants that each piece that reads them holds for itself, and names for them.
    """
    fn = blocks.function
    names = _Names(dict(zip(fn.params, params, strict=True)))
    ranges = list(pairwise(cuts))
    work = [[op for ops in blocks.blocks[a:b] for op in ops] for a, b in ranges]
    single = {op.result for op in fn.ops if isinstance(op.kind, Constant)} - set(copied)
    owner = _owners(fn, work, single)
    read = [{v for op in ops for v in op.operands} for ops in work]
    copies = _Copies(copied)
    pieces: list[Piece] = []
    for d, ops in enumerate(work):
        wanted = set(fn.returns).union(*read[d + 1 :])
        own = {v for v, home in owner.items() if home == d}
        sources = [
            op
            for op in fn.ops
            if isinstance(op.kind, SOURCES)
            and (op.result in own or (op.result in read[d] and op.result not in single))
        ]
        kept = {*sources, *ops}
        body = [op for op in fn.ops if op in kept]
        pieces.append(_piece(fn, copies.renamed(body), own, wanted, names, ranges[d]))
    return Carved(fn, tuple(pieces), tuple(params), tuple(names(v) for v in fn.returns))


def _owners(
    fn: Function, work: Sequence[Sequence[Op]], single: Collection[Value]
) -> dict[Value, int]:
    """Return the one piece that gives each value to others; ``single`` constants have one, too."""
    owner: dict[Value, int] = {}
    for d, ops in enumerate(work):
        for op in ops:
            for v in op.operands:
                if v in single:
                    owner.setdefault(v, d)
            owner.update(dict.fromkeys(op.results, d))
    for op in fn.ops:
        if isinstance(op.kind, SOURCES) and op.result in fn.returns:
            owner.setdefault(op.result, len(work) - 1)
    return owner


def _piece(
    fn: Function,
    body: Sequence[Op],
    own: Collection[Value],
    wanted: Collection[Value],
    names: _Names,
    blocks: tuple[int, int],
) -> Piece:
    made = {r for op in body for r in op.results}
    read = {v for op in body for v in op.operands}
    sources = list(dict.fromkeys(v for op in body for v in op.operands if v not in made))
    sources += _giving_sizes(fn, body, sources)
    given = [r for op in body for r in op.results if r in own and r in wanted]
    held = {
        names(op.result): op.kind
        for op in body
        if isinstance(op.kind, Constant) and op.result in given
    }
    computed = [v for v in given if names(v) not in held]
    fresh = {v: Value(v.type, names(v)) for v in sources}
    ops = tuple(
        Op(op.kind, tuple(fresh.get(v, v) for v in op.operands), op.results, op.origin)
        for op in body
        if not isinstance(op.kind, Constant) or op.result in read
    )
    params = tuple(fresh[v] for v in sources)
    dims = _dims(fn, symbols(ops, params))
    function = Function(fn.name, params, ops, tuple(computed), dims)
    return Piece(
        function, tuple(map(names, sources)), tuple(map(names, computed)), held, tuple(sources),
        blocks,
    )  # fmt: skip


# ----- sizes --------------------------------------------------------------------------------------


def symbols(ops: Iterable[Op], params: Iterable[Value]) -> frozenset[str]:
    """Return the names of the symbolic sizes in types and attributes."""
    found = {s for p in params for s in _symbols(p.type)}
    for op in ops:
        found.update(s for v in op.results for s in _symbols(v.type))
        found.update(s for a in op.kind.attributes.values() for s in _symbols(a))
    return frozenset(found)


def _symbols(value: Any) -> Iterable[str]:
    if isinstance(value, tuple):
        for item in cast("tuple[Any, ...]", value):
            yield from _symbols(item)
    elif isinstance(value, TensorType):
        yield from free_symbols(value.shape)
    elif isinstance(value, sympy.Expr):
        yield from free_symbols((value,))


def _dims(fn: Function, used: Collection[str]) -> tuple[DimRange, ...]:
    return tuple(d for d in fn.dims if d.name in used)


def _giving_sizes(fn: Function, body: Sequence[Op], sources: Sequence[Value]) -> list[Value]:
    """Return parameters of ``fn`` to be taken only because a size is read off their shapes."""
    if not fn.dims:
        return []
    bound = {str(d) for v in sources for d in v.type.shape if isinstance(d, sympy.Symbol)}
    missing = symbols(body, sources) - bound
    more: list[Value] = []
    for p in fn.params:
        tells = {str(d) for d in p.type.shape if isinstance(d, sympy.Symbol)} & missing
        if tells and p not in sources:
            more.append(p)
            missing -= tells
    return more


# ----- names --------------------------------------------------------------------------------------


class _Names:
    """One name for each value that crosses a cut: its hint, else its module; numbered if taken."""

    def __init__(self, given: dict[Value, str]) -> None:
        self._of = given
        self._taken = set(given.values())

    def __call__(self, value: Value) -> str:
        if value not in self._of:
            base = value.hint or "value"
            numbered = (f"{base}_{n}" for n in count(2))
            name = base if base not in self._taken else next(
                n for n in numbered if n not in self._taken
            )  # fmt: skip
            self._taken.add(name)
            self._of[value] = name
        return self._of[value]


class _Copies:
    """Gives every copy of a constant one of its names: that of the module that reads it if free."""

    def __init__(self, names: Mapping[Value, Sequence[str]]) -> None:
        self._left = {v: list(found) for v, found in names.items() if found}

    def renamed(self, body: Sequence[Op]) -> list[Op]:
        """Return ``body`` with its copies as values of their own, under the names they take."""
        now: dict[Value, Value] = {}
        for op in body:
            if op.results and (free := self._left.get(op.results[0])):
                readers = {o.origin.module for o in body if op.result in o.operands}
                name = next((n for n in free if n.rpartition(".")[0] in readers), free[0])
                free.remove(name)
                now[op.result] = Value(op.result.type, name)
        if not now:
            return list(body)
        return [
            Op(
                op.kind,
                tuple(now.get(v, v) for v in op.operands),
                tuple(now.get(v, v) for v in op.results),
                op.origin,
            )
            for op in body
        ]
