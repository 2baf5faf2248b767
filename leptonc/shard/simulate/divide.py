"""The planner at work on a short program: which strategies, and what a rank then does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from leptonc.cost.cluster import Cluster
from leptonc.ir.kinds.data import Constant
from leptonc.shard.graph import Graph
from leptonc.shard.hints import restrict
from leptonc.shard.lower import lower
from leptonc.shard.parts import Parts
from leptonc.shard.placement import Placement, Replicate, Shard
from leptonc.shard.price import Prices
from leptonc.shard.program import Spmd
from leptonc.shard.simulate.repeat import Short
from leptonc.shard.simulate.tally import Tally, tally
from leptonc.shard.spread import spread


@dataclass(frozen=True, eq=False)
class Divided:
    """A short program among ranks.

    Attributes:
        short: the program.
        program: what every rank runs.
        tally: what the first rank does, which has most to do.
        weights: where weights of two axes and more are, by name.
    """

    short: Short
    program: Spmd
    tally: Tally
    weights: Mapping[str, Placement]


def divide(
    short: Short,
    cluster: Cluster,
    ranks: int,
    fixed: Mapping[str, Placement] | None = None,
    price: float = 0.0,
) -> Divided:
    """Return the fastest way to divide a program among ``ranks`` neighbours of ``cluster``.

    Args:
        short: the program.
        cluster: devices and links.
        ranks: how many.
        fixed: where weights are already, by name.
        price: seconds that a byte of weights is worth, above 0 where memory is short.

    Raises:
        PlanError: a weight cannot be where it is said to be.
    """
    fn = short.function
    found = spread(fn, ranks)
    names = _weight_names(short)
    asked = {n: p for n, p in (fixed or {}).items() if n in names}
    allowed = restrict(fn, found, asked, ranks)
    parts = Parts(found.units, (1.0,) * ranks)
    graph = Graph(
        fn,
        allowed,
        Prices(cluster.device, parts, cluster.link_of(ranks)),
        cluster.link_of(ranks),
        ranks,
    )
    choice = graph.trade.sloped(price) if price else graph.trade.fastest()
    strategies = graph.chosen(choice.states)
    program = lower(fn, strategies, parts, graph.brought(choice.states))
    weights = {
        op.result.hint: s.outs[0]
        for op, s in zip(fn.ops, strategies, strict=True)
        if op.results[0].hint in names and isinstance(s.outs[0], (Shard, Replicate))
    }
    local = program.local(0)
    return Divided(short, program, tally(local, len(fn.ops), ranks), weights)


def _weight_names(short: Short) -> set[str]:
    """Return the names of weights of two axes and more that no other weight has."""
    named = [
        op.result.hint
        for op in short.function.ops
        if isinstance(op.kind, Constant) and op.result.type.rank >= 2 and op.result.hint
    ]
    return {n for n in named if named.count(n) == 1}
