"""A function and its strategies as a problem of choice: variables, costs of states and pairs.

Every op is a variable, its strategies the states. A value with one reader is a pair of producer
and reader. A value with several readers is a variable of its own: where the producer leaves it,
and to which placement it is brought once for all readers. Bytes of weights are kept apart, so that
a limit of memory can be met by a price for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from leptonc.cost.cluster import Link
from leptonc.ir.core import Function, Op, Value
from leptonc.ir.kinds.data import Constant
from leptonc.shard.eliminate import Table
from leptonc.shard.placement import REPLICATE, Placement, Replicate, Shard
from leptonc.shard.price import Prices
from leptonc.shard.redistribute import seconds
from leptonc.shard.solve import Problem
from leptonc.shard.strategy import Strategy
from leptonc.shard.tradeoff import Tradeoff

# Seconds a byte of weights without any limit: of two equally fast plans the smaller one wins.
_THRIFT = 1e-18
# Constants whose placement is not worth a variable: rows (biases), and what many ops read (angles
# of rotations, masks), up to so many bytes.
_SMALL = 1 << 20
_MANY = 8  # readers


@dataclass(frozen=True)
class Reader:
    """One place where a value is read: by operand ``index`` of ``op``, or as a result (None)."""

    op: Op | None
    index: int = 0


@dataclass
class Graph:
    """The problem of one function."""

    fn: Function
    strategies: Sequence[tuple[Strategy, ...]]
    prices: Prices
    link: Link
    ranks: int
    weighs: dict[int, Table] = field(default_factory=dict[int, Table])
    tables: dict[object, Table] = field(default_factory=dict[object, Table])
    node: dict[Op, int] = field(default_factory=dict[Op, int])
    shared: dict[Value, tuple[int, tuple[tuple[Placement, Placement], ...]]] = field(
        default_factory=dict[Value, tuple[int, tuple[tuple[Placement, Placement], ...]]]
    )

    def pose(self) -> Problem:
        """Return the problem in which bytes cost nothing."""
        return self._base

    @cached_property
    def trade(self) -> Tradeoff:
        """The problem and the bytes of weights."""
        return Tradeoff(self._base, self.weighs, self._base.elimination())

    @cached_property
    def _base(self) -> Problem:
        return self._posed()

    def _posed(self) -> Problem:
        problem = Problem()
        for op, options in zip(self.fn.ops, self.strategies, strict=True):
            self.node[op] = node = problem.variable([self._alone(op, s) for s in options])
            if isinstance(op.kind, Constant) and self._loose(op):
                problem.alone[node] = np.array(
                    [0.0 if s.outs[0] == REPLICATE else math.inf for s in options]
                )
            elif isinstance(op.kind, Constant):
                held = [self.prices.held(op.result, s.outs[0]) for s in options]
                self.weighs[node] = np.array(held)
        for value, readers in self._readers().items():
            producer = self.fn.producer.get(value)
            if producer is not None and self._loose(producer):
                continue
            if producer is not None and len(readers) == 1 and readers[0].op is not None:
                self._edge(problem, value, producer, readers[0])
            elif readers:
                self._hub(problem, value, producer, readers)
        return problem

    def _loose(self, op: Op) -> bool:
        """Return whether ``op`` is a constant so small that each reader may load its own part.

        Such a one ties no readers together: tables of angles are read by every layer.
        """
        if not isinstance(op.kind, Constant) or len(self._options(op)) == 1:
            return False  # with a single option somebody has asked for it
        row = op.result.type.rank <= 1 or len(self.fn.users[op.result]) >= _MANY
        return row and self.prices.of(op.result) <= _SMALL

    def chosen(self, states: Sequence[int]) -> tuple[Strategy, ...]:
        """Return the strategy of each op under a solution of the problem."""
        return tuple(
            options[states[self.node[op]]]
            for op, options in zip(self.fn.ops, self.strategies, strict=True)
        )

    def brought(self, states: Sequence[int]) -> dict[Value, Placement]:
        """Return where values with several readers are brought for all of them."""
        found = {v: options[states[i]] for v, (i, options) in self.shared.items()}
        return {v: to for v, (at, to) in found.items() if to != at}

    def _alone(self, op: Op, s: Strategy) -> float:
        if isinstance(op.kind, Constant):
            return _THRIFT * self.prices.held(op.result, s.outs[0])
        return self.prices.seconds(op, s)

    def _readers(self) -> dict[Value, list[Reader]]:
        found: dict[Value, list[Reader]] = {v: [] for v in (*self.fn.params, *self.fn.producer)}
        for op in self.fn.ops:
            for i, v in enumerate(op.operands):
                found[v].append(Reader(op, i))
        for v in dict.fromkeys(self.fn.returns):
            found[v].append(Reader(None))
        return found

    def _wants(self, reader: Reader) -> tuple[Placement, ...]:
        """Return what each strategy of a reader wants; a result is wanted whole."""
        if reader.op is None:
            return (REPLICATE,)
        return tuple(s.ins[reader.index] for s in self._options(reader.op))

    def _options(self, op: Op) -> tuple[Strategy, ...]:
        return self.strategies[self.node[op]]

    def _made(self, value: Value, producer: Op | None) -> tuple[Placement, ...]:
        """Return where each strategy of the producer leaves a value."""
        if producer is None:
            return (REPLICATE,)
        at = producer.results.index(value)
        return tuple(s.outs[at] for s in self._options(producer))

    def _edge(self, problem: Problem, value: Value, producer: Op, reader: Reader) -> None:
        assert reader.op is not None
        made, wanted = self._made(value, producer), self._wants(reader)
        table = self._table(value, made, wanted, self._way(value, producer))
        problem.pair(self.node[producer], self.node[reader.op], table)

    def _hub(
        self,
        problem: Problem,
        value: Value,
        producer: Op | None,
        readers: Sequence[Reader],
    ) -> None:
        way = self._way(value, producer)
        made = tuple(dict.fromkeys(self._made(value, producer)))
        wanted = dict.fromkeys(p for r in readers for p in self._wants(r))
        options = tuple(
            (a, b) for a in made for b in dict.fromkeys((a, *wanted)) if way(a, b) < math.inf
        )
        hub = problem.variable([way(a, b) for a, b in options])
        if producer is not None and isinstance(producer.kind, Constant):
            held = [self.prices.held(value, b) if a != b else 0.0 for a, b in options]
            self.weighs[hub] = np.array(held)
        self.shared[value] = hub, options
        if producer is not None:
            states = self._made(value, producer)
            fits = [[0.0 if at == a else math.inf for a, _ in options] for at in states]
            problem.pair(self.node[producer], hub, np.array(fits))
        for r in readers:
            table = self._table(value, options, self._wants(r), _either(way), shared=True)
            if r.op is None:
                problem.alone[hub] = problem.alone[hub] + table[:, 0]
            else:
                problem.pair(hub, self.node[r.op], table)

    def _way(self, value: Value, producer: Op | None) -> Callable[[Placement, Placement], float]:
        """Return what it takes to bring ``value`` from one placement to another, in seconds."""
        nbytes = self.prices.of(value)
        if producer is not None and isinstance(producer.kind, Constant):
            return _loaded
        return lambda a, b: seconds(a, b, nbytes, self.link, self.ranks)

    def _table(
        self,
        value: Value,
        made: Sequence[object],
        wanted: Sequence[Placement],
        way: Callable[..., float],
        shared: bool = False,
    ) -> Table:
        """Return the costs of every pair; equal layers share one table."""
        key = (value.type, tuple(made), tuple(wanted), way is _loaded, shared)
        constant = self.fn.producer.get(value)
        key = (*key, constant is not None and isinstance(constant.kind, Constant))
        found = self.tables.get(key)
        if found is None:
            found = np.array([[way(a, b) for b in wanted] for a in made], np.float64)
            self.tables[key] = found
        return found


def _loaded(a: Placement, b: Placement) -> float:
    """Return the seconds in which a constant gets from ``a`` to ``b``: it is loaded so, or not."""
    if a == b or (isinstance(a, Replicate) and isinstance(b, Shard)):
        return 0.0
    return math.inf


def _either(
    way: Callable[[Placement, Placement], float],
) -> Callable[[tuple[Placement, Placement], Placement], float]:
    """Return what a reader waits for that takes a value where it is made or where it is brought."""
    return lambda pair, want: min(way(pair[0], want), way(pair[1], want))
