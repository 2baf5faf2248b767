"""Quantized values, products and pools of integers: batch, channels, columns.

Rows of a product are not cut: its sum in integers is exact, and scaled once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from leptonc.ir.core import Kind
from leptonc.ir.kinds import quantize
from leptonc.shard.placement import REPLICATE, Placement, Shard
from leptonc.shard.rules.contraction import spatial
from leptonc.shard.strategy import Rule, Site, Strategy, can_cut


def coded(site: Site) -> Iterator[Strategy]:
    """Every axis; scales and zero points follow where there is one for each place along it."""
    extra = len(site.op.operands) - 1
    for s in dict.fromkeys((*site.of(0), *site.of_result())):
        scale = _scale(site, s)
        if scale is not None:
            yield Strategy((s, *[scale] * extra), (s,))


def _scale(site: Site, s: Shard) -> Placement | None:
    """Return where scales are when the codes are cut by ``s``; None where that is not possible."""
    rank = site.rank_of(1)
    if rank == 2:  # groups along the rows of a matrix, which stay whole
        return s if s.axis == 0 else None
    return Shard(0, s.outer) if rank == 1 and s.axis == site.kind.axis else REPLICATE


def rows(site: Site) -> Iterator[Strategy]:
    """Every axis but the last, which has one scale."""
    for s in dict.fromkeys((*site.of(0), *site.of_result(0), *site.of_result(1))):
        if s.axis < site.rank_of(0) - 1:
            yield Strategy((s,), (s, s))


def nibbles(site: Site) -> Iterator[Strategy]:
    """Both axes: a byte makes two neighbours."""
    for s in dict.fromkeys((*site.of(0), *site.of_result())):
        size = site.size(0, s.axis)
        if isinstance(size, int) and size % s.outer == 0:
            yield Strategy((s,), (s,))


def linear(site: Site) -> Iterator[Strategy]:
    """Axes of the batch, and columns with their scales."""
    last, extra = site.rank_of(0) - 1, len(site.op.operands) - 2
    for s in dict.fromkeys((*site.of(0), *site.of_result())):
        if s.axis < last and can_cut(site.size(0, s.axis)):
            yield Strategy((s, *[REPLICATE] * (1 + extra)), (s,))
    places = [("in", i, 0) for i in range(1, 2 + extra)]
    for outer in site.blocks(*places, ("out", 0, last)):
        own = [Shard(0, outer)] * (1 + extra)
        yield Strategy((REPLICATE, *own), (Shard(last, outer),))


def conv(site: Site) -> Iterator[Strategy]:
    """Batch, spatial axes, and channels made with their scales; with groups whole groups."""
    extra = len(site.op.operands) - 2
    for outer in site.blocks(("in", 0, 0), ("out", 0, 0)):
        s = Shard(0, outer)
        yield Strategy((s, *[REPLICATE] * (1 + extra)), (s,))
    yield from spatial(site)
    groups = int(site.kind.groups)
    if groups > 1:
        yield Strategy((Shard(1), *[Shard(0)] * (1 + extra)), (Shard(1),), units=groups)
        return
    places = [("in", i, 0) for i in range(1, 2 + extra)]
    for outer in site.blocks(*places, ("out", 0, 1)):
        own = [Shard(0, outer)] * (1 + extra)
        yield Strategy((REPLICATE, *own), (Shard(1, outer),))


def pool(site: Site) -> Iterator[Strategy]:
    """Axes outside the window; the scale is one number."""
    for s in dict.fromkeys((*site.of(0), *site.of_result())):
        if s.axis < site.rank_of(0) - len(site.kind.kernel):
            yield Strategy((s, REPLICATE), (s,))


RULES: Mapping[type[Kind], Rule] = {
    **dict.fromkeys((quantize.Quantize, quantize.Dequantize, quantize.FakeQuantize), coded),
    quantize.QuantizeRows: rows,
    quantize.UnpackInt4: nibbles,
    quantize.IntLinear: linear,
    quantize.IntConv: conv,
    quantize.IntAvgPool: pool,
}
