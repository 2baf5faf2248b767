"""Products and norms: batch, rows and columns; sums over a cut axis are partial."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from leptonc.ir.core import Kind
from leptonc.ir.kinds import contract, norm
from leptonc.shard.halo import HALO, halo
from leptonc.shard.moments import MOMENTS
from leptonc.shard.placement import PARTIAL, REPLICATE, Placement, Shard
from leptonc.shard.rules.elementwise import below
from leptonc.shard.strategy import Rule, Site, Strategy, can_cut


def linear(site: Site) -> Iterator[Strategy]:
    """``x[...,k] @ w[n,k].T + b[n]``: an axis of the batch, columns ``n``, rows ``k``, sums."""
    last, more = site.rank_of(0) - 1, len(site.op.operands) == 3
    for s in dict.fromkeys((*site.of(0), *site.of_result())):
        if s.axis < last and can_cut(site.size(0, s.axis)):
            yield Strategy(_with((s, REPLICATE), more), (s,))
    columns = [("in", 1, 0), ("out", 0, last)] + [("in", 2, 0)] * more
    for outer in site.blocks(*columns):
        ins: tuple[Placement, ...] = (REPLICATE, Shard(0, outer))
        yield Strategy(_with(ins, more, Shard(0, outer)), (Shard(last, outer),))
    for outer in site.blocks(("in", 0, last), ("in", 1, 1)):
        ins = (Shard(last, outer), Shard(1, outer))
        yield Strategy(_with(ins, more, PARTIAL), (PARTIAL,))
    yield Strategy(_with((PARTIAL, REPLICATE), more, PARTIAL), (PARTIAL,))


def _with(
    ins: tuple[Placement, ...], more: bool, bias: Placement = REPLICATE
) -> tuple[Placement, ...]:
    """Return the operands' placements; the bias' is last."""
    return (*ins, bias) if more else ins


def matmul(site: Site) -> Iterator[Strategy]:
    """``x[...,m,k] @ y[...,k,n]``: an axis of the batch, ``m``, ``n``, ``k``, and sums."""
    x, y = (v.type for v in site.op.operands)
    out = site.op.result.type
    rank, batch = out.rank, out.rank - 2
    for axis in range(batch):
        for s in _shards(site, axis, rank):
            left = below(x.shape[:-2], out.shape[:-2], s)
            right = below(y.shape[:-2], out.shape[:-2], s)
            yield Strategy((left, right), (s,))
    for outer in site.blocks(("in", 0, x.rank - 2), ("out", 0, rank - 2)):
        yield Strategy((Shard(x.rank - 2, outer), REPLICATE), (Shard(rank - 2, outer),))
    for outer in site.blocks(("in", 1, y.rank - 1), ("out", 0, rank - 1)):
        yield Strategy((REPLICATE, Shard(y.rank - 1, outer)), (Shard(rank - 1, outer),))
    for outer in site.blocks(("in", 0, x.rank - 1), ("in", 1, y.rank - 2)):
        yield Strategy((Shard(x.rank - 1, outer), Shard(y.rank - 2, outer)), (PARTIAL,))
    yield Strategy((PARTIAL, REPLICATE), (PARTIAL,))
    yield Strategy((REPLICATE, PARTIAL), (PARTIAL,))


def _shards(site: Site, axis: int, rank: int) -> Iterator[Shard]:
    """Yield the cuts of result axis ``axis`` that it or an operand has."""
    places = [("out", 0, axis)]
    for i, v in enumerate(site.op.operands):
        own = axis - (rank - v.type.rank)
        if own >= 0 and v.type.shape[own] == site.op.result.type.shape[axis]:
            places.append(("in", i, own))
    if can_cut(site.op.result.type.shape[axis]):
        yield from (Shard(axis, outer) for outer in site.blocks(*places))


def conv(site: Site) -> Iterator[Strategy]:
    """Batch; channels made, channels read and summed; with groups whole groups of both."""
    more = len(site.op.operands) == 3
    for s in _shards_of_batch(site):
        yield Strategy(_with((s, REPLICATE), more), (s,))
    if isinstance(site.kind, contract.Conv):
        yield from spatial(site)
    yield Strategy(_with((PARTIAL, REPLICATE), more, PARTIAL), (PARTIAL,))
    made, read = (0, 1) if isinstance(site.kind, contract.Conv) else (1, 0)
    if site.kind.groups > 1:
        for outer in site.blocks(("in", 0, 1), ("in", 1, 0), ("out", 0, 1)):
            if outer == 1:
                ins: tuple[Placement, ...] = (Shard(1), Shard(0))
                groups = int(site.kind.groups)
                yield Strategy(_with(ins, more, Shard(0)), (Shard(1),), units=groups)
        return
    for outer in site.blocks(("in", 1, made), ("out", 0, 1)):
        ins = (REPLICATE, Shard(made, outer))
        yield Strategy(_with(ins, more, Shard(0, outer)), (Shard(1, outer),))
    for outer in site.blocks(("in", 0, 1), ("in", 1, read)):
        yield Strategy(_with((Shard(1, outer), Shard(read, outer)), more, PARTIAL), (PARTIAL,))


def spatial(site: Site) -> Iterator[Strategy]:
    """Yield spatial axes, of which ranks exchange border rows; weights are whole."""
    extra = len(site.op.operands) - 1
    first = site.rank_of(0) - len(site.kind.stride)
    for s in dict.fromkeys((*site.of(0), *site.of_result())):
        if s.axis >= first and s.outer == 1:
            need = halo(site.op, s.axis)
            if need is not None:
                yield Strategy((s, *[REPLICATE] * extra), (s,), units=need.units, form=HALO)


def _shards_of_batch(site: Site) -> Iterator[Shard]:
    for outer in site.blocks(("in", 0, 0), ("out", 0, 0)):
        yield Shard(0, outer)


def attention(site: Site) -> Iterator[Strategy]:
    """Axes of the batch, heads, rows of queries, columns of values.

    With fewer heads of keys than ranks, keys and values are whole on every rank and repeated to
    the heads of the queries.
    """
    out, kind = site.op.result.type, site.kind
    rank = out.rank
    for axis in range(rank - 2):
        grouped = kind.gqa and axis == rank - 3
        for s in _shards(site, axis, rank):
            if not grouped:
                yield Strategy(_attended(site, s), (s,))
            elif s.outer == 1:
                yield from _heads(site, s)
    if not kind.causal:
        for s in _shards(site, rank - 2, rank):
            yield Strategy((s, REPLICATE, REPLICATE, *_mask(site, s)), (s,))
    values = site.op.operands[2].type.rank - 1
    for outer in site.blocks(("in", 2, values), ("out", 0, rank - 1)):
        ins = (REPLICATE, REPLICATE, Shard(values, outer), *_mask(site, None))
        yield Strategy(ins, (Shard(rank - 1, outer),))


def _attended(site: Site, s: Shard) -> tuple[Placement, ...]:
    """Return the operands' placements when ``s`` cuts an axis before the matrices."""
    out = site.op.result.type.shape[:-2]
    parts = [below(v.type.shape[:-2], out, s) for v in site.op.operands[:3]]
    return (*parts, *_mask(site, s))


