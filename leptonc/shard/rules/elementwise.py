"""Elementwise ops: every axis may be cut; linear ones also take sums over the ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from leptonc.ir.core import Kind
from leptonc.ir.kinds import binary, pointwise, unary
from leptonc.shard.placement import PARTIAL, REPLICATE, Placement, Shard
from leptonc.shard.strategy import Rule, Site, Strategy, can_cut


def any_axis(site: Site) -> Iterator[Strategy]:
    """Yield a strategy for each axis of the result; an operand that is broadcast there is whole."""
    (result,) = site.op.results
    rank = result.type.rank
    asked = dict.fromkeys(site.of_result())
    for i, operand in enumerate(site.op.operands):
        for s in site.of(i):
            axis = s.axis + rank - operand.type.rank
            if operand.type.shape[s.axis] == result.type.shape[axis]:
                asked[Shard(axis, s.outer)] = None
    for s in asked:
        if can_cut(result.type.shape[s.axis]):
            yield Strategy(_below(site, s), (s,))


def _below(site: Site, s: Shard) -> tuple[Placement, ...]:
    """Return where the operands are when the result is cut by ``s``."""
    (result,) = site.op.results
    return tuple(below(v.type.shape, result.type.shape, s) for v in site.op.operands)


def below(shape: tuple[object, ...], to: tuple[object, ...], s: Shard) -> Placement:
    """Return how a value of ``shape``, broadcast to ``to``, is cut when the whole is by ``s``."""
    axis = s.axis - (len(to) - len(shape))
    if axis < 0 or shape[axis] != to[s.axis]:
        return REPLICATE
    return Shard(axis, s.outer)


def _sum_of_sums(site: Site) -> Iterator[Strategy]:
    """Addition: the sum of two sums over the ranks is one, if neither is broadcast... or is.

    A broadcast repeats an addend of every rank alike, so sums pass through it.
    """
    yield from any_axis(site)
    yield Strategy((PARTIAL, PARTIAL), (PARTIAL,))


def _scaled_sum(site: Site) -> Iterator[Strategy]:
    """Multiplication: a sum over the ranks times what every rank has whole."""
    yield from any_axis(site)
    if site.op.result.type.dtype.is_float:
        yield Strategy((PARTIAL, REPLICATE), (PARTIAL,))
        yield Strategy((REPLICATE, PARTIAL), (PARTIAL,))


def _divided_sum(site: Site) -> Iterator[Strategy]:
    yield from any_axis(site)
    if site.op.result.type.dtype.is_float:
        yield Strategy((PARTIAL, REPLICATE), (PARTIAL,))


def _negated_sum(site: Site) -> Iterator[Strategy]:
    yield from any_axis(site)
    yield Strategy((PARTIAL,), (PARTIAL,))


def _chosen_sum(site: Site) -> Iterator[Strategy]:
    yield from any_axis(site)
    yield Strategy((REPLICATE, PARTIAL, PARTIAL), (PARTIAL,))


RULES: Mapping[type[Kind], Rule] = {
    binary.Add: _sum_of_sums,
    binary.Sub: _sum_of_sums,
    binary.Mul: _scaled_sum,
    binary.Div: _divided_sum,
    unary.Neg: _negated_sum,
    pointwise.Where: _chosen_sum,
}
