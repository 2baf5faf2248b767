"""What a strategy costs: the op on a rank's parts by the roofline, its weights in bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from leptonc.cost.cluster import ALL_GATHER, ALL_REDUCE, Device, Link
from leptonc.cost.flops import effective_flops, known, nbytes, op_cost
from leptonc.ir.core import Kind, Op, Trait, Value
from leptonc.ir.kinds.collective import Collective
from leptonc.ir.kinds.data import Constant, Full, Iota
from leptonc.ir.kinds.norm import GroupNorm, LayerNorm, RmsNorm
from leptonc.ir.kinds.reduce import Var
from leptonc.ir.types import TensorType
from leptonc.shard.halo import HALO, halo
from leptonc.shard.moments import MOMENTS, rows
from leptonc.shard.parts import Parts
from leptonc.shard.placement import Placement, Shard
from leptonc.shard.strategy import Strategy

_NOTHING = (Constant, Full, Iota, Collective)

# What a form runs beside the op: so many ops on small values, and so many passes over its result
# (or, where heads share keys, over keys and values once for each of them).
_EXTRA: Mapping[str, tuple[int, int]] = {
    "vocabulary": (9, 2),
    "repeat-keys": (3, 0),
    "mean": (1, 0),
}


@dataclass(frozen=True)
class _Together:
    """What ranks do for rows that lie on several of them.

    Attributes:
        small: ops on values of a few numbers a row.
        passes: over the rank's part of the rows.
        collective: by which ranks meet.
        numbers: of a row, that each rank tells.
    """

    small: int
    passes: int
    collective: str
    numbers: int


_TOGETHER: Mapping[type[Kind], _Together] = {
    Var: _Together(12, 5, ALL_GATHER, 3),
    LayerNorm: _Together(18, 12, ALL_GATHER, 3),
    GroupNorm: _Together(18, 12, ALL_GATHER, 3),
    RmsNorm: _Together(5, 5, ALL_REDUCE, 1),
}


@dataclass
class Prices:
    """Seconds of ops and bytes of values on one device of the ranks, which meet over ``link``.

    Ops and types that repeat, as in equal layers, are priced once.
    """

    device: Device
    parts: Parts
    link: Link
    seconds_: dict[object, float] = field(default_factory=dict[object, float])
    bytes_: dict[TensorType, float] = field(default_factory=dict[TensorType, float])

    def seconds(self, op: Op, s: Strategy) -> float:
        """Return the seconds of ``op`` under ``s`` on the rank that has most to do."""
        if isinstance(op.kind, _NOTHING) or Trait.VIEW in op.kind.traits:
            return 0.0
        shares = tuple(
            self.parts.share(v, p)
            for v, p in zip((*op.operands, *op.results), (*s.ins, *s.outs), strict=True)
        )
        types = tuple(v.type for v in (*op.operands, *op.results))
        same = tuple(op.operands.index(v) for v in op.operands)  # what is read twice moves once
        key = (op.kind, types, same, shares, s.form, s.ins if s.form else ())
        found = self.seconds_.get(key)
        if found is None:
            found = self.seconds_[key] = self._seconds(op, shares) + self._form(op, s)
        return found

    def _form(self, op: Op, s: Strategy) -> float:
        """Return the seconds of what the form of ``s`` does beside the op."""
        if s.form == MOMENTS:
            return self._together(op, s, _TOGETHER[type(op.kind)])
        if s.form == HALO:
            return self._halo(op, s)
        small, passes = _EXTRA.get(s.form, (0, 0))
        made = sum(self.of(v) * self.parts.share(v, p) for v, p in zip(op.results, s.outs))
        moved = passes * made
        if s.form == "repeat-keys":  # every head of queries gets a copy of its keys and values
            heads, groups = (v.type.shape[-3] for v in op.operands[:2])
            both = sum(self.of(v) for v in op.operands[1:3])
            share = self.parts.share(op.operands[0], s.ins[0])
            moved = both * (1 + float(known(heads)) / max(known(groups), 1) * share)
        large = self._pass(moved) if moved else 0.0
        return small * self.device.launch_s + large

    def _halo(self, op: Op, s: Strategy) -> float:
        """Return the seconds in which border rows are told, and put beside the rank's own."""
        x, cut = op.operands[0], s.ins[0]
        assert isinstance(cut, Shard)
        need = halo(op, cut.axis)
        if need is None or not need.rows:
            return 0.0
        ranks = len(self.parts.speeds)
        told = self.of(x) / float(known(x.type.shape[cut.axis])) * need.rows * ranks
        moved = 2 * self.of(x) * self.parts.share(x, cut)
        link = self.link.collective_s(ALL_GATHER, told, ranks)
        return 2 * self.device.launch_s + self._pass(moved) + link

    def _pass(self, moved: float) -> float:
        return max(moved / self.device.bandwidth, self.device.launch_s)

    def _together(self, op: Op, s: Strategy, t: _Together) -> float:
        """Return the seconds of ``MOMENTS`` beside the op."""
        x, ranks = op.operands[0], len(self.parts.speeds)
        moved = t.passes * self.of(x) * self.parts.share(x, s.ins[0])
        told = t.numbers * rows(op) * max(x.type.dtype.nbytes, 4)
        whole = told * ranks if t.collective == ALL_GATHER else told
        return (
            t.small * self.device.launch_s
            + self._pass(moved)
            + self.link.collective_s(t.collective, whole, ranks)
        )

    def _seconds(self, op: Op, shares: tuple[float, ...]) -> float:
        cost = op_cost(op)
        flops = known(effective_flops(op, self.device.winograd)) * min(shares, default=1.0)
        whole = sum(self.of(v) for v in (*op.operands, *op.results))
        moved = sum(
            self.of(v) * share for v, share in zip((*op.operands, *op.results), shares, strict=True)
        )
        # A lookup moves less than its table: its own figure, in the proportion of the parts.
        bytes_ = known(cost.bytes) * (moved / whole if whole else 1.0)
        return self.device.op_s(flops, bytes_, op.results[0].type.dtype.value)

    def of(self, value: Value) -> float:
        """Return the bytes of a whole value."""
        found = self.bytes_.get(value.type)
        if found is None:
            found = self.bytes_[value.type] = float(known(nbytes((value,))))
        return found

    def held(self, value: Value, p: Placement) -> float:
        """Return the bytes that a rank holds of a constant, at most."""
        return self.of(value) * self.parts.share(value, p)
