"""capture > program: a traced model as the import reads it, whoever traced it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, cast

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree


class Role(Enum):
    """What a placeholder of the graph stands for; the values are words for messages."""

    INPUT = "input"
    PARAMETER = "parameter"
    BUFFER = "buffer"
    CONSTANT = "constant"


@dataclass(frozen=True)
class Placeholder:
    """One placeholder: its node (None: an argument the graph has none for) and what it is.

    ``name`` is the path of a tensor of the model, or torch's name of an argument; ``tensor`` the
    model's tensor; ``constant`` the value of an argument that is no tensor. ``role`` is a word
    where leptonc has no such role.
    """

    node: Node | None
    role: Role | str
    name: str
    tensor: torch.Tensor | None = None
    constant: Any = None


@dataclass(frozen=True)
class Program:
    """A graph of ATen calls; nodes carry ``meta["val"]``, and may carry where they come from."""

    graph: Graph
    module: GraphModule | None  # what ``get_attr`` nodes name
    placeholders: tuple[Placeholder, ...]
    outputs: tuple[bool, ...]  # for each value that the graph returns: whether the model does
    in_spec: pytree.TreeSpec  # of (args, kwargs)
    out_spec: pytree.TreeSpec
    mutated: tuple[str, ...] = ()  # buffers and inputs that are written to
    ranges: Mapping[Any, Any] = field(default_factory=dict[Any, Any])

    def inputs(self) -> list[Placeholder]:
        """Return the arguments, in the order of the call."""
        return [p for p in self.placeholders if p.role is Role.INPUT]


_ROLES = {
    InputKind.USER_INPUT: Role.INPUT,
    InputKind.PARAMETER: Role.PARAMETER,
    InputKind.BUFFER: Role.BUFFER,
    InputKind.CONSTANT_TENSOR: Role.CONSTANT,
}


def of_exported(program: ExportedProgram) -> Program:
    """Return what torch.export made."""
    signature, spec = program.graph_signature, cast(Any, program.call_spec)
    return Program(
        program.graph,
        program.graph_module,
        tuple(_placeholders(program)),
        tuple(s.kind is OutputKind.USER_OUTPUT for s in signature.output_specs),
        spec.in_spec,
        spec.out_spec,
        (*_named("buffer", signature.buffers_to_mutate.values()),
         *_named("input", signature.user_inputs_to_mutate.values())),
        program.range_constraints,
    )  # fmt: skip


def _named(what: str, targets: Sequence[str] | Any) -> Iterator[str]:
    return (f"{what} {target!r}" for target in targets)


def _placeholders(program: ExportedProgram) -> Iterator[Placeholder]:
    nodes = {n.name: n for n in program.graph.nodes if n.op == "placeholder"}
    for s in program.graph_signature.input_specs:
        node = nodes.get(getattr(s.arg, "name", ""))
        role = _ROLES.get(s.kind, s.kind.name.lower())
        if role is Role.INPUT:
            name, constant = getattr(s.arg, "name", ""), getattr(s.arg, "value", None)
            yield Placeholder(node, role, name, constant=constant)
        else:
            held = program.state_dict if s.target in program.state_dict else program.constants
            tensor = held.get(str(s.target)) if isinstance(role, Role) else None
            yield Placeholder(node, role, str(s.target), cast("torch.Tensor | None", tensor))
