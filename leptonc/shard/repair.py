"""A choice that keeps a limit of bytes is made better: in parts that another one has, or singly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from leptonc.shard.eliminate import Table
from leptonc.shard.solve import Problem, neighbours


@dataclass(frozen=True)
class Patch:
    """Variables that change together.

    Attributes:
        variables: which; no other that differs is tied to them.
        cost: what the change adds.
        held: the bytes that it adds.
    """

    variables: tuple[int, ...]
    cost: float
    held: float


def patches(
    problem: Problem, weighs: Mapping[int, Table], old: Sequence[int], new: Sequence[int]
) -> tuple[Patch, ...]:
    """Return the independent parts of the change from ``old`` to ``new``."""
    group = {i: i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b}
    for a, b in problem.pairs:
        if a in group and b in group:
            group[_root(group, b)] = _root(group, a)
    members = dict[int, list[int]]()
    cost, held = dict[int, float](), dict[int, float]()
    for i in group:
        root = _root(group, i)
        members.setdefault(root, []).append(i)
        alone = problem.alone[i]
        cost[root] = cost.get(root, 0.0) + float(alone[new[i]] - alone[old[i]])
        if i in weighs:
            held[root] = held.get(root, 0.0) + float(weighs[i][new[i]] - weighs[i][old[i]])
    for (a, b), table in problem.pairs.items():
        if a in group or b in group:
            root = _root(group, a if a in group else b)
            after = (new if a in group else old)[a], (new if b in group else old)[b]
            cost[root] += float(table[after] - table[old[a], old[b]])
    return tuple(Patch(tuple(own), cost[r], held.get(r, 0.0)) for r, own in members.items())


def singly(
    problem: Problem, weighs: Mapping[int, Table], states: Sequence[int], room: float
) -> tuple[int, ...]:
    """Return ``states`` with single variables changed for the better while they fit.

    Args:
        problem: what states cost.
        weighs: bytes of the states.
        states: a choice.
        room: bytes that may be added to it.
    """
    near, made = neighbours(problem), list(states)
    waiting = dict.fromkeys(range(len(made)))
    while waiting:
        i = next(iter(waiting))
        del waiting[i]
        costs = problem.alone[i].copy()
        for j, table in near[i]:
            costs += table[made[j]]
        if i in weighs:
            costs[weighs[i] - weighs[i][made[i]] > room] = math.inf
        best = int(np.argmin(costs))
        if costs[best] < costs[made[i]] * (1 - 1e-12):
            room -= float(weighs[i][best] - weighs[i][made[i]]) if i in weighs else 0.0
            made[i] = best
            waiting.update(dict.fromkeys(j for j, _ in near[i]))
    return tuple(made)


def _root(group: dict[int, int], i: int) -> int:
    while group[i] != i:
        group[i] = group[group[i]]
        i = group[i]
    return i
