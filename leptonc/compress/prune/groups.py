"""compress > prune > groups: what of a Function must be removed together, and what never is."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from leptonc.compress.prune.relations import PIN, Relations, Solution
from leptonc.compress.prune.rules import Rules
from leptonc.compress.raised import names_of
from leptonc.ir.core import Function, Op, Value
from leptonc.ir.kinds import contract, data, norm

# Operand that holds the weight, and its axes of outputs and of inputs, by kind.
WEIGHTS: Mapping[type, tuple[int, int, int]] = {
    contract.Conv: (1, 0, 1),
    contract.ConvTranspose: (1, 1, 0),
    contract.Linear: (1, 0, 1),
    data.Embedding: (0, 1, 0),
}


@dataclass(frozen=True)
class Slot:
    """One axis that a group is removed from, with all axes that are the same.

    Attributes:
        axis: number of the axis. members: (value, axis) that are the same, index by index.
        blocks: the indices that go with each unit of the group.
    """

    axis: int
    members: tuple[tuple[Value, int], ...]
    blocks: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Group:
    """Units that are each removable, every one from the same axes.

    ``constants``: name of constant, its axis, and the indices of each unit there.
    """

    slots: tuple[Slot, ...]
    constants: tuple[tuple[str, int, tuple[tuple[int, ...], ...]], ...]
    layers: tuple[str, ...]  # weights whose outputs go, e.g. "layer1.0.conv1.weight"
    readers: tuple[str, ...]  # weights whose inputs go
    heads: bool = False
    convolved: bool = False  # some of the outputs are of a convolution

    @property
    def units(self) -> int:
        """How many can be removed (one must stay)."""
        return len(self.slots[0].blocks)

    @property
    def width(self) -> int:
        """Channels that one unit has at least, in any weight that is multiplied by."""
        weights = {*self.layers, *self.readers}
        own = [len(b[0]) for name, _, b in self.constants if name in weights]
        return min(own or [len(b[0]) for _, _, b in self.constants], default=1)

    @property
    def where(self) -> str:
        """Module path of the first layer whose outputs go."""
        first = (*self.layers, *self.readers, *(n for n, _, _ in self.constants), "?")[0]
        return module_of(first)


@dataclass(frozen=True, eq=False)
class Analysis:
    """Relations of all axes of a Function, solved."""

    fn: Function
    relations: Relations
    solution: Solution
    names: Mapping[Value, str]

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """What can be removed, in the order of the program."""
        return tuple(self._groups())

    def _groups(self) -> Iterable[Group]:
        live, members = self.solution.live(), self.relations.members()
        places: dict[int, dict[int, list[int]]] = {}  # root -> axis -> indices
        for axis in members:
            for i, node in enumerate(self.solution.nodes(axis)):
                if (root := self.solution.root(node)) in live:
                    places.setdefault(root, {}).setdefault(axis, []).append(i)
        alike: dict[tuple[tuple[int, int], ...], list[dict[int, list[int]]]] = {}
        for found in places.values():
            sign = tuple((axis, len(at)) for axis, at in sorted(found.items()))
            alike.setdefault(sign, []).append(found)
        for sign, units in alike.items():
            units.sort(key=lambda u: u[sign[0][0]])
            if len(units) > 1:
                yield self._group([a for a, _ in sign], units, members)

    def _group(
        self,
        axes: list[int],
        units: list[dict[int, list[int]]],
        members: Mapping[int, list[tuple[Value, int]]],
    ) -> Group:
        slots = tuple(Slot(a, tuple(members[a]), tuple(tuple(u[a]) for u in units)) for a in axes)
        held = [(v, i, s.blocks) for s in slots for v, i in s.members if v in self.names]
        order = {op.result: n for n, op in enumerate(self.fn.ops) if len(op.results) == 1}
        held.sort(key=lambda h: (order[h[0]], h[1]))
        pairs = {(v, i) for v, i, _ in held}
        outs, ins = [dict[str, None]() for _ in range(2)]
        convolved = False
        for op in self._weighted:
            operand, makes, takes = WEIGHTS[type(op.kind)]
            w, many = op.operands[operand], op.kind.attributes.get("groups", 1) > 1
            if (w, makes) in pairs or (many and (w, 0) in pairs):
                outs[self.names[w]] = None
                convolved |= not isinstance(op.kind, contract.Linear | data.Embedding)
            if (w, takes) in pairs or (many and (w, 0) in pairs):
                ins[self.names[w]] = None
        everywhere = {m for s in slots for m in s.members}
        return Group(
            slots, tuple((self.names[v], i, b) for v, i, b in held), tuple(outs), tuple(ins),
            bool(everywhere & self._head_axes), convolved,
        )  # fmt: skip

    @cached_property
    def _weighted(self) -> tuple[Op, ...]:
        """Ops that multiply by (or look up in) a constant."""
        return tuple(
            op for op in self.fn.ops
            if type(op.kind) in WEIGHTS and op.operands[WEIGHTS[type(op.kind)][0]] in self.names
        )  # fmt: skip

    @cached_property
    def _head_axes(self) -> set[tuple[Value, int]]:
        """Axes that number the heads of attention, written as one op or out."""
        found: set[tuple[Value, int]] = set()
        for op in self.fn.ops:
            if isinstance(op.kind, contract.Attention | norm.Softmax):
                rank = len(op.operands[0].type.shape)
                found |= {(op.operands[0], i) for i in range(rank - 2)}
        return found

    def pinned_layers(self) -> Iterable[tuple[Op, str, str]]:
        """Yield op, name and reason for every weight none of whose outputs can be removed."""
        for op in self._weighted:
            operand, makes, _ = WEIGHTS[type(op.kind)]
            axis = self.relations.axis(op.operands[operand], makes)
            if axis is None or not self.solution.pinned(axis):
                continue
            yield op, self.names[op.operands[operand]], self.relations.why(axis) or "pinned"

    def removed(self, seeds: Mapping[tuple[Value, int], Iterable[int]]) -> dict[int, set[int]]:
        """Return by axis all indices that go with ``seeds``; {} if any of them is pinned."""
        roots: set[int] = set()
        for (value, i), indices in seeds.items():
            axis = self.relations.axis(value, i)
            if axis is None:
                return {}
            nodes = self.solution.nodes(axis)
            roots |= {self.solution.root(nodes[n]) for n in indices}
        if self.solution.root(PIN) in roots:
            return {}
        found: dict[int, set[int]] = {}
        for axis in self.solution.offset:
            gone = {i for i, n in enumerate(self.solution.nodes(axis))
                    if self.solution.root(n) in roots}  # fmt: skip
            if gone:
                found[axis] = gone
        return found


@functools.lru_cache(maxsize=2)
def analyze(fn: Function, through_norms: bool = False) -> Analysis:
    """Return which indices of which axes of ``fn`` go together.

    Args:
        fn: the program; its parameters and results keep all their axes.
        through_norms: lets channels go that a layer or rms norm runs over. The norm's statistics
            are then those of the channels left, which a masked program does not have.
    """
    at, rules = Relations(), Rules(through_norms)
    at.pin_all(fn.params, "an input of the network")
    for op in fn.ops:
        rules.relate(op, at)
    at.pin_all(fn.returns, "a result of the network")
    return Analysis(fn, at, Solution(at), names_of(fn))


def groups_of(fn: Function, through_norms: bool = False) -> tuple[Group, ...]:
    """Return what of ``fn`` must be removed together; see :func:`analyze`."""
    return analyze(fn, through_norms).groups


def module_of(name: str) -> str:
    """Return the module path of a constant's name: ``layer1.conv1.weight`` -> ``layer1.conv1``."""
    return name.rpartition(".")[0] or name


__all__ = ["Analysis", "Group", "Slot", "analyze", "groups_of", "module_of"]
