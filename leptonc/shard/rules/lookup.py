"""Tables and their rows: cut along the width, along the indices, or along the vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from leptonc.ir.core import Kind
from leptonc.ir.kinds import data
from leptonc.shard.placement import PARTIAL, REPLICATE, Shard
from leptonc.shard.strategy import Rule, Site, Strategy, can_cut


def embedding(site: Site) -> Iterator[Strategy]:
    """Rows of ``w[v,d]``: indices, width, or vocabulary with a sum of rows and zeros."""
    last = site.op.result.type.rank - 1
    for s in dict.fromkeys((*site.of(1), *(s for s in site.of_result() if s.axis < last))):
        yield Strategy((REPLICATE, s), (s,))
    for outer in site.blocks(("in", 0, 1), ("out", 0, last)):
        yield Strategy((Shard(1, outer), REPLICATE), (Shard(last, outer),))
    if can_cut(site.size(0, 0)) and site.op.result.type.dtype.is_float:
        yield Strategy((Shard(0), REPLICATE), (PARTIAL,), form="vocabulary")


def index_select(site: Site) -> Iterator[Strategy]:
    """Any axis but the one selected from, and the axes of the indices."""
    axis, more = site.kind.axis, site.rank_of(1) - 1
    for s in site.of(0):
        if s.axis != axis:
            yield Strategy(
                (s, REPLICATE), (Shard(s.axis + (more if s.axis > axis else 0), s.outer),)
            )
    for s in site.of_result():
        own = s.axis - more if s.axis > axis + more else s.axis
        if axis <= s.axis <= axis + more and more >= 0:
            yield Strategy((REPLICATE, Shard(s.axis - axis, s.outer)), (s,))
        elif own != axis:
            yield Strategy((Shard(own, s.outer), REPLICATE), (s,))


def gather(site: Site) -> Iterator[Strategy]:
    """Any other axis, where both have one size."""
    x, i = (v.type.shape for v in site.op.operands)
    for s in dict.fromkeys((*site.of(0), *site.of(1))):
        if s.axis != site.kind.axis and x[s.axis] == i[s.axis]:
            yield Strategy((s, s), (s,))


def triangle(site: Site) -> Iterator[Strategy]:
    """Every axis before the matrices."""
    for s in dict.fromkeys((*site.of(0), *site.of_result())):
        if s.axis < site.rank_of(0) - 2:
            yield Strategy((s,), (s,))


def interpolate(site: Site) -> Iterator[Strategy]:
    """Batch and channels."""
    for s in dict.fromkeys((*site.of(0), *site.of_result())):
        if s.axis < 2:
            yield Strategy((s,), (s,))


def recurrent(site: Site) -> Iterator[Strategy]:
    """Yield the batch: axis 1 of inputs, outputs and states."""
    states = len(site.op.results) - 1
    weights = (REPLICATE,) * (len(site.op.operands) - 1 - states)
    for s in dict.fromkeys((*site.of(0), *site.of_result())):
        if s.axis == 1:
            yield Strategy((*[s] * (1 + states), *weights), (s,) * (1 + states))


RULES: Mapping[type[Kind], Rule] = {
    data.Embedding: embedding,
    data.IndexSelect: index_select,
    data.Gather: gather,
    data.Triangle: triangle,
    data.Interpolate: interpolate,
    data.Recurrent: recurrent,
}
