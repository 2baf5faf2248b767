"""The walk over an exported graph: each node becomes kinds, a ``torch_op``, a size, or nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch.fx import Graph, GraphModule, Node

from leptonc.capture.alias import Aliases, base_name, is_inplace, writes_elsewhere
from leptonc.capture.aten import IMPORTERS
from leptonc.capture.captured import CaptureRemark
from leptonc.capture.context import Args, Context, Unclaimed, tensor_type
from leptonc.capture.opaque import is_pure, torch_op
from leptonc.capture.origin import origin_of
from leptonc.capture.sizes import Sizes
from leptonc.errors import CaptureError, InferError
from leptonc.ir.core import Builder, Value
from leptonc.ir.dims import Dim, evaluate, free_symbols, same_dim
from leptonc.ir.kinds.shape import Reshape
from leptonc.ir.types import DType, TensorType

_CHECKS = frozenset({
    "aten._assert_scalar", "aten._assert_async", "aten._assert_tensor_metadata",
    "aten.sym_constrain_range", "aten.sym_constrain_range_for_size",
    "aten._functional_assert_async", "aten._functional_assert_scalar",
})  # fmt: skip
_SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool, int, float, bool)
_FOREIGN = frozenset({DType.OTHER, DType.C64, DType.C128})
# An argument that an importer did not expect must not stop a compile: torch runs that call.
_UNFORESEEN = (AttributeError, IndexError, KeyError, TypeError, ValueError)
_SAMPLES = (2, 3, 5, 8, 17, 64)


class NeedsFunctional(Exception):
    """An in-place op whose memory is also seen through another view; the text names it."""


class Unresolved:
    """A size or condition the IR cannot express; an error only where it is read."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


