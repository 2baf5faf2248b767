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
from leptonc.shard.solve import solve
from leptonc.shard.spread import Spread, spread
from leptonc.shard.strategy import Strategy

OBJECTIVES = ("latency", "memory")
_STEPS = 40  # of the search for a price of memory, each of which poses the problem once
_CLOSE = 0.95  # of a limit of memory: a plan that holds so much is not improved
_DEAR = 1.0  # seconds a byte: more than any time is worth


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
        exact: whether no choice of strategies is predicted to be faster.
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
    chosen = planner.cheapest(_DEAR if objective == "memory" else 0.0)
    if chosen.figures.held > limit:
        chosen = planner.fitting(limit)
    check(chosen.program)
    return Plan(
        fn, cluster, chosen.strategies, chosen.program, chosen.figures, whole_figures(fn, cluster),
        chosen.exact, planner.spread, time.perf_counter() - start, objective,
        lambda: planner.others(chosen),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Made:
    strategies: tuple[Strategy, ...]
    program: Spmd
    figures: Figures
    exact: bool


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
    made: dict[object, _Made] = field(default_factory=dict[object, _Made])

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
        self.prices = Prices(self.cluster.device, self._parts())
        self.graph = self._graph(self.allowed)

    def _parts(self) -> Parts:
        return Parts(self.spread.units, self.speeds)

    def cheapest(self, price: float) -> _Made:
        """Return the plan of least time when a byte of weights costs ``price`` seconds.

        Raises:
            PlanError: there is none under the hints.
        """
        made = self._made(self.graph, price)
        if made is None:
            raise PlanError(
                f"{self.fn.name}: no plan keeps all hints: an op cannot take a weight as it is "
                f"placed; leave out one of: {', '.join(map(repr, self.hints))}"
            )
        return made

    def _made(self, graph: Graph, price: float, limit: float = math.inf) -> _Made | None:
        """Return the cheapest plan; None where there is none, or its weights alone are too many."""
        choice = solve(graph.pose(price))
        if math.isinf(choice.cost) or graph.weights(choice.states) > limit:
            return None
        strategies, shared = graph.chosen(choice.states), graph.brought(choice.states)
        key = (strategies, tuple(shared.items()))
        made = self.made.get(key)
        if made is None:  # prices of memory that differ a little often lead to one choice
            program = lower(self.fn, strategies, self._parts(), shared)
            measured = figures(program, self.cluster)
            made = self.made[key] = _Made(strategies, program, measured, choice.exact)
        return made

    def _graph(self, allowed: Sequence[tuple[Strategy, ...]]) -> Graph:
        return Graph(self.fn, allowed, self.prices, self._link(), self.cluster.count)

    def _link(self) -> Link:
        return self.cluster.link_of(self.cluster.count)

    def fitting(self, limit: float) -> _Made:
        """Return a plan that holds at most ``limit`` bytes a rank: the price of memory is raised.

        Raises:
            PlanError: not even the smallest plan fits.
        """
        smallest = self.cheapest(_DEAR)
        if smallest.figures.held > limit:
            raise PlanError(
                f"{self.fn.name}: the smallest plan for {self.cluster.count} x "
                f"{self.cluster.device.name} holds {smallest.figures.held / 2**30:.2f} GiB a "
                f"rank, {limit / 2**30:.2f} are there; use more devices, or compress the weights"
            )
        low, high, best = 1e-16, _DEAR, smallest
        for _ in range(_STEPS):
            if high / low < 1.01 or best.figures.held > _CLOSE * limit:
                break
            middle = math.sqrt(low * high)
            made = self._made(self.graph, middle, limit)
            if made is not None and made.figures.held <= limit:
                high = middle
                best = min(best, made, key=lambda m: m.figures.total_s)
            else:
                low = middle
        return best

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
            made = self._made(self._graph(allowed), 0.0)
            if made is not None and made.strategies != chosen.strategies:
                found.append(Rejected(name, made.figures.total_s, made.figures.weights))
        return tuple(found)


def _only_whole(op: Op, s: Strategy) -> bool:
    return not s.divides and all(p == REPLICATE for p in (*s.ins, *s.outs))


def _weights_whole(op: Op, s: Strategy) -> bool:
    return not isinstance(op.kind, Constant) or s.outs[0] == REPLICATE


def _no_sums(op: Op, s: Strategy) -> bool:
    return all(p == REPLICATE or isinstance(p, Shard) for p in s.outs)


__all__ = ["OBJECTIVES", "Plan", "Rejected", "plan"]
