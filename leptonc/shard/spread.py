"""Which ways every value may be cut: rules are asked until no op adds another.

Axes that a strategy cuts together are tied: they are cut between the same units, of which there
are as many as divide all of them (five heads of 64 make five units of an axis of 320). Tied axes
of too few units for the ranks cannot be cut, and strategies that need it are dropped. One that has
too few of its own (one group of channels) ties nothing: what is in front of it may still be cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from leptonc.ir.core import Function, Kind, Op, Value
from leptonc.ir.types import DType, TensorType
from leptonc.shard.placement import Partial, Placement, Shard
from leptonc.shard.rules import RULES
from leptonc.shard.strategy import Site, Strategy, cuttable, whole

Place = tuple[Value, Shard]


@dataclass(frozen=True)
class Spread:
    """What the rules allow for a function.

    Attributes:
        strategies: of each op, in order; the first runs it whole.
        units: between how many units a cut of a value is made.
        dropped: for each op the cuts that were dropped, with the units that there are.
    """

    strategies: tuple[tuple[Strategy, ...], ...]
    units: Mapping[Place, int]
    dropped: Mapping[Op, tuple[tuple[Strategy, int], ...]]


def spread(fn: Function, ranks: int) -> Spread:
    """Return the strategies of every op of ``fn`` for so many ranks."""
    shards: dict[Value, dict[Shard, None]] = {
        v: dict.fromkeys(cuttable(v)) for v in (*fn.params, *fn.producer)
    }
    found = _closed(fn, shards, ranks)
    ties = _Ties()
    for op, strategies in zip(fn.ops, found, strict=True):
        for s in strategies:
            if not 0 < _own_units(op, s) < ranks:
                ties.tie(_places(op, s), s.units)
    kept, dropped = list[tuple[Strategy, ...]](), dict[Op, tuple[tuple[Strategy, int], ...]]()
    for op, strategies in zip(fn.ops, found, strict=True):
        units = [(s, min(_own_units(op, s), ties.least(_places(op, s)))) for s in strategies]
        few = [(s, u) for s, u in units if 0 < u < ranks]
        bad = {id(s) for s, _ in few}
        kept.append((whole(op), *(s for s in strategies if id(s) not in bad)))
        if few:
            dropped[op] = tuple(few)
    return Spread(tuple(kept), ties.all(), dropped)


def _own_units(op: Op, s: Strategy) -> int:
    """Return between how many units ``s`` cuts by itself, whatever else is tied; 0 for no cut."""
    lengths = [_length(value.type, cut) for value, cut in _places(op, s)]
    return math.gcd(s.units, *lengths) if lengths else 0


def _closed(
    fn: Function, shards: dict[Value, dict[Shard, None]], ranks: int
) -> list[tuple[Strategy, ...]]:
    """Return each op's strategies when ``shards``, which grows, holds every cut they name."""
    found: list[tuple[Strategy, ...]] = [()] * len(fn.ops)
    index = {op: i for i, op in enumerate(fn.ops)}
    asked = dict[object, tuple[Strategy, ...]]()
    # Twice in order, forwards and backwards, settles most programs; the rest goes one by one.
    waiting = dict.fromkeys(fn.ops)
    while waiting:
        op = next(iter(waiting))
        del waiting[op]
        rule = RULES.get(type(op.kind))
        if rule is None:
            continue
        made = _ask(op, shards, ranks, asked)
        found[index[op]] = made
        for value in _grown(op, made, shards):
            touched = [*fn.users[value], *([fn.producer[value]] if value in fn.producer else [])]
            waiting.update(dict.fromkeys(touched))
    return found


def _ask(
    op: Op,
    shards: Mapping[Value, Mapping[Shard, None]],
    ranks: int,
    asked: dict[object, tuple[Strategy, ...]],
) -> tuple[Strategy, ...]:
    """Return what the rule of ``op`` says; layers that repeat are asked about once."""
    key = (_key(op.kind), *((v.type, tuple(shards[v])) for v in (*op.operands, *op.results)))
    made = asked.get(key)
    if made is None:
        site = Site(op, shards, ranks)
        found = RULES[type(op.kind)](site)
        made = asked[key] = tuple(dict.fromkeys(s for s in found if _combinable(op, s)))
    return made


def _combinable(op: Op, s: Strategy) -> bool:
    """Return whether ranks can combine what ``s`` leaves in parts: of truth values the largest."""
    values: tuple[Value, ...] = (*op.operands, *op.results)
    placements: tuple[Placement, ...] = (*s.ins, *s.outs)
    return not any(
        isinstance(p, Partial) and p.op != "max" and v.type.dtype is DType.BOOL
        for v, p in zip(values, placements, strict=True)
    )


def _key(kind: Kind) -> object:
    """Return what of a kind steers its rule: a constant's bytes do not."""
    return type(kind) if kind.NAME == "constant" else kind


def _grown(
    op: Op, strategies: Iterable[Strategy], shards: dict[Value, dict[Shard, None]]
) -> Iterable[Value]:
    """Add the cuts that strategies name; return the values that have more now."""
    grown = dict[Value, None]()
    for s in strategies:
        for value, cut in _places(op, s):
            if cut not in shards[value]:
                shards[value][cut] = None
                grown[value] = None
    return grown


def _places(op: Op, s: Strategy) -> list[Place]:
    """Return the cuts of a strategy with the values that they cut."""
    values: tuple[Value, ...] = (*op.operands, *op.results)
    placements: tuple[Placement, ...] = (*s.ins, *s.outs)
    return [(v, p) for v, p in zip(values, placements, strict=True) if isinstance(p, Shard)]


class _Ties:
    """Classes of axes that are cut alike, and the units of each (union-find)."""

    def __init__(self) -> None:
        self.parent = dict[Place, Place]()
        self.count = dict[Place, int]()

    def root(self, place: Place) -> Place:
        parent = self.parent
        if place not in parent:
            parent[place] = place
            self.count[place] = _length(place[0].type, place[1])
            return place
        top = place
        while parent[top] != top:
            top = parent[top]
        while parent[place] != top:
            parent[place], place = top, parent[place]
        return top

    def tie(self, places: list[Place], units: int) -> None:
        """Cut these alike, between ``units`` at most where that is not 0."""
        if not places:
            return
        first = self.root(places[0])
        for other in places[1:]:
            root = self.root(other)
            if root != first:
                self.parent[root] = first
                self.count[first] = math.gcd(self.count[first], self.count[root])
        if units:
            self.count[first] = math.gcd(self.count[first], units)

    def least(self, places: list[Place]) -> int:
        """Return the units of these, which are tied; 0 for none."""
        return self.count[self.root(places[0])] if places else 0

    def all(self) -> dict[Place, int]:
        """Return the units of every place."""
        return {place: self.count[self.root(place)] for place in list(self.parent)}


def _length(type_: TensorType, s: Shard) -> int:
    """Return the elements of one outer block of the axis that ``s`` cuts."""
    size = type_.shape[s.axis]
    return size // s.outer if isinstance(size, int) else 1
