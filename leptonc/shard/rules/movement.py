"""Ops that move or rename elements: a cut follows its axis through them where it stays whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from leptonc.ir.core import Kind
from leptonc.ir.dims import Dim, product, same_dim
from leptonc.ir.kinds import data, shape
from leptonc.shard.placement import PARTIAL, Shard
from leptonc.shard.rules.elementwise import below
from leptonc.shard.strategy import Rule, Site, Strategy, can_cut


@dataclass(frozen=True, slots=True)
class Group:
    """Neighbouring axes of an operand that become neighbouring axes of the result."""

    before: tuple[int, ...]
    after: tuple[int, ...]


def groups(before: Sequence[Dim], after: Sequence[Dim]) -> tuple[Group, ...]:
    """Return the finest groups of axes of equal products, in order; () if none can be proven."""
    made, i, j = list[Group](), 0, 0
    while i < len(before) or j < len(after):
        a, b = i, j
        i, j = min(i + 1, len(before)), min(j + 1, len(after))
        while not same_dim(product(before[a:i]), product(after[b:j])):
            left, right = product(before[a:i]), product(after[b:j])
            smaller = isinstance(left, int) and isinstance(right, int) and left < right
            if (smaller or j == len(after)) and i < len(before):
                i += 1
            elif j < len(after):
                j += 1
            else:
                return ()
        made.append(Group(tuple(range(a, i)), tuple(range(b, j))))
    return tuple(made)


def through(
    s: Shard, axes: Sequence[int], sizes: Sequence[Dim], to: Group, out: Sequence[Dim]
) -> Shard | None:
    """Return the cut of the axes of the other side that cuts the same elements, if there is one.

    Args:
        s: a cut of one of ``axes``.
        axes: this side's axes of the group.
        sizes: all sizes of this side.
        to: ``after`` are the other side's axes.
        out: all sizes of the other side.

    In the flat order of the group a cut is ``blocks`` repetitions of a run that is divided among
    the ranks; ``behind`` elements make one step of it. The other side has it where an axis begins
    at a whole number of its own blocks, and the run ends with that axis.
    """
    ahead = product([sizes[a] for a in axes if a < s.axis])
    run = product([sizes[a] for a in axes if a >= s.axis])
    if not isinstance(ahead, int) or not isinstance(run, int):
        same = len(axes) == len(to.after) == 1
        return Shard(to.after[0], s.outer) if same else None
    blocks, run = ahead * s.outer, run // s.outer
    for axis in to.after:
        front = product([out[a] for a in to.after if a < axis])
        tail = product([out[a] for a in to.after if a > axis])
        size = out[axis]
        if not (isinstance(front, int) and isinstance(tail, int) and isinstance(size, int)):
            continue
        if front == 0 or blocks % front or size % (blocks // front):
            continue
        outer = blocks // front
        if size // outer > 1 and size // outer * tail == run:
            return Shard(axis, outer)
    return None


def reshape(site: Site) -> Iterator[Strategy]:
    """Yield cuts of whole runs on both sides."""
    before, after = site.op.operands[0].type.shape, site.op.result.type.shape
    found = dict[Strategy, None]()
    for g in groups(before, after):
        for s in site.of(0):
            if s.axis in g.before:
                to = through(s, g.before, before, g, after)
                if to is not None:
                    found[Strategy((s,), (to,))] = None
        back = Group(g.after, g.before)
        for s in site.of_result():
            if s.axis in g.after:
                own = through(s, g.after, after, back, before)
                if own is not None:
                    found[Strategy((own,), (s,))] = None
    yield from found
    yield Strategy((PARTIAL,), (PARTIAL,))


def transpose(site: Site) -> Iterator[Strategy]:
    """Yield cuts that follow their axis."""
    perm = site.kind.perm
    for s in dict.fromkeys(
        (*site.of(0), *(Shard(perm[s.axis], s.outer) for s in site.of_result()))
    ):
        yield Strategy((s,), (Shard(perm.index(s.axis), s.outer),))
    yield Strategy((PARTIAL,), (PARTIAL,))


def expand(site: Site) -> Iterator[Strategy]:
    """Yield cuts of axes that are there already, and of those that are repeated."""
    x, out = site.op.operands[0].type.shape, site.op.result.type.shape
    up = len(out) - len(x)
    shards = [Shard(s.axis + up, s.outer) for s in site.of(0) if x[s.axis] == out[s.axis + up]]
    for s in dict.fromkeys((*shards, *site.of_result())):
        if can_cut(out[s.axis]):
            yield Strategy((below(x, out, s),), (s,))
    yield Strategy((PARTIAL,), (PARTIAL,))


def slice_(site: Site) -> Iterator[Strategy]:
    """Yield any other axis; the axis itself where whole outer blocks are selected."""
    k = cast(shape.Slice, site.kind)
    size = site.size(0, k.axis)
    for s in dict.fromkeys((*site.of(0), *site.of_result())):
        if s.axis != k.axis:
            yield Strategy((s,), (s,))
    if k.step == 1 and isinstance(size, int) and isinstance(k.start, int):
        length = site.op.result.type.shape[k.axis]
        if (
            isinstance(length, int)
            and length
            and size > length
            and size % length == 0
            and k.start % length == 0
        ):
            for s in site.of_result():
                if s.axis == k.axis:
                    outer = size // length * s.outer
                    yield Strategy((Shard(k.axis, outer),), (s,), form="blocks")
    yield Strategy((PARTIAL,), (PARTIAL,))


def concat(site: Site) -> Iterator[Strategy]:
    """Yield any other axis; the axis itself where all operands have equal lengths there."""
    axis, count = cast(shape.Concat, site.kind).axis, len(site.op.operands)
    places = [s for i in range(count) for s in site.of(i)]
    for s in dict.fromkeys((*places, *site.of_result())):
        if s.axis != axis:
            yield Strategy((s,) * count, (s,))
    lengths = {v.type.shape[axis] for v in site.op.operands}
    if len(lengths) == 1 and count > 1:
        for s in dict.fromkeys(s for s in places if s.axis == axis):
            yield Strategy((s,) * count, (Shard(axis, s.outer * count),))
    yield Strategy((PARTIAL,) * count, (PARTIAL,))


def _moved_axes(site: Site) -> set[int]:
    """Return the axes along which elements of ``flip``, ``roll`` or ``pad`` change their place."""
    k = site.kind
    if isinstance(k, shape.Pad):
        return {a for a, (lo, hi) in enumerate(zip(k.low, k.high, strict=True)) if lo or hi}
    return set(k.axes)


def unmoved(site: Site) -> Iterator[Strategy]:
    """Yield every axis along which nothing moves."""
    moved = _moved_axes(site)
    for s in dict.fromkeys((*site.of(0), *site.of_result())):
        if s.axis not in moved:
            yield Strategy((s,), (s,))


def made(site: Site) -> Iterator[Strategy]:
    """Yield cuts of what has no operands: every rank makes its own part.

    A count in fractions is made whole: where a rank's part begins would be no size.
    """
    k = site.kind
    if isinstance(k, data.Iota) and (isinstance(k.start, float) or isinstance(k.step, float)):
        return
    for s in site.of_result():
        if s.outer == 1:
            yield Strategy((), (s,))


def constant(site: Site) -> Iterator[Strategy]:
    """Yield own parts for every rank; or all of it on one rank, zeros on the others."""
    for s in site.of_result():
        yield Strategy((), (s,), form="constant")
    yield Strategy((), (PARTIAL,), form="owned")


RULES: Mapping[type[Kind], Rule] = {
    shape.Reshape: reshape,
    shape.Transpose: transpose,
    shape.Expand: expand,
    shape.Slice: slice_,
    shape.Concat: concat,
    shape.Flip: unmoved,
    shape.Roll: unmoved,
    shape.Pad: unmoved,
    data.Full: made,
    data.Iota: made,
    data.Constant: constant,
}
