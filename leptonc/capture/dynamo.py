"""``torch.compile(model, backend="leptonc")``: Dynamo's graphs, made ready for ``capture``.

Dynamo hands over parameters and buffers as inputs, and dynamic sizes as ints. Here the former
become constants of a module, the latter sizes of a tensor; then ``leptonc.api.compile_graph``
compiles it.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.export import Dim
from torch.fx import Graph, GraphModule, Interpreter, Node
from torch.fx import traceback as fx_traceback

from leptonc.errors import LeptoncError

# (module, tensors, dynamic) -> callable that takes the tensors and returns the module's results.
Compiler: TypeAlias = Callable[..., Callable[..., Sequence[Any]]]
_MOST = 8  # versions of one graph (weights replaced, ints changed) before eager takes over


def backend(
    gm: GraphModule, example_inputs: Sequence[Any], *, compiler: Compiler | None = None
) -> Callable[..., Sequence[Any]]:
    """Return a callable that computes ``gm``; what cannot be compiled runs eagerly, with a warning.

    Args:
        gm: Dynamo's graph.
        example_inputs: one tensor or (symbolic) int for each placeholder.
        compiler: compiles a module for example tensors (``leptonc.api.compile_graph`` if None).
    """
    found: Compiler = compiler or importlib.import_module("leptonc.api").compile_graph
    return _Dispatcher(gm, tuple(example_inputs), found)


@dataclass(frozen=True)
class _Place:
    """What becomes of one placeholder.

    ``role``: ``weight`` (a constant), ``tensor`` (an input), ``size`` (axis ``axis`` of input
    ``source``), ``number`` (an int the graph is compiled for), ``unused``.
    """

    node: Node
    role: str
    source: Node | None = None
    axis: int = 0


class _Dispatcher:
    """Calls the compiled version that fits the weights and ints of a call."""

    def __init__(self, gm: GraphModule, example: tuple[Any, ...], compiler: Compiler) -> None:
        self.gm, self.compiler = gm, compiler
        self.places = _places(gm, example)
        self.weights = [i for i, p in enumerate(self.places) if p.role == "weight"]
        self.tensors = [i for i, p in enumerate(self.places) if p.role == "tensor"]
        self.numbers = [i for i, p in enumerate(self.places) if p.role == "number"]
        self.dynamic = _dynamic_axes(self.places, example)
        self.versions: dict[Any, Callable[..., Sequence[Any]]] = {}
        self.kept: dict[Any, list[torch.Tensor]] = {}  # an address stays taken while it is a key
        self.last: tuple[Any, Callable[..., Sequence[Any]]] | None = None
        self.eager = False
        concrete = tuple(_concrete(x) for x in example)
        if torch.is_grad_enabled() and (what := self._wants_gradient(example)):
            self._give_up(
                f"{what} requires a gradient, and leptonc compiles inference: call model.eval() "
                "and run it under torch.no_grad()"
            )
        else:
            self._version(self._key(concrete), concrete)

    def _wants_gradient(self, example: Sequence[Any]) -> str:
        """Return what results would have to pass gradients to, or ""."""
        for what, places in (("an input", self.tensors), ("a parameter", self.weights)):
            if any(example[i].requires_grad for i in places):
                return what
        return ""

    def __call__(self, *inputs: Any) -> Sequence[Any]:
        """Return the graph's results."""
        if self.eager:
            return self.gm(*inputs)
        key = self._key(inputs)
        run = self.last[1] if self.last and self.last[0] == key else self._version(key, inputs)
        return run(*inputs)

    def _key(self, inputs: Sequence[Any]) -> Any:
        weights = [(inputs[i].data_ptr(), inputs[i]._version) for i in self.weights]
        return tuple(weights), tuple(int(inputs[i]) for i in self.numbers)

    def _version(self, key: Any, inputs: Sequence[Any]) -> Callable[..., Sequence[Any]]:
        run = self.versions.get(key)
        if run is None:
            if len(self.versions) >= _MOST:
                self._give_up(f"its weights or ints changed more than {_MOST} times")
                return self.gm.forward
            run = self.versions[key] = self._compile(inputs)
            self.kept[key] = [inputs[i] for i in self.weights]
        self.last = key, run
        return run

    def _compile(self, inputs: Sequence[Any]) -> Callable[..., Sequence[Any]]:
        names = [str(self.places[i].node.target) for i in self.tensors]
        module = _module(self.gm, self.places, inputs)
        dynamic = {n: axes for n, axes in zip(names, self.dynamic, strict=True) if axes}
        try:
            compiled = self.compiler(
                module, tuple(inputs[i] for i in self.tensors), dynamic=dynamic or None
            )
        except LeptoncError as e:
            self._give_up(str(e))
            return self.gm.forward
        picked = self.tensors

        def run(*given: Any) -> Sequence[Any]:
            return compiled(*[given[i] for i in picked])

        return run

    def _give_up(self, reason: str) -> None:
        warnings.warn(f"leptonc: a graph runs eagerly: {reason}", stacklevel=3)
        self.eager = True


