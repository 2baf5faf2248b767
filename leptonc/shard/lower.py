"""From a choice of strategies to the one program that every rank runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from leptonc.cost.cluster import ALL_GATHER, ALL_REDUCE, ALL_TO_ALL, REDUCE_SCATTER
from leptonc.ir.core import Builder, Function, Op, Value
from leptonc.ir.dims import symbol
from leptonc.ir.kinds.collective import AllGather, AllReduce, Collective, Owned
from leptonc.ir.kinds.data import Constant, Full
from leptonc.ir.kinds.reduce import Sum
from leptonc.ir.kinds.shape import Reshape, Slice
from leptonc.shard.localize import emit_local
from leptonc.shard.parts import RANK, Parts
from leptonc.shard.placement import REPLICATE, Partial, Placement, Shard
from leptonc.shard.program import Spmd
from leptonc.shard.redistribute import Mover, move
from leptonc.shard.strategy import Strategy

# By bytes that pass a link; nothing passes where a value is whole.
_EFFORT = {"": 0, ALL_TO_ALL: 1, ALL_GATHER: 2, REDUCE_SCATTER: 2, ALL_REDUCE: 3}


def lower(
    fn: Function,
    chosen: Sequence[Strategy],
    parts: Parts,
    shared: Mapping[Value, Placement] | None = None,
) -> Spmd:
    """Return the program of every rank.

    Args:
        fn: the whole program.
        chosen: the strategy of each op.
        parts: how axes are cut.
        shared: placements to which values with several readers are brought once, for all of them.
    """
    return _Lowering(fn, parts, shared or {}).run(chosen)


@dataclass
class _Lowering:
    """Grows the program: which local value stands for a value under which placement."""

    fn: Function
    parts: Parts
    shared: Mapping[Value, Placement]
    b: Builder = field(init=False)
    held: dict[Value, dict[Placement, Value]] = field(
        default_factory=dict[Value, dict[Placement, Value]]
    )
    placements: dict[Value, Placement] = field(default_factory=dict[Value, Placement])

    def __post_init__(self) -> None:
        self.b = Builder(self.fn.name)
        self.moved = Mover(self.b, self.parts)

    def run(self, chosen: Sequence[Strategy]) -> Spmd:
        for p in self.fn.params:
            self._hold(p, REPLICATE, self.b.param(p.type, p.hint))
        for op, s in zip(self.fn.ops, chosen, strict=True):
            self.b.origin = op.origin
            self._op(op, s)
        returns = [self._get(v, REPLICATE) for v in self.fn.returns]
        self.b.dims = (*self.fn.dims, *self.parts.dims())
        return Spmd(self.b.finish(*returns), dict(self.parts.tables), self.placements)

    def _op(self, op: Op, s: Strategy) -> None:
        if isinstance(op.kind, Constant):
            self._constant(op, s.outs[0])
            return
        operands = [self._get(v, p) for v, p in zip(op.operands, s.ins, strict=True)]
        at = len(self.b.ops)
        results = emit_local(self.b, op, s, self.parts, operands)
        self._mark_form(at, s)
        for value, p, local in zip(op.results, s.outs, results, strict=True):
            self._hold(value, p, local)

    def _constant(self, op: Op, p: Placement) -> None:
        """Emit the part of a constant that a rank reads: a slice right behind it."""
        whole = self.b(op.kind, hint=op.result.hint)
        self.placements[whole] = REPLICATE
        at = len(self.b.ops)
        if isinstance(p, Shard):
            local = self.moved.own_part(op.result, whole, p)
        elif isinstance(p, Partial):
            rank: Any = symbol(RANK)
            local = self.b(Owned(rank), whole)
        else:
            local = whole
        self._mark_moves(at, p)
        self._hold(op.result, p, local)

    def _get(self, value: Value, want: Placement) -> Value:
        """Return the local value of ``value`` under ``want``, moved once for all readers.

        It is taken from where it takes least effort: from what is held, or from where the value is
        brought for all readers; by way of the whole where neither can be moved there.
        """
        held = self.held[value]
        if want not in held:
            shared = self.shared.get(value)
            sources = [*held, *([] if shared is None or shared in held else [shared])]
            source = _easiest(sources, want)
            if source not in held:
                self._bring(value, _easiest(tuple(held), source), source)
            self._bring(value, source, want)
        return held[want]

    def _bring(self, value: Value, source: Placement, want: Placement) -> None:
        """Hold ``value`` under ``want``, too, moved from ``source``."""
        if want in self.held[value]:
            return
        at = len(self.b.ops)
        made = self.moved(value, self.held[value][source], source, want)
        self._mark_moves(at, want)
        self._hold(value, want, made)

    def _hold(self, value: Value, p: Placement, local: Value) -> None:
        self.held.setdefault(value, {})[p] = local
        self.placements[local] = p

    def _mark_moves(self, at: int, want: Placement) -> None:
        """Note where the values are that a move to ``want`` made, beginning with op ``at``."""
        for op in self.b.ops[at:]:
            if isinstance(op.kind, Reshape):  # opens or closes the blocks of an axis
                where = self.placements[op.operands[0]]
            elif isinstance(op.kind, (AllReduce, AllGather)):
                where = REPLICATE
            else:
                where = want
            self.placements[op.result] = where

    def _mark_form(self, at: int, s: Strategy) -> None:
        """Note where the values are that a form made on its way: each rank's own, or whole."""
        own = next((p for p in (*s.ins, *s.outs) if isinstance(p, Shard)), REPLICATE)
        for op in self.b.ops[at:]:
            if isinstance(op.kind, AllReduce):
                self.placements[op.operands[0]] = Partial(op.kind.op)
            elif isinstance(op.kind, AllGather):
                self.placements[op.operands[0]] = Shard(op.kind.axis)
            for r in op.results:
                self.placements.setdefault(r, self._where(op, s, own))

    def _where(self, op: Op, s: Strategy, own: Placement) -> Placement:
        """Return where a result of an op of a form is."""
        if isinstance(op.kind, Collective):
            return REPLICATE
        if isinstance(op.kind, Full):
            return REPLICATE if isinstance(op.kind.value, (bool, int, float)) else own
        if isinstance(op.kind, Sum) and isinstance(s.outs[0], Partial):
            return s.outs[0]
        if isinstance(op.kind, Slice) and not isinstance(op.kind.start, int):
            return own  # from where, depends on the rank
        whole = op.operands and all(self.placements[v] == REPLICATE for v in op.operands)
        return REPLICATE if whole else own


def _easiest(sources: Sequence[Placement], want: Placement) -> Placement:
    """Return the placement from which a move to ``want`` carries least; the whole if none can."""
    able = [p for p in sources if move(p, want).possible]
    return min(able, key=lambda p: _EFFORT[move(p, want).collective], default=REPLICATE)


__all__ = ["lower"]
