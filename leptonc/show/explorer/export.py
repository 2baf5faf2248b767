"""show > explorer > export: a function as a DOT graph or as a graph that Model Explorer opens.

Both come from the same list of nodes: one for each parameter, op and result; a unit's ops are nodes
inside it. Model Explorer's format: its repository, ``model_explorer/graph_builder.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leptonc.ir.core import Function, Op, Value
from leptonc.ir.kinds.region import TorchOp, Unit
from leptonc.ir.literal import literal
from leptonc.ir.text import value_names


@dataclass(frozen=True)
class Node:
    """One parameter, op or result: its ``reads`` are pairs of node index and result index."""

    label: str
    reads: tuple[tuple[int, int], ...]
    types: tuple[str, ...]
    names: tuple[str, ...]
    module: str = ""
    source: str = ""
    unit: str = ""
    attributes: tuple[tuple[str, str], ...] = ()


def nodes(fn: Function) -> list[Node]:
    """Return the nodes of a function in order; bodies of units stand in the place of the units."""
    found: list[Node] = []
    made: dict[Value, tuple[int, int]] = {}
    names = value_names(fn)
    for p in fn.params:
        made[p] = (len(found), 0)
        found.append(Node("input", (), (str(p.type),), (names[p],)))
    _ops(fn, "", found, made)
    for i, r in enumerate(fn.returns):
        found.append(Node(f"output {i}", (made[r],), (str(r.type),), (names[r],)))
    return found


def _ops(fn: Function, unit: str, found: list[Node], made: dict[Value, tuple[int, int]]) -> None:
    names = value_names(fn)
    for op in fn.ops:
        if isinstance(op.kind, Unit):
            body = op.kind.body
            made.update(zip(body.params, (made[v] for v in op.operands), strict=True))
            _ops(body, op.kind.name, found, made)
            made.update(zip(op.results, (made[v] for v in body.returns), strict=True))
            continue
        made.update({r: (len(found), i) for i, r in enumerate(op.results)})
        found.append(_node(op, unit, names, made))


def _node(
    op: Op, unit: str, names: Mapping[Value, str], made: Mapping[Value, tuple[int, int]]
) -> Node:
    kind = op.kind
    attributes = tuple((k, literal(v)) for k, v in kind.attributes.items())
    return Node(
        label=kind.target if isinstance(kind, TorchOp) else kind.NAME,
        reads=tuple(made[v] for v in op.operands),
        types=tuple(str(r.type) for r in op.results),
        names=tuple(names[r] for r in op.results),
        module=op.origin.module,
        source=op.origin.source,
        unit=unit,
        attributes=attributes,
    )


def dot(fn: Function) -> str:
    """Return a function in the DOT language of Graphviz, a cluster for each unit."""
    found = nodes(fn)
    lines = ["digraph leptonc {", "  rankdir=TB; node [shape=box, fontname=monospace];"]
    groups: dict[str, list[int]] = {}
    for i, n in enumerate(found):
        groups.setdefault(n.unit, []).append(i)
    for g, (unit, members) in enumerate(groups.items()):
        pad = "    " if unit else "  "
        if unit:
            lines.append(f"  subgraph cluster_{g} {{ label={_quoted(unit)}; style=rounded;")
        lines += [f"{pad}n{i} [label={_quoted(_caption(found[i]))}];" for i in members]
        if unit:
            lines.append("  }")
    edges = ((s, i) for i, n in enumerate(found) for s, _ in n.reads)
    lines += [f"  n{s} -> n{i};" for s, i in edges]
    return "\n".join([*lines, "}"]) + "\n"


def _caption(n: Node) -> str:
    return "\n".join(p for p in (n.label, ", ".join(n.types), n.module) if p)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def model_explorer(name: str, stages: Sequence[tuple[str, Function]]) -> dict[str, Any]:
    """Return a collection of graphs, one for each stage, as JSON that Model Explorer opens.

    Layers are the model's modules; the unit of an op is among its attributes.
    """
    graphs = [{"id": stage, "nodes": list(_graph_nodes(fn))} for stage, fn in stages]
    return {"label": name, "graphs": graphs}


def _graph_nodes(fn: Function) -> Iterator[dict[str, Any]]:
    for i, n in enumerate(nodes(fn)):
        attrs = [*n.attributes, ("source", n.source), ("unit", n.unit)]
        yield {
            "id": str(i),
            "label": n.label,
            "namespace": n.module.replace(".", "/"),
            "attrs": [{"key": k, "value": v} for k, v in attrs if v],
            "incomingEdges": [
                {"sourceNodeId": str(s), "sourceNodeOutputId": str(o), "targetNodeInputId": str(k)}
                for k, (s, o) in enumerate(n.reads)
            ],
            "outputsMetadata": [
                {"id": str(k), "attrs": [_pair("__tensor_tag", a), _pair("type", t)]}
                for k, (a, t) in enumerate(zip(n.names, n.types, strict=True))
            ],
        }


def _pair(key: str, value: str) -> dict[str, str]:
    return {"key": key, "value": value}