def _concrete(x: Any) -> Any:
    return x.node.hint if isinstance(x, torch.SymInt) else x


def _places(gm: GraphModule, example: Sequence[Any]) -> list[_Place]:
    nodes = [n for n in gm.graph.nodes if n.op == "placeholder"]
    places: list[_Place] = []
    for node, value in zip(nodes, example, strict=True):
        static = node.meta.get("tensor_dict", {}).get("_dynamo_static_input_type")
        if isinstance(value, torch.nn.Parameter) or static:
            places.append(_Place(node, "weight"))
        elif isinstance(value, torch.Tensor):
            places.append(_Place(node, "tensor"))
        elif not node.users:
            places.append(_Place(node, "unused"))
        else:
            source, axis = _axis_of_size(value, nodes)
            places.append(_Place(node, "size" if source else "number", source, axis))
    return places


def _axis_of_size(value: Any, nodes: Sequence[Node]) -> tuple[Node | None, int]:
    """Return the input and axis whose size ``value`` is, or (None, 0)."""
    if isinstance(value, torch.SymInt):
        for node in nodes:
            for axis, size in enumerate(_fake_shape(node)):
                if isinstance(size, torch.SymInt) and size.node.expr == value.node.expr:
                    return node, axis
    return None, 0


def _fake_shape(node: Node) -> Sequence[Any]:
    fake = node.meta.get("example_value", node.meta.get("val"))
    return fake.shape if isinstance(fake, torch.Tensor) else ()


def _dynamic_axes(places: Sequence[_Place], example: Sequence[Any]) -> list[dict[int, Any]]:
    """Return torch.export's spec of the dynamic axes of each input tensor."""
    return [
        {i: Dim.AUTO for i, n in enumerate(_fake_shape(p.node)) if isinstance(n, torch.SymInt)}
        for p in places
        if p.role == "tensor"
    ]


def _module(gm: GraphModule, places: Sequence[_Place], inputs: Sequence[Any]) -> torch.nn.Module:
    """Return a module of the graph's true inputs, with weights held and ints resolved."""
    graph, held, copied = Graph(), dict[str, Any](), dict[Node, Any]()
    for p, value in zip(places, inputs, strict=True):
        if p.role == "tensor":
            copied[p.node] = graph.placeholder(str(p.node.target))
        elif p.role == "number":
            copied[p.node] = int(value)
        elif p.role == "unused":
            copied[p.node] = None
    for i, (p, value) in enumerate(zip(places, inputs, strict=True)):
        if p.role == "weight":
            held[f"weight_{i}"] = value.detach()
            copied[p.node] = graph.get_attr(f"weight_{i}")
        elif p.role == "size":
            source = copied[p.source]  # type: ignore[index]
            copied[p.node] = graph.call_method("size", (source, p.axis))
    graph.output(graph.graph_copy(gm.graph, copied))
    for node in gm.graph.nodes:
        if node.op in ("get_attr", "call_module"):
            held[str(node.target)] = _at(gm, node.target)
    return Replay(GraphModule(held, graph)).eval()


def _at(module: Any, path: Any) -> Any:
    for part in str(path).split("."):
        module = getattr(module, part)
    return module


class Replay(torch.nn.Module):
    """Runs a graph node by node, so that a trace of it keeps the user's source lines."""

    def __init__(self, graph_module: GraphModule) -> None:
        super().__init__()
        self.graph_module = graph_module

        def forward(*inputs: torch.Tensor) -> Any:
            with fx_traceback.preserve_node_meta():
                return Interpreter(graph_module).run(*inputs)

        signature = inspect.signature(graph_module.forward)
        forward.__signature__ = signature  # type: ignore[attr-defined]
        self.forward = forward