class GraphReader:
    """Imports one graph (and the graphs nested in it) into a builder."""

    def __init__(
        self, b: Builder, sizes: Sizes, owners: Mapping[Node, str], remarks: list[CaptureRemark]
    ) -> None:
        """Prepare a walk; ``owners`` names the parameters, buffers and inputs by placeholder."""
        self.b, self.sizes, self.owners, self.remarks = b, sizes, owners, remarks

    def read(self, module: GraphModule | None, graph: Graph, env: dict[Node, Any]) -> list[Any]:
        """Import every node; ``env`` holds the placeholders. Returns what the graph returns."""
        aliases = Aliases(graph)
        for node in graph.nodes:
            if node.op == "output":
                return list(_as_list(node.args[0]))
            if node.op == "get_attr":
                env[node] = _attribute(module, str(node.target))
            elif node.op == "call_function":
                self._call(node, env, aliases)
        return []

    def _call(self, node: Node, env: dict[Node, Any], aliases: Aliases) -> None:
        self.b.origin = origin_of(node)
        try:
            env[node] = self._value(node, env)
            if is_inplace(node.target):
                self._rebind(node, env, aliases)
        except CaptureError as e:
            where = str(self.b.origin)
            text = str(e)
            raise CaptureError(text if where in text else f"{text}\n  at {where}") from e

    def _value(self, node: Node, env: Mapping[Node, Any]) -> Any:
        target, val = node.target, node.meta.get("val")
        if base_name(target) in _CHECKS:
            return None
        if getattr(target, "__name__", "") == "getitem":
            return self._item(node, env)
        if isinstance(val, _SYMBOLIC):
            return self._size(val)
        if isinstance(target, torch._ops.OpOverload):
            return self._operator(node, target, env)
        if isinstance(target, torch._ops.HigherOrderOperator):
            return self._nested(node, env)
        if val is None and not node.users:
            return None
        raise CaptureError(f"{target} is not an ATen operator; leptonc cannot import it")

    def _size(self, val: Any) -> Any:
        try:
            return self.sizes.number(val)
        except CaptureError as e:
            return Unresolved(str(e))

    def _item(self, node: Node, env: Mapping[Node, Any]) -> Any:
        at, index = cast("tuple[Node, int]", node.args)
        source = env[at]
        if isinstance(source, (tuple, list)):
            return source[index]
        raise CaptureError(f"{node.name} takes an item of something that is no tuple")

    # ----- operators ----------------------------------------------------------------------------

    def _operator(self, node: Node, target: torch._ops.OpOverload, env: Mapping[Node, Any]) -> Any:
        given = self._arguments(node, target, env)
        outs, nested = self._types(node)
        inplace = is_inplace(target)
        if writes_elsewhere(target):
            raise NeedsFunctional(str(target))
        if inplace:
            plain = _plain_twin(target)
            names = dict(_paired_names(target, plain))
            given = {names.get(k, k): v for k, v in given.items()}
            target = plain
        if target is torch.ops.aten.detach.default and not outs:
            return None
        mark = len(self.b.ops)
        try:
            made = self._build(node, target, given, outs, inplace)
        except (Unclaimed, InferError, *_UNFORESEEN) as e:
            self._roll_back(mark)
            made = self._opaque(node, target, given, outs, _reason(e))
            return made if nested else made[0] if made else None
        return made if nested else made[0]

    def _arguments(
        self, node: Node, target: torch._ops.OpOverload, env: Mapping[Node, Any]
    ) -> dict[str, Any]:
        def resolve(x: Any) -> Any:
            if isinstance(x, Node):
                value = env[x]
                if isinstance(value, Unresolved):
                    raise CaptureError(f"{target}: {value.reason}")
                return value
            if isinstance(x, (list, tuple)):
                return [resolve(v) for v in x]
            return x

        names = [a.name for a in target._schema.arguments]
        given = {n: resolve(v) for n, v in zip(names, node.args, strict=False)}
        return given | {n: resolve(v) for n, v in node.kwargs.items()}

    def _types(self, node: Node) -> tuple[tuple[TensorType | None, ...], bool]:
        """Return the types of a node's results and whether they come as a tuple or list."""
        val = node.meta.get("val")
        nested = isinstance(val, (tuple, list))
        parts = val if nested else [val]
        return tuple(
            tensor_type(v, self.sizes) if isinstance(v, torch.Tensor) else None
            for v in parts  # type: ignore[union-attr]
        ), nested

    def _build(
        self,
        node: Node,
        target: torch._ops.OpOverload,
        given: Mapping[str, Any],
        outs: tuple[TensorType | None, ...],
        inplace: bool,
    ) -> tuple[Value | None, ...]:
        importer = IMPORTERS.get(str(target))
        if importer is None:
            raise Unclaimed(f"{target} has no kind")
        if any(t is not None and t.dtype in _FOREIGN for t in (*outs, *_types_in(given))):
            raise Unclaimed("its dtype is known to torch alone")
        full = {
            a.name: given.get(a.name, a.default_value if a.has_default_value() else None)
            for a in target._schema.arguments
        }
        context = Context(self.b, self.sizes, node, outs)
        made = importer(context, Args(full))
        results = made if isinstance(made, tuple) else (made,)
        if len(results) != len(outs):
            raise Unclaimed(f"imported as {len(results)} results, torch has {len(outs)}")
        if inplace and outs[0] is not None:
            results = (context.cast(results[0], outs[0].dtype),)
        return tuple(
            None if r is None or o is None else self._checked(context, r, o)
            for r, o in zip(results, outs, strict=True)
        )

    def _checked(self, context: Context, made: Value, want: TensorType) -> Value:
        """Return ``made`` once its type is torch's; sizes equal only in value are renamed."""
        got = made.type
        if got.dtype is not want.dtype or got.rank != want.rank:
            raise Unclaimed(f"imported as {got}, torch says {want}")
        if all(map(same_dim, got.shape, want.shape)):
            return made
        if not all(map(_equal_in_value, got.shape, want.shape)):
            raise Unclaimed(f"imported as {got}, torch says {want}")
        return context(Reshape(want.shape), made)

    def _roll_back(self, mark: int) -> None:
        for op in self.b.ops[mark:]:
            for r in op.results:
                del self.b.producer[r]
        del self.b.ops[mark:]

    def _opaque(
        self,
        node: Node,
        target: torch._ops.OpOverload,
        given: Mapping[str, Any],
        outs: tuple[TensorType | None, ...],
        reason: str,
    ) -> tuple[Any, ...]:
        flat = self._flat_types(node)
        if not flat and not is_pure(target):
            raise CaptureError(f"{target} has an effect and no result; leptonc cannot keep it")
        kind, operands = torch_op(target, given, tuple(flat))
        self.remarks.append(CaptureRemark(str(target), reason, self.b.origin))
        made = iter(self.b.emit(kind, *operands, hint=node.name))
        return tuple(self._restructured(v, made) for v in _as_list(node.meta.get("val")))

    def _flat_types(self, node: Node) -> list[TensorType]:
        def flat(v: Any) -> list[torch.Tensor]:
            if isinstance(v, torch.Tensor):
                return [v]
            return [t for x in v for t in flat(x)] if isinstance(v, (list, tuple)) else []

        return [tensor_type(t, self.sizes) for t in flat(node.meta.get("val"))]

    def _restructured(self, val: Any, made: Any) -> Any:
        if isinstance(val, torch.Tensor):
            return next(made)
        if isinstance(val, (list, tuple)):
            return tuple(self._restructured(v, made) for v in val)
        return self._size(val) if isinstance(val, _SYMBOLIC) else val

    # ----- in-place and nested ------------------------------------------------------------------

    def _rebind(self, node: Node, env: dict[Node, Any], aliases: Aliases) -> None:
        """Let every name of a mutated tensor mean its new value. Raises NeedsFunctional."""
        changed = node.args[0]
        if not isinstance(changed, Node):
            raise NeedsFunctional(str(node.target))
        if env[node] is env[changed]:
            return  # detach_, dropout_ in eval mode: nothing was written
        root = aliases.root[changed]
        if root.op == "placeholder":
            owner = self.owners.get(root)
            if owner is None:
                raise NeedsFunctional(str(node.target))
            raise CaptureError(mutation_message(owner, str(node.target)))
        if not aliases.may_rebind(changed, node):
            raise NeedsFunctional(str(node.target))
        for twin in aliases.twins(changed):
            if aliases.order[twin] <= aliases.order[node]:
                env[twin] = env[node]

    def _nested(self, node: Node, env: Mapping[Node, Any]) -> Any:
        """Inline a graph that stands under a grad mode or a disabled autocast."""
        name = str(node.target)
        args = [env[a] if isinstance(a, Node) else a for a in node.args]
        module = next((a for a in args if isinstance(a, GraphModule)), None)
        if name not in ("wrap_with_set_grad_enabled", "wrap_with_autocast") or module is None:
            raise CaptureError(
                f"the control-flow operator {name} has no counterpart in leptonc; write the branch "
                "or loop with torch.where or a fixed number of steps"
            )
        if name == "wrap_with_autocast" and args[2]:
            raise CaptureError("torch.autocast inside the model: convert the model's dtype instead")
        operands = args[args.index(module) + 1 :]
        places = [n for n in module.graph.nodes if n.op == "placeholder"]
        inner: dict[Node, Any] = dict(zip(places, operands, strict=True))
        outs = self.read(module, module.graph, inner)
        return tuple(inner[o] if isinstance(o, Node) else o for o in outs)


