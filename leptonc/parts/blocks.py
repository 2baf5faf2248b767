"""parts > blocks: a program as a row of blocks, between which it may be cut.

A block is what ``fuse`` and ``partition`` would make one compute unit of. Cutting inside of one
would keep its ops from running as one kernel, so the units are formed and dissolved again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from leptonc.ir.core import Function, Op, Value
from leptonc.ir.kinds.data import Constant, Full
from leptonc.ir.kinds.region import Unit
from leptonc.passes import pipeline as passes_of
from leptonc.passes.dce import Dce
from leptonc.pipeline import PassManager

SOURCES = (Constant, Full)  # belong to whoever reads them
PLACING = ("layout", "fuse", "partition")  # passes that decide how ops run, not what they compute


@dataclass(frozen=True)
class Blocks:
    """A flat program and its blocks in order; every op that is no source is in exactly one.

    Attributes:
        function: the program, without units.
        blocks: its ops.
        names: of the units that the blocks were, "" for one that was none.
    """

    function: Function
    blocks: tuple[tuple[Op, ...], ...]
    names: tuple[str, ...]

    def finest(self) -> Blocks:
        """Return the same program with every op a block of its own."""
        single = tuple((op,) for ops in self.blocks for op in ops)
        return Blocks(self.function, single, ("",) * len(single))


def blocks_of(fn: Function, pipeline: str) -> Blocks:
    """Return ``fn`` after the rewriting passes of ``pipeline``, as blocks.

    The passes from the first of ``layout``, ``fuse`` and ``partition`` on only say what runs as
    one; ``layout`` is left out, since values that cross a cut are row-major. A pipeline without
    any of the three gives a block for every op.

    Raises:
        PipelineError: ``pipeline`` is no pipeline.
    """
    passes = passes_of(pipeline)
    at = next((i for i, p in enumerate(passes) if p.NAME in PLACING), len(passes))
    units = [p for p in passes[at:] if p.NAME != "layout"]
    fn = PassManager((*passes[:at], Dce())).run(fn)
    return dissolved(PassManager(tuple(units)).run(fn) if units else fn)


def dissolved(fn: Function) -> Blocks:
    """Return ``fn`` without units: their ops one after another, a block for each former unit.

    Constants that were copied into several bodies are one op again.
    """
    flat = _Flat(fn)
    for op in fn.ops:
        if isinstance(op.kind, SOURCES):
            flat.source(op)
        elif isinstance(op.kind, Unit):
            flat.unit(op, op.kind)
        else:
            flat.block([flat.op(op)], "")
    returns = tuple(flat.now.get(v, v) for v in fn.returns)
    function = Function(fn.name, fn.params, tuple(flat.ops), returns, fn.dims)
    return Blocks(function, tuple(flat.blocks), tuple(flat.names))


class _Flat:
    """Grows the flat program."""

    def __init__(self, fn: Function) -> None:
        self.now: dict[Value, Value] = {p: p for p in fn.params}
        self.ops: list[Op] = []
        self.blocks: list[tuple[Op, ...]] = []
        self.names: list[str] = []
        self.sources: dict[object, Value] = {}

    def source(self, op: Op) -> None:
        """Append a source unless the same constant is there."""
        kind = op.kind
        key = id(kind.const) if isinstance(kind, Constant) else (kind, op.result.type)
        if key not in self.sources:
            self.ops.append(op)
            self.sources[key] = op.result
        self.now[op.result] = self.sources[key]

    def op(self, op: Op) -> Op:
        """Append ``op`` on the new operands and return it."""
        operands = tuple(self.now[v] for v in op.operands)
        same = all(a is b for a, b in zip(operands, op.operands, strict=True))
        made = op if same else Op(op.kind, operands, op.results, op.origin)
        self.ops.append(made)
        self.now.update((r, r) for r in op.results)
        return made

    def unit(self, unit: Op, kind: Unit) -> None:
        """Append the ops of a unit's body as one block."""
        body = kind.body
        for inner, outer in zip(body.params, unit.operands, strict=True):
            self.now[inner] = self.now[outer]
        work: list[Op] = []
        for op in body.ops:
            if isinstance(op.kind, SOURCES):
                self.source(op)
            else:
                work.append(self.op(op))
        for inner, outer in zip(body.returns, unit.results, strict=True):
            self.now[outer] = self.now[inner]
        self.block(work, kind.name)

    def block(self, ops: Iterable[Op], name: str) -> None:
        """End a block; what held nothing but sources is none."""
        made = tuple(ops)
        if made:
            self.blocks.append(made)
            self.names.append(name)
