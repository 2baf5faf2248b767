"""compress > prune > select: which units go, and the edits that remove them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leptonc.compress.prune.groups import Group, analyze, module_of
from leptonc.compress.prune.rebuild import without
from leptonc.compress.recipe import Edit
from leptonc.ir.core import Function, Value


@dataclass(frozen=True)
class Chosen:
    """A group and the units of it that go."""

    group: Group
    units: tuple[int, ...]


def kept(units: int, ratio: float, step: int) -> int:
    """Return how many of ``units`` stay: the multiple of ``step`` nearest to ``1 - ratio`` of them.

    At least one step stays; all stay where there is no more than one step.
    """
    wanted = step * math.floor(units * (1 - ratio) / step + 0.5)
    return min(units, max(step, wanted))


def step_of(group: Group, round_to: int) -> int:
    """Return how many units hold a multiple of ``round_to`` channels."""
    return round_to // math.gcd(group.width, round_to)


def choose(
    groups: Sequence[Group],
    scores: Sequence[Tensor],
    ratios: Sequence[float | None],
    ratio: float,
    round_to: int,
    everywhere: bool,
) -> list[Chosen]:
    """Return what goes: the units of least worth.

    Args:
        groups: what there is.
        scores: the worth of each unit of each group.
        ratios: of a group on its own; None takes ``ratio``.
        ratio: the part that goes, of each group, or ``everywhere`` of all of them together, where
            scores are compared as multiples of their group's mean.
        round_to: channels that stay are a multiple of it.
        everywhere: rank all groups together.
    """
    shares = [ratio if r is None else r for r in ratios]
    if everywhere:
        shares = _shares(scores, ratios, ratio)
    found: list[Chosen] = []
    for group, worth, share in zip(groups, scores, shares, strict=True):
        stay = kept(group.units, share, step_of(group, round_to))
        order = torch.argsort(worth, stable=True)[: group.units - stay]
        if len(order):
            found.append(Chosen(group, tuple(sorted(order.tolist()))))
    return found


def _shares(scores: Sequence[Tensor], ratios: Sequence[float | None], ratio: float) -> list[float]:
    """Return the part of each group that falls below the one threshold of all."""
    level = [s / s.mean() if s.mean() > 0 else s for s in scores]
    shared = [x for x, r in zip(level, ratios, strict=True) if r is None]
    if not shared:
        return [float(r or 0) for r in ratios]
    every = torch.cat(shared)
    rank = torch.empty(len(every), dtype=torch.int64)
    rank[torch.argsort(every, stable=True)] = torch.arange(len(every))
    below = iter((rank < round(ratio * len(every))).split([len(x) for x in shared]))
    return [float(next(below).double().mean()) if r is None else r for r in ratios]


@dataclass(frozen=True)
class _Seed:
    """Indices of one axis of a constant, which was so long when they were chosen."""

    name: str
    axis: int
    size: int
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Removal:
    """Removes what goes together with ``seeds``: an edit's ``make``."""

    seeds: tuple[_Seed, ...]
    through_norms: bool

    def __call__(self, fn: Function) -> Function:
        """Return ``fn`` without it; ``fn`` itself if a constant is gone or was made smaller."""
        analysis = analyze(fn, self.through_norms)
        values = {name: value for value, name in analysis.names.items()}
        at: dict[tuple[Value, int], tuple[int, ...]] = {}
        for seed in self.seeds:
            value = values.get(seed.name)
            if value is None or value.type.shape[seed.axis : seed.axis + 1] != (seed.size,):
                return fn
            at[value, seed.axis] = (*at.get((value, seed.axis), ()), *seed.indices)
        gone = analysis.removed(at)
        return without(analysis, gone) if gone else fn


def edits(fn: Function, chosen: Sequence[Chosen], through_norms: bool) -> list[Edit]:
    """Return an edit a group; groups that only share axes with one another are one edit.

    An edit knows its units by indices on an axis of a constant that no other edit shortens, so that
    any edit can be left out.
    """
    analysis = analyze(fn, through_norms)
    sizes = {name: value.type.shape for value, name in analysis.names.items()}
    found: list[Edit] = []
    for cluster in _clusters(chosen):
        seeds = [_seed(chosen[n], key, sizes) for n, key in cluster.items()]
        first = chosen[min(cluster)].group
        removed = sum(len(chosen[n].units) for n in cluster)
        total = sum(chosen[n].group.units for n in cluster)
        unit = "heads" if first.heads else "channels" if first.convolved else "neurons"
        make = Removal(tuple(seeds), through_norms)
        found.append(Edit(first.where, f"{removed} of {total} {unit} removed", make))
    return found


Key = tuple[str, int]


def _clusters(chosen: Sequence[Chosen]) -> list[dict[int, Key]]:
    """Return groups by cluster, each with the constant axis that it is known by."""
    users: dict[Key, list[int]] = {}
    for n, c in enumerate(chosen):
        for name, axis, _ in c.group.constants:
            users.setdefault((name, axis), []).append(n)
    cluster, keys = list(range(len(chosen))), list[Key]()
    for n, c in enumerate(chosen):
        mine = [(name, axis) for name, axis, _ in c.group.constants]
        own = next((k for k in mine if len(users[k]) == 1), None)
        keys.append(own or min(mine, key=lambda k: len(users[k])))
        if own is None:
            joined = {cluster[m] for m in users[keys[n]]}
            cluster = [min(joined) if c in joined else c for c in cluster]
    found: dict[int, dict[int, Key]] = {}
    for n, c in enumerate(cluster):
        found.setdefault(c, {})[n] = keys[n]
    return list(found.values())


def _seed(chosen: Chosen, key: Key, sizes: Mapping[str, Sequence[object]]) -> _Seed:
    blocks = next(b for name, axis, b in chosen.group.constants if (name, axis) == key)
    indices = tuple(blocks[u][0] for u in chosen.units)  # the rest goes together with the first
    size = sizes[key[0]][key[1]]
    assert isinstance(size, int)
    return _Seed(key[0], key[1], size, indices)


def modules(group: Group) -> tuple[str, ...]:
    """Return the module paths of the layers whose outputs go with ``group``."""
    return tuple(map(module_of, group.layers)) or (group.where,)


__all__ = ["Chosen", "Removal", "choose", "edits", "kept", "modules", "step_of"]
