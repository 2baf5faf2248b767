"""Which in-place ops of a graph may be read as plain ones: alias sets and liveness.

A tensor may be rebound instead of overwritten when nobody who shares its memory under another view
reads it afterwards. Alias sets come from the schemas' annotations (``Tensor(a)``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, Node

# Rewrites that return their operand with its very elements in place: full aliases, not views.
SAME_TENSOR = frozenset({
    "aten.alias", "aten.detach", "aten.detach_", "aten.lift_fresh", "aten.contiguous", "aten.to",
    "aten.dropout", "aten.feature_dropout", "aten.type_as", "aten.requires_grad_",
})  # fmt: skip


def base_name(target: Any) -> str:
    """Return ``aten.relu_`` of ``aten.relu_.default``; "" for what is no ATen overload."""
    return str(target).rpartition(".")[0] if isinstance(target, torch._ops.OpOverload) else ""


def is_inplace(target: Any) -> bool:
    """Whether the op writes to its first operand and returns it."""
    if not isinstance(target, torch._ops.OpOverload):
        return False
    first = target._schema.arguments[:1]
    info = first[0].alias_info if first else None
    return info is not None and info.is_write


def writes_elsewhere(target: Any) -> bool:
    """Whether the op writes to an operand that is not its first (``out=`` variants and alike)."""
    if not isinstance(target, torch._ops.OpOverload):
        return False
    rest = target._schema.arguments[1:]
    return any(a.alias_info is not None and a.alias_info.is_write for a in rest)


class Aliases:
    """Alias sets of a graph's nodes, with the position where each node is last read."""

    def __init__(self, graph: Graph) -> None:
        self.root: dict[Node, Node] = {}
        self.members: dict[Node, list[Node]] = {}
        self.same: dict[Node, Node] = {}  # node -> the node whose very tensor it is
        order = {n: i for i, n in enumerate(graph.nodes)}
        self.order = order
        self.last_use = {n: max((order[u] for u in n.users), default=-1) for n in graph.nodes}
        for node in graph.nodes:
            source = _aliased(node)
            self.root[node] = self.root[source] if source is not None else node
            self.members.setdefault(self.root[node], []).append(node)
            exact = source is not None and _is_same(node)
            self.same[node] = self.same[source] if exact and source is not None else node

    def twins(self, node: Node) -> list[Node]:
        """Return the nodes that are the very tensor ``node`` is."""
        me = self.same[node]
        return [n for n in self.members[self.root[node]] if self.same[n] is me]

    def may_rebind(self, node: Node, at: Node) -> bool:
        """Whether no other view of ``node``'s memory is read after its mutation at ``at``."""
        here, me = self.order[at], self.same[node]
        return not any(
            self.order[n] < here < self.last_use[n] and self.same[n] is not me
            for n in self.members[self.root[node]]
        )


def _aliased(node: Node) -> Node | None:
    """Return the operand that ``node`` may share memory with."""
    if node.op != "call_function":
        return None
    if getattr(node.target, "__name__", "") == "getitem":
        return node.args[0] if isinstance(node.args[0], Node) else None
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    schema = node.target._schema
    if not any(r.alias_info is not None for r in schema.returns):
        return None
    given = dict(zip((a.name for a in schema.arguments), node.args, strict=False)) | node.kwargs
    for a in schema.arguments:
        value = given.get(a.name)
        if a.alias_info is not None and isinstance(value, Node):
            return value
    return None


def _is_same(node: Node) -> bool:
    """Whether the result is the operand's very tensor (same elements, same order)."""
    if is_inplace(node.target):
        return True
    if base_name(node.target) not in SAME_TENSOR or node.kwargs.get("copy"):
        return False
    source = _aliased(node)
    mine, theirs = node.meta.get("val"), source.meta.get("val") if source is not None else None
    if not (isinstance(mine, torch.Tensor) and isinstance(theirs, torch.Tensor)):
        return False
    return mine.dtype == theirs.dtype and mine.stride() == theirs.stride()