def _mask(site: Site, s: Shard | None) -> tuple[Placement, ...]:
    """Return the mask's placement, () without one; it is broadcast to the scores."""
    if len(site.op.operands) < 4:
        return ()
    if s is None:
        return (REPLICATE,)
    return (below(site.op.operands[3].type.shape, site.op.result.type.shape, s),)


def _heads(site: Site, s: Shard) -> Iterator[Strategy]:
    """Yield the strategy that cuts heads which share keys."""
    heads, groups = site.size(0, site.rank_of(0) - 3), site.size(1, site.rank_of(1) - 3)
    if not isinstance(heads, int) or not isinstance(groups, int):
        return
    key = Shard(site.rank_of(1) - 3)
    if groups >= site.ranks:
        units = math.gcd(heads, groups)
        yield Strategy((s, key, key, *_mask(site, s)), (s,), units=units)
    elif groups > 0:
        yield Strategy((s, REPLICATE, REPLICATE, *_mask(site, s)), (s,), form="repeat-keys")


def batch_norm(site: Site) -> Iterator[Strategy]:
    """Any axis; statistics follow the channels."""
    extra = len(site.op.operands) - 1
    for s in dict.fromkeys((*site.of(0), *site.of_result())):
        own: Placement = Shard(0, s.outer) if s.axis == 1 else REPLICATE
        yield Strategy((s, *[own] * extra), (s,))


def trailing_norm(site: Site) -> Iterator[Strategy]:
    """Layer and RMS norm: every axis; along one that is normalised rows are put together."""
    extra, first = len(site.op.operands) - 1, site.rank_of(0) - site.kind.axes
    for s in dict.fromkeys((*site.of(0), *site.of_result())):
        if s.axis < first:
            yield Strategy((s, *[REPLICATE] * extra), (s,))
        elif known_sizes(site, range(first, site.rank_of(0))):
            own = Shard(s.axis - first, s.outer)
            yield Strategy((s, *[own] * extra), (s,), form=MOMENTS)


def group_norm(site: Site) -> Iterator[Strategy]:
    """Yield the batch, whole groups of channels, and what cuts each group."""
    extra = len(site.op.operands) - 1
    known = known_sizes(site, range(1, site.rank_of(0)))
    for s in dict.fromkeys((*site.of(0), *site.of_result())):
        if known and (s.axis > 1 or (s.axis == 1 and s.outer % int(site.kind.groups) == 0)):
            own: Placement = Shard(0, s.outer) if s.axis == 1 else REPLICATE
            yield Strategy((s, *[own] * extra), (s,), form=MOMENTS)
        if s.axis == 0:
            yield Strategy((s, *[REPLICATE] * extra), (s,))
        elif s.axis == 1 and s.outer == 1:
            yield Strategy((s, *[Shard(0)] * extra), (s,), units=int(site.kind.groups))


def known_sizes(site: Site, axes: Iterable[int]) -> bool:
    """Return whether the first operand has known sizes along ``axes``: a count is made of them."""
    return all(isinstance(site.size(0, a), int) for a in axes)


def other_axes(site: Site) -> Iterator[Strategy]:
    """Softmax and what else works along one axis: every other axis."""
    for s in dict.fromkeys((*site.of(0), *site.of_result())):
        if s.axis != site.kind.axis:
            yield Strategy((s,), (s,))


RULES: Mapping[type[Kind], Rule] = {
    contract.Linear: linear,
    contract.Matmul: matmul,
    contract.Conv: conv,
    contract.ConvTranspose: conv,
    contract.Attention: attention,
    norm.BatchNorm: batch_norm,
    norm.LayerNorm: trailing_norm,
    norm.RmsNorm: trailing_norm,
    norm.GroupNorm: group_norm,
    norm.Softmax: other_axes,
    norm.LogSoftmax: other_axes,
}
