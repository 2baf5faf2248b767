"""The planner: how a function is divided among ranks so that a call takes least time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from leptonc.cost.cluster import Cluster, Link
from leptonc.errors import PlanError
from leptonc.ir.core import Function, Op, Trait
from leptonc.ir.kinds.data import Constant
from leptonc.shard.check import check
from leptonc.shard.graph import Graph
from leptonc.shard.hints import Hints, restrict
from leptonc.shard.lower import lower
from leptonc.shard.measure import Figures, figures, whole_figures
from leptonc.shard.parts import Parts, is_name_of_parts
from leptonc.shard.placement import REPLICATE, Shard
from leptonc.shard.price import Prices
from leptonc.shard.program import Spmd
from leptonc.shard.solve import Choice
from leptonc.shard.spread import Spread, spread
from leptonc.shard.strategy import Strategy

OBJECTIVES = ("latency", "memory")
_TRIES = 4  # at what a plan under a limit of memory holds beside its weights
_CLOSE = 0.95  # of a limit of memory: a plan that holds so much is not improved


@dataclass(frozen=True)
class Rejected:
    """Another way to divide the function, and what it would have cost."""

    name: str
    seconds: float
    weights: float


@dataclass(frozen=True, eq=False)
class Plan:
    """How a function is divided.

    Attributes:
        function: the whole program.
        cluster: devices and links it was planned for.
        strategies: of each op.
        program: what every rank runs.
        figures: predicted times and bytes of the rank that has most to do.
        alone: the same of one device that runs the whole program.
        exact: whether no choice of strategies is predicted to be faster; under a limit of memory
            none whose weights leave as much for other values.
        gap: by how much of its time the plan may be slower than the fastest of those; inf where
            nothing is known.
        spread: what the rules allowed.
        planning_s: how long planning took.
        objective: what was minimised.
        reject: plans the ways that ``rejected`` tells of.
    """

    function: Function
    cluster: Cluster
    strategies: tuple[Strategy, ...]
    program: Spmd
    figures: Figures
    alone: Figures
    exact: bool
    gap: float
    spread: Spread
    planning_s: float
    objective: str
    reject: Callable[[], tuple[Rejected, ...]] = field(repr=False)

    @cached_property
    def rejected(self) -> tuple[Rejected, ...]:
        """Other ways, dearer or too large; planned when they are asked for."""
        return self.reject()

    @property
    def pays(self) -> bool:
        """Whether a call is predicted to take less time than on one device."""
        return self.figures.total_s < self.alone.total_s

    @property
    def cut_ops(self) -> tuple[Op, ...]:
        """The ops that the ranks share."""
        pairs = zip(self.function.ops, self.strategies, strict=True)
        return tuple(op for op, s in pairs if s.divides and not isinstance(op.kind, Constant))

    @property
    def whole_ops(self) -> tuple[Op, ...]:
        """The ops that every rank runs alike; views and constants do not count."""
        pairs = zip(self.function.ops, self.strategies, strict=True)
        return tuple(
            op for op, s in pairs
            if not s.divides and op.operands and Trait.VIEW not in op.kind.traits
        )  # fmt: skip


def plan(
    fn: Function,
    cluster: Cluster,
    *,
    hints: Hints | None = None,
    objective: str = "latency",
    speeds: Sequence[float] | None = None,
    memory: float | None = None,
) -> Plan:
    """Return the fastest way to divide ``fn`` over the cluster's devices, one rank each.

    Args:
        fn: a program before fusion.
        cluster: devices and links.
        hints: placements that the user asks for, by name (``leptonc.shard.hints``).
        objective: ``"latency"``, or ``"memory"``: the fewest bytes of weights a rank, then time.
        speeds: of the ranks, for uneven parts; default: equal.
        memory: bytes that a rank may hold; default: the device's.

    Raises:
        PlanError: a hint that cannot be met, no plan fits into the memory, or a name of a size that
            sizes of parts have.
    """
    if objective not in OBJECTIVES:
        raise PlanError(f"unknown objective {objective!r}; there are: {', '.join(OBJECTIVES)}")
    start = time.perf_counter()
    planner = _Planner.of(fn, cluster, hints, speeds)
    limit = cluster.device.memory if memory is None else memory
    chosen = planner.smallest() if objective == "memory" else planner.fastest(limit)
    if chosen is None or chosen.figures.held > limit:
        chosen = planner.fitting(limit)
    check(chosen.program)
    return Plan(
        fn, cluster, chosen.strategies, chosen.program, chosen.figures, planner.alone,
        chosen.gap == 0.0, chosen.gap, planner.spread, time.perf_counter() - start, objective,
        lambda: planner.others(chosen),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Made:
    strategies: tuple[Strategy, ...]
    program: Spmd
    figures: Figures
    gap: float


@dataclass
class _Planner:
    """One function, its strategies and prices."""

    fn: Function
    cluster: Cluster
    spread: Spread
    allowed: tuple[tuple[Strategy, ...], ...]
    speeds: Sequence[float]
    hints: Hints
    prices: Prices = field(init=False)
    graph: Graph = field(init=False)

    @staticmethod
    def of(
        fn: Function, cluster: Cluster, hints: Hints | None, speeds: Sequence[float] | None
    ) -> _Planner:
        ranks = cluster.count
        taken = [d.name for d in fn.dims if is_name_of_parts(d.name)]
        if taken:
            raise PlanError(
                f"{fn.name}: size {taken[0]!r} of the model has a name that sizes of parts have "
                "(rank, c or o and a number); give it another one"
            )
        if speeds is not None and (len(speeds) != ranks or min(speeds) <= 0):
            raise PlanError(f"speeds must be {ranks} numbers above 0, got {list(speeds)}")
        found = spread(fn, ranks)
        allowed = restrict(fn, found, hints or {}, ranks)
        return _Planner(fn, cluster, found, allowed, speeds or (1.0,) * ranks, hints or {})

    def __post_init__(self) -> None:
        self.prices = Prices(self.cluster.device, self._parts(), self._link())
        self.graph = self._graph(self.allowed)

    def _parts(self) -> Parts:
        return Parts(self.spread.units, self.speeds)

    @cached_property
    def alone(self) -> Figures:
        """What one device takes and holds that runs everything."""
        return whole_figures(self.fn, self.cluster)

    def fastest(self, limit: float) -> _Made | None:
        """Return the plan of least time; None where its weights alone break a limit.

        Raises:
            PlanError: there is none under the hints.
        """
        choice = self._possible(self.graph.trade.fastest())
        if self.graph.trade.held(choice.states) > limit:
            return None
        return self._made(self.graph, choice, 0.0 if choice.exact else math.inf)

    def smallest(self) -> _Made:
        """Return the plan of fewest bytes of weights, then of least time.

        Raises:
            PlanError: there is none under the hints.
        """
        choice = self._possible(self.graph.trade.smallest())
        return self._made(self.graph, choice, 0.0 if choice.exact else math.inf)

    def _possible(self, choice: Choice) -> Choice:
        if math.isinf(choice.cost):
            raise PlanError(
                f"{self.fn.name}: no plan keeps all hints: an op cannot take a weight as it is "
                f"placed; leave out one of: {', '.join(map(repr, self.hints))}"
            )
        return choice

    def _made(self, graph: Graph, choice: Choice, gap: float) -> _Made:
        strategies, shared = graph.chosen(choice.states), graph.brought(choice.states)
        program = lower(self.fn, strategies, self._parts(), shared)
        return _Made(strategies, program, figures(program, self.cluster), gap)

    def _graph(self, allowed: Sequence[tuple[Strategy, ...]]) -> Graph:
        return Graph(self.fn, allowed, self.prices, self._link(), self.cluster.count)

    def _link(self) -> Link:
        return self.cluster.link_of(self.cluster.count)

    def fitting(self, limit: float) -> _Made:
        """Return a plan that holds at most ``limit`` bytes a rank.

        What a plan holds beside its weights is known when it is lowered; weights get what is left
        of the limit, by what one device holds at first.

        Raises:
            PlanError: not even the smallest plan fits.
        """
        beside, best = self.alone.activations, None
        for _ in range(_TRIES):
            found = self.graph.trade.within(limit - beside)
            made = self.smallest() if found is None else self._made(
                self.graph, found.choice, 0.0 if found.choice.exact else found.gap
            )  # fmt: skip
            fits = made.figures.held <= limit
            if fits and (best is None or made.figures.total_s < best.figures.total_s):
                best = made
            if beside == made.figures.activations or (fits and made.figures.held > _CLOSE * limit):
                break
            beside = made.figures.activations
        return best or self._last(limit)

    def _last(self, limit: float) -> _Made:
        """Return the smallest plan."""
        smallest = self.smallest()
        if smallest.figures.held > limit:
            raise PlanError(
                f"{self.fn.name}: the smallest plan for {self.cluster.count} x "
                f"{self.cluster.device.name} holds {smallest.figures.held / 2**30:.2f} GiB a "
                f"rank, {limit / 2**30:.2f} are there; use more devices, or compress the weights"
            )
        return smallest

    def others(self, chosen: _Made) -> tuple[Rejected, ...]:
        """Return ways of families that the chosen plan does not belong to."""
        families = {
            "every rank runs everything": _only_whole,
            "data only: weights whole on every rank": _weights_whole,
            "weights cut, results gathered behind each product": _no_sums,
        }
        found = list[Rejected]()
        for name, keep in families.items():
            allowed = tuple(
                tuple(s for s in options if keep(op, s)) or (options[0],)
                for op, options in zip(self.fn.ops, self.allowed, strict=True)
            )
            graph = self._graph(allowed)
            choice = graph.trade.fastest()
            if math.isinf(choice.cost) or graph.chosen(choice.states) == chosen.strategies:
                continue
            figures_ = self._made(graph, choice, math.inf).figures
            found.append(Rejected(name, figures_.total_s, figures_.weights))
        return tuple(found)


def _only_whole(op: Op, s: Strategy) -> bool:
    return not s.divides and all(p == REPLICATE for p in (*s.ins, *s.outs))


def _weights_whole(op: Op, s: Strategy) -> bool:
    return not isinstance(op.kind, Constant) or s.outs[0] == REPLICATE


def _no_sums(op: Op, s: Strategy) -> bool:
    return all(p == REPLICATE or isinstance(p, Shard) for p in s.outs)


__all__ = ["OBJECTIVES", "Plan", "Rejected", "plan"]