def mutation_message(owner: str, target: str) -> str:
    """Return the refusal of a model that writes to its own state or to its arguments."""
    return (
        f"the model modifies {owner} in place ({target}), and a compiled model keeps no state; "
        "return the new value as an output and pass it in at the next call, or clone() it first"
    )


def _reason(error: Exception) -> str:
    known = isinstance(error, (Unclaimed, InferError))
    return str(error) if known else f"its importer failed: {type(error).__name__}: {error}"


def _attribute(module: GraphModule | None, path: str) -> Any:
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part)
    return found


def _plain_twin(target: torch._ops.OpOverload) -> torch._ops.OpOverload:
    """Return the overload that computes what an in-place one writes. Raises NeedsFunctional."""
    packet = str(target).split(".")[1]
    plain = f"__{packet[3:-2]}__" if packet.startswith("__i") else packet.removesuffix("_")
    found = getattr(getattr(torch.ops.aten, plain, None), target._overloadname, None)
    if found is None or plain == packet:
        raise NeedsFunctional(str(target))
    return found


def _paired_names(a: torch._ops.OpOverload, b: torch._ops.OpOverload) -> Iterator[tuple[str, str]]:
    """Yield the names that two overloads give to the same place (``self`` and ``input``)."""
    for x, y in zip(a._schema.arguments, b._schema.arguments, strict=False):
        yield x.name, y.name


def _types_in(given: Mapping[str, Any]) -> list[TensorType]:
    values = [v for g in given.values() for v in (g if isinstance(g, list) else [g])]
    return [v.type for v in values if isinstance(v, Value)]


def _equal_in_value(a: Dim, b: Dim) -> bool:
    """Whether two sizes agree at a handful of values: for spellings sympy cannot equate."""
    names = sorted(free_symbols((a, b)))
    try:
        return all(
            evaluate(a, at) == evaluate(b, at)
            for at in ({n: s + 7 * i for i, n in enumerate(names)} for s in _SAMPLES)
        )
    except (ValueError, ZeroDivisionError, TypeError, KeyError):
        return False


def _as_list(val: Any) -> Sequence[Any]:
    return val if isinstance(val, (list, tuple)) else [val]
