"""Placements that a user asks for: ``{"layers.*.mlp.up": Shard(0)}``.

A name is a module path, a weight's name or a pattern of either (``*``, ``?``); the placement is
that of the weights found there, of two axes or more. ``Replicate()`` keeps a weight whole.
``{"features.*": Spatial(2)}`` asks for rows of the images that convolutions and pools there read.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from leptonc.errors import PlanError
from leptonc.ir.core import Function, Op
from leptonc.ir.kinds.contract import Conv
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.quantize import IntConv
from leptonc.ir.kinds.reduce import AvgPool, MaxPool
from leptonc.shard.halo import HALO
from leptonc.shard.placement import Placement, Replicate, Shard
from leptonc.shard.spread import Spread
from leptonc.shard.strategy import Strategy


@dataclass(frozen=True, slots=True)
class Spatial:
    """Every rank holds a part of an image along ``axis`` (2: height) of ``[n,c,*space]``."""

    axis: int


Hints: TypeAlias = "Mapping[str, Placement | Spatial]"
_WINDOWS = (Conv, IntConv, MaxPool, AvgPool)


def restrict(
    fn: Function, found: Spread, hints: Hints, ranks: int
) -> tuple[tuple[Strategy, ...], ...]:
    """Return the strategies that are left when hints are kept.

    Raises:
        PlanError: a name that matches no weight (or, for ``Spatial``, no convolution or pool), or a
            placement that what it names cannot have.
    """
    if not hints:
        return found.strategies
    names = {op: weight_names(fn, op) for op in fn.ops if isinstance(op.kind, Constant)}
    asked = dict[Op, "Placement | Spatial"]()
    for pattern, placement in hints.items():
        if isinstance(placement, Spatial):
            asked.update(dict.fromkeys(_windows(fn, pattern), placement))
            continue
        hit = [
            op for op, own in names.items()
            if op.result.type.rank >= 2 and any(fnmatch.fnmatch(n, pattern) for n in own)
        ]  # fmt: skip
        if not hit:
            raise PlanError(f"hint {pattern!r} matches no weight{_close(pattern, names)}")
        asked.update(dict.fromkeys(hit, placement))
    return tuple(
        _kept(op, options, asked[op], found, ranks) if op in asked else options
        for op, options in zip(fn.ops, found.strategies, strict=True)
    )


def _windows(fn: Function, pattern: str) -> list[Op]:
    """Return the convolutions and pools of modules that ``pattern`` matches."""
    named = {op: (op.origin.module,) for op in fn.ops if isinstance(op.kind, _WINDOWS)}
    hit = [op for op, (name,) in named.items() if fnmatch.fnmatch(name, pattern)]
    if not hit:
        raise PlanError(f"hint {pattern!r} matches no convolution or pool{_close(pattern, named)}")
    return hit


def weight_names(fn: Function, op: Op) -> tuple[str, ...]:
    """Return the names of a constant: its own, and the modules of the ops that read it."""
    readers = [u.origin.module for u in fn.users[op.result] if u.origin.module]
    return tuple(dict.fromkeys(n for n in (op.result.hint, *readers) if n))


def _kept(
    op: Op, options: Sequence[Strategy], want: Placement | Spatial, found: Spread, ranks: int
) -> tuple[Strategy, ...]:
    if isinstance(want, Spatial):
        return _cut_images(op, options, want, found, ranks)
    kept = tuple(s for s in options if s.outs[0] == want)
    if kept:
        return kept
    can = ", ".join(_text(s.outs[0]) for s in options if isinstance(s.outs[0], (Shard, Replicate)))
    name, type_ = op.result.hint or "a weight", op.result.type
    few = [u for s, u in found.dropped.get(op, ()) if s.outs[0] == want]
    why = f": that axis has {few[0]} units, fewer than {ranks} ranks" if few else ""
    raise PlanError(f"{name} ({type_}) cannot be placed as {_text(want)}{why}; it can be: {can}")


def _cut_images(
    op: Op, options: Sequence[Strategy], want: Spatial, found: Spread, ranks: int
) -> tuple[Strategy, ...]:
    kept = tuple(s for s in options if s.form == HALO and s.ins[0] == Shard(want.axis))
    if kept:
        return kept
    units = [
        u for s, u in found.dropped.get(op, ())
        if s.form == HALO and s.ins[0] == Shard(want.axis)
    ]  # fmt: skip
    x, y = op.operands[0].type, op.result.type
    why = (
        f"it has {units[0]} units there, fewer than {ranks} ranks" if units else
        f"{x} becomes {y}: the input must have stride times as many rows as the output, padding be "
        "narrower than the window, and an average count its padding"
    )  # fmt: skip
    raise PlanError(
        f"{op.kind.NAME} of {op.origin} cannot be cut along axis {want.axis}: {why}; leave it out "
        "of the hint"
    )


def _text(p: Placement) -> str:
    return f"Shard({p.axis})" if isinstance(p, Shard) and p.outer == 1 else repr(p)


def _close(pattern: str, names: Mapping[Op, tuple[str, ...]]) -> str:
    known = list(dict.fromkeys(n for own in names.values() for n in own))
    near = difflib.get_close_matches(pattern, known, 3, 0.4) or known[:3]
    return f"; there are, for example: {', '.join(near)}" if near else ""
