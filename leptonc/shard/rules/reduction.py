"""Reductions and pools: kept axes; a sum or an extreme over a cut axis is partial."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from leptonc.ir.core import Kind
from leptonc.ir.kinds import reduce
from leptonc.ir.types import DType
from leptonc.shard.moments import MOMENTS
from leptonc.shard.placement import PARTIAL, REPLICATE, Partial, Shard
from leptonc.shard.rules.contraction import known_sizes, other_axes, spatial
from leptonc.shard.strategy import Rule, Site, Strategy

_PARTIALS: Mapping[type[Kind], Partial] = {
    reduce.Sum: PARTIAL,
    reduce.Amax: Partial("max"),
    reduce.Amin: Partial("min"),
    reduce.Any: Partial("max"),
}


def _kept(site: Site, axes: tuple[int, ...], keepdim: bool) -> dict[int, int]:
    """Return where each axis that is not reduced is in the result."""
    kept = [a for a in range(site.rank_of(0)) if a not in axes]
    return {a: (a if keepdim else i) for i, a in enumerate(kept)}


def reduction(site: Site) -> Iterator[Strategy]:
    """Kept axes; reduced ones where the partial results can be combined."""
    place = _kept(site, site.kind.axes, site.kind.keepdim)
    back = {to: a for a, to in place.items()}
    for s in dict.fromkeys(
        (*site.of(0), *(Shard(back[s.axis], s.outer) for s in site.of_result() if s.axis in back))
    ):
        if s.axis in place:
            yield Strategy((s,), (Shard(place[s.axis], s.outer),))
        elif (partial := _PARTIALS.get(type(site.op.kind))) is not None:
            yield Strategy((s,), (partial,))
        elif isinstance(site.kind, reduce.Mean) and _countable(site):
            yield Strategy((s,), (PARTIAL,), form="mean")
        elif isinstance(site.kind, reduce.Var) and _spread(site):
            yield Strategy((s,), (REPLICATE,), form=MOMENTS)
    if isinstance(site.kind, (reduce.Sum, reduce.Mean)):
        yield Strategy((PARTIAL,), (PARTIAL,))


def _countable(site: Site) -> bool:
    """Return whether a mean may be a sum over a known count; in f16 that sum might overflow."""
    sizes = [site.size(0, a) for a in site.kind.axes]
    return site.op.result.type.dtype is not DType.F16 and all(isinstance(n, int) for n in sizes)


def _spread(site: Site) -> bool:
    """Return whether a variance is one of a known count, and divided by what is above 0."""
    sizes = [site.size(0, a) for a in site.kind.axes]
    count = math.prod(n for n in sizes if isinstance(n, int))
    return known_sizes(site, site.kind.axes) and count > site.kind.correction


def arg_reduction(site: Site) -> Iterator[Strategy]:
    """Kept axes only: an index counts from the start of the whole axis."""
    place = _kept(site, (site.kind.axis,), site.kind.keepdim)
    for s in site.of(0):
        if s.axis in place:
            yield Strategy((s,), (Shard(place[s.axis], s.outer),))


def pool(site: Site) -> Iterator[Strategy]:
    """Axes outside the window; those of it, where windows are alike everywhere."""
    k = site.kind
    floats = site.op.result.type.dtype.is_float  # codes have no value that never wins
    if isinstance(k, reduce.Pool) and floats:
        yield from spatial(site)
    inside = len(k.kernel) if isinstance(k, reduce.Pool) else len(k.output)
    for s in dict.fromkeys((*site.of(0), *site.of_result())):
        if s.axis < site.rank_of(0) - inside:
            yield Strategy((s,), (s,))


RULES: Mapping[type[Kind], Rule] = {
    **dict.fromkeys(
        (reduce.Sum, reduce.Mean, reduce.Prod, reduce.Amax, reduce.Amin, reduce.All, reduce.Any,
         reduce.Var),
        reduction,
    ),
    **dict.fromkeys((reduce.ArgMax, reduce.ArgMin), arg_reduction),
    reduce.CumSum: other_axes,
    **dict.fromkeys(
        (reduce.MaxPool, reduce.AvgPool, reduce.AdaptiveAvgPool, reduce.AdaptiveMaxPool), pool
    ),
}  # fmt: skip
