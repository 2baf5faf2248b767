"""``capture``: a model and example inputs -> ``Captured``, by way of torch.export."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import sympy
import torch
from torch._guards import tracing
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Node
from torch.fx.experimental import _config as fx_config
from torch.utils import _pytree as pytree

from leptonc.capture.captured import Captured, CaptureRemark, InputSpec, OutputSpec
from leptonc.capture.context import tensor_type
from leptonc.capture.dynamic import check_arguments, dynamic_shapes, symbol_names
from leptonc.capture.failure import capture_error, refuse_training
from leptonc.capture.graph import GraphReader, NeedsFunctional, Unresolved, mutation_message
from leptonc.capture.origin import argument_names, positional_names, source_files
from leptonc.capture.quiet import quiet
from leptonc.capture.shim import Shim, needs_shim
from leptonc.capture.sizes import Sizes
from leptonc.capture.whole_layers import whole_layers
from leptonc.errors import CaptureError
from leptonc.ir.constants import Const
from leptonc.ir.core import NOWHERE, Builder, Function, Value
from leptonc.ir.dims import free_symbols
from leptonc.ir.kinds.data import Constant
from leptonc.meaning import IR_DTYPES, const_of

# The method of a module that was raised from IR: it returns what it is, or None for other inputs.
RAISED = "__leptonc_captured__"
_STATE = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


_FROM_TWO = CaptureRemark("dynamic", "the model treats size 1 apart: sizes begin at 2", NOWHERE)


def capture(
    model: Any,
    args: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic: Any = None,
) -> Captured:
    """Return ``model`` as a Function, with the map of its arguments and results.

    Args:
        model: an ``nn.Module``, ``fx.GraphModule`` or ``ExportedProgram``; it is not changed.
        args: example positional arguments (one tensor may stand alone); an ExportedProgram has its
            own.
        kwargs: example keyword arguments.
        dynamic: which sizes may change: None, ``"auto"``, or e.g. ``{"x": {0: Dim("batch")}}``.

    Raises:
        CaptureError: the model is in training mode, keeps state, or cannot be traced; the message
            names the user's source line and what to change.
    """
    if isinstance(model, ExportedProgram):
        example = model.example_inputs or ((), {})
        return _import(model, model, example[0], dict(example[1]), Sizes(), None)
    refuse_training(model)
    args = (args,) if isinstance(args, torch.Tensor) else tuple(args or ())
    named: dict[str, Any] = dict(kwargs or {})
    if hasattr(model, RAISED) and (known := getattr(model, RAISED)(args, named, dynamic)):
        return known
    check_arguments(model, args, named)
    shapes = dynamic_shapes(model, args, named, dynamic)
    if shapes is not None:
        args, named = pytree.tree_map(_alias, (args, named))
    program, out_spec, floor = _export(model, args, named, shapes)
    fakes = [_fake_of(program, s) for s in _user_inputs(program)]
    sizes = Sizes(symbol_names(model, args, named, shapes, fakes), floor)
    made = _import(program, model, args, named, sizes, out_spec)
    if not floor:
        return made
    return dataclasses.replace(made, remarks=(*made.remarks, _FROM_TWO))


def _alias(leaf: Any) -> Any:
    """Return another object for the same tensor: torch.export marks dynamic ones."""
    return leaf.detach() if isinstance(leaf, torch.Tensor) else leaf


# ----- torch.export ---------------------------------------------------------------------------


def _export(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any
) -> tuple[ExportedProgram, pytree.TreeSpec | None, int]:
    """Return the program, its result's structure where torch lacks it, and the least dynamic size.

    Torch takes dynamic sizes to be at least 2 while it traces. Named sizes are traced without that
    assumption first, so that a model that treats 1 apart is told so; where tracing needs it, the
    declared ranges begin at 2.
    """
    if shapes is not None and _has_named(shapes):
        try:
            with cast(Any, fx_config).patch(backed_size_oblivious=True):
                return *_export_any(model, args, kwargs, shapes), 0
        except CaptureError:
            return *_export_any(model, args, kwargs, shapes), 2
    return *_export_any(model, args, kwargs, shapes), 0


def _has_named(shapes: Any) -> bool:
    return any(hasattr(leaf, "__name__") for leaf in pytree.tree_leaves(shapes))


def _export_any(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any
) -> tuple[ExportedProgram, pytree.TreeSpec | None]:
    """Export, through a wrapper if the model returns what torch cannot take apart."""
    try:
        return _exported(model, args, kwargs, shapes), None
    except Exception as e:
        if not needs_shim(e):
            raise capture_error(e, model) from e
    specs: list[pytree.TreeSpec] = []
    try:
        program = _exported(Shim(model, specs.append), args, kwargs, shapes)
        return program, specs[-1]
    except Exception as e:
        raise capture_error(e, model) from e


def _exported(model: Any, args: Any, kwargs: Any, shapes: Any) -> ExportedProgram:
    # tracing(None): inside torch.compile, export would otherwise add its guards to Dynamo's
    with torch.no_grad(), _plain_attention(), whole_layers(), quiet(), tracing(None):
        return torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Keep nn.MultiheadAttention from its fused inference path, which is one opaque op."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _import(
    program: ExportedProgram,
    model: Any,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    sizes: Sizes,
    out_spec: pytree.TreeSpec | None,
) -> Captured:
    leaf_names = argument_names(model, args, kwargs)
    try:
        return _Reading(program, sizes, leaf_names).captured(model, out_spec, len(args))
    except NeedsFunctional:
        program = _functional(program, model)
        return _Reading(program, sizes, leaf_names).captured(model, out_spec, len(args))


def _functional(program: ExportedProgram, model: Any) -> ExportedProgram:
    """Return the program without in-place ops; composite ops stay whole."""
    try:
        with torch.no_grad(), quiet():
            return program.run_decompositions({})
    except Exception as e:
        raise capture_error(e, model) from e


# ----- the program as a Function --------------------------------------------------------------


def _user_inputs(program: ExportedProgram) -> list[Any]:
    specs = program.graph_signature.input_specs
    return [s for s in specs if s.kind is InputKind.USER_INPUT]


def _placeholders(program: ExportedProgram) -> dict[str, Node]:
    return {n.name: n for n in program.graph.nodes if n.op == "placeholder"}


def _fake_of(program: ExportedProgram, spec: Any) -> Any:
    node = _placeholders(program).get(getattr(spec.arg, "name", ""))
    return None if node is None else node.meta.get("val")


class _Reading:
    """One import of an exported program."""

    def __init__(self, program: ExportedProgram, sizes: Sizes, leaf_names: Sequence[str]) -> None:
        self.program, self.sizes = program, sizes
        self.leaf_names = leaf_names
        self.b = Builder("main")
        self.env: dict[Node, Any] = {}
        self.owners: dict[Node, str] = {}
        self.remarks: list[CaptureRemark] = []
        self.constants: dict[Any, tuple[torch.Tensor, Value]] = {}
        self.parameters: set[str] = set()
        self.passed: dict[Node, int] = {}  # tensor placeholder -> flat input

    def captured(self, model: Any, out_spec: Any, positional: int) -> Captured:
        """Return the whole of it. Raises CaptureError, NeedsFunctional."""
        inputs = self._inputs()
        self._refuse_mutation()
        reader = GraphReader(self.b, self.sizes, self.owners, self.remarks)
        outs = reader.read(self.program.graph_module, self.program.graph, self.env)
        outputs, returns = self._outputs(outs)
        function = self._finish(returns)
        spec = cast(Any, self.program.call_spec)
        return Captured(
            function, spec.in_spec, out_spec or spec.out_spec, tuple(inputs), tuple(outputs),
            tuple(positional_names(model, positional, every=True)), tuple(self.remarks),
            source_files(self.program.graph.nodes), frozenset(self.parameters),
        )  # fmt: skip

    def _inputs(self) -> list[InputSpec]:
        nodes = _placeholders(self.program)
        user = _user_inputs(self.program)
        names = list(self.leaf_names)
        if len(names) != len(user):
            names = [getattr(s.arg, "name", f"arg{i}") for i, s in enumerate(user)]
        inputs: list[InputSpec] = []
        for s in self.program.graph_signature.input_specs:
            node = nodes.get(getattr(s.arg, "name", ""))
            if s.kind is InputKind.USER_INPUT:
                inputs.append(self._user_input(s, node, names[len(inputs)], len(inputs)))
            elif s.kind in _STATE and node is not None:
                word = "parameter" if s.kind is InputKind.PARAMETER else "buffer"
                self.owners[node] = f"{word} {s.target!r}"
                if node.users:
                    self.env[node] = self._constant(self._state(s), str(s.target))
                    if s.kind is InputKind.PARAMETER:
                        self.parameters.add(str(s.target))
            elif node is not None and node.users:
                what = s.kind.name.lower()
                raise CaptureError(f"the model reads a {what} ({s.target}), which has no kind")
        return inputs

    def _user_input(self, s: Any, node: Node | None, name: str, index: int) -> InputSpec:
        val = None if node is None else node.meta.get("val")
        if isinstance(val, torch.Tensor) and node is not None:
            self.owners[node] = f"input {name!r}"
            self.passed[node] = index
            if val.layout is not torch.strided:
                raise CaptureError(f"{name}: a {val.layout} tensor; leptonc takes dense ones")
            if not [u for u in node.users if u.op != "output"]:
                return InputSpec(name, tensor=True)
            self.env[node] = self.b.param(tensor_type(val, self.sizes), name)
            return InputSpec(name, param=len(self.b.params) - 1, tensor=True)
        if isinstance(val, torch.SymInt) and node is not None:
            self.env[node] = self.sizes.dim(val)
            return InputSpec(name, size=self.env[node])
        value = getattr(s.arg, "value", None)
        if node is not None:
            self.env[node] = value
        return InputSpec(name, fixed=True, constant=value)

    def _state(self, s: Any) -> torch.Tensor:
        program = self.program
        held = program.state_dict if s.target in program.state_dict else program.constants
        return cast(torch.Tensor, held[s.target])

    def _constant(self, tensor: torch.Tensor, hint: str) -> Value:
        """Return the one value of a tensor; tied weights share it."""
        if tensor.layout is not torch.strided:
            raise CaptureError(f"{hint}: a {tensor.layout} tensor; leptonc takes dense ones")
        if tensor.dtype not in IR_DTYPES:
            raise CaptureError(f"{hint}: {tensor.dtype}, which leptonc has no type for")
        key = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if key not in self.constants or not tensor.numel():
            const: Const = const_of(tensor)
            self.constants[key] = tensor, self.b(Constant(const), origin=NOWHERE, hint=hint)
        return self.constants[key][1]

    def _refuse_mutation(self) -> None:
        signature = self.program.graph_signature
        for what, names in (
            ("buffer", signature.buffers_to_mutate), ("input", signature.user_inputs_to_mutate),
        ):  # fmt: skip
            for target in names.values():
                raise CaptureError(mutation_message(f"{what} {target!r}", "an in-place op"))

    def _outputs(self, outs: Sequence[Any]) -> tuple[list[OutputSpec], list[Value]]:
        specs = self.program.graph_signature.output_specs
        kept = [o for o, s in zip(outs, specs, strict=True) if s.kind is OutputKind.USER_OUTPUT]
        outputs: list[OutputSpec] = []
        returns: list[Value] = []
        for out in kept:
            value = self.env.get(out) if isinstance(out, Node) else out
            if isinstance(out, Node) and out in self.passed:
                outputs.append(OutputSpec(input=self.passed[out]))
            elif isinstance(value, Value):
                if value not in returns:
                    returns.append(value)
                outputs.append(OutputSpec(result=returns.index(value)))
            elif isinstance(value, Unresolved):
                raise CaptureError(f"the model returns a Python number: {value.reason}")
            elif isinstance(value, sympy.Expr):
                outputs.append(OutputSpec(size=value))
            else:
                outputs.append(OutputSpec(constant=value))
        return outputs, returns

    def _finish(self, returns: Sequence[Value]) -> Function:
        bound = free_symbols(d for p in self.b.params for d in p.type.shape)
        self.b.dims = self.sizes.ranges(self.program.range_constraints)
        loose = [r.name for r in self.b.dims if r.name not in bound]
        used = free_symbols(d for op in self.b.ops for r in op.results for d in r.type.shape)
        if any(n in used for n in loose):
            raise CaptureError(
                f"the size {', '.join(loose)} is given by a Python int, not by a tensor's shape; "
                "leave it out of `dynamic`"
            )
        return self.b.finish(*returns)
