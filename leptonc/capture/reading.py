"""capture > reading: a traced ``Program`` -> ``Captured``: arguments, state, ops and results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy
import torch
from torch.fx import Node

from leptonc.capture.captured import Captured, CaptureRemark, InputSpec, OutputSpec
from leptonc.capture.context import tensor_type
from leptonc.capture.graph import GraphReader, Unresolved, mutation_message
from leptonc.capture.origin import positional_names, source_files
from leptonc.capture.program import Placeholder, Program, Role
from leptonc.capture.sizes import Sizes
from leptonc.errors import CaptureError
from leptonc.ir.constants import Const
from leptonc.ir.core import NOWHERE, Builder, Function, Value
from leptonc.ir.dims import free_symbols
from leptonc.ir.kinds.data import Constant
from leptonc.meaning import IR_DTYPES, const_of


def read(
    program: Program, model: Any, leaf_names: Sequence[str], positional: int, sizes: Sizes
) -> Captured:
    """Return ``program`` as a Function, with the map of its arguments and results.

    Args:
        program: what was traced.
        model: whose ``forward`` names the arguments.
        leaf_names: a name for every flat leaf of the call.
        positional: how many arguments the example gave by position.
        sizes: the names of dynamic sizes.

    Raises:
        CaptureError: the model keeps state, or has what leptonc cannot store.
        NeedsFunctional: it writes to memory that is also seen otherwise.
    """
    return _Reading(program, sizes, leaf_names).captured(model, positional)


class _Reading:
    """One import of a program."""

    def __init__(self, program: Program, sizes: Sizes, leaf_names: Sequence[str]) -> None:
        self.program, self.sizes = program, sizes
        self.leaf_names = leaf_names
        self.b = Builder("main")
        self.env: dict[Node, Any] = {}
        self.owners: dict[Node, str] = {}
        self.remarks: list[CaptureRemark] = []
        self.constants: dict[Any, tuple[torch.Tensor, Value]] = {}
        self.parameters: set[str] = set()
        self.passed: dict[Node, int] = {}  # tensor placeholder -> flat input

    def captured(self, model: Any, positional: int) -> Captured:
        """Return the whole of it. Raises CaptureError, NeedsFunctional."""
        program = self.program
        inputs = self._inputs()
        for what in program.mutated:
            raise CaptureError(mutation_message(what, "an in-place op"))
        reader = GraphReader(self.b, self.sizes, self.owners, self.remarks)
        outs = reader.read(program.module, program.graph, self.env)
        outputs, returns = self._outputs(outs)
        function = self._finish(returns)
        return Captured(
            function, program.in_spec, program.out_spec, tuple(inputs), tuple(outputs),
            tuple(positional_names(model, positional, every=True)), tuple(self.remarks),
            source_files(program.graph.nodes), frozenset(self.parameters),
        )  # fmt: skip

    def _inputs(self) -> list[InputSpec]:
        user = self.program.inputs()
        names = list(self.leaf_names)
        if len(names) != len(user):
            names = [p.name or f"arg{i}" for i, p in enumerate(user)]
        inputs: list[InputSpec] = []
        for p in self.program.placeholders:
            if p.role is Role.INPUT:
                inputs.append(self._input(p, names[len(inputs)], len(inputs)))
            elif p.node is not None and p.tensor is not None:
                self._tensor(p, p.node, p.tensor)
            elif p.node is not None and p.node.users:
                raise CaptureError(f"the model reads a {p.role} ({p.name}), which has no kind")
        return inputs

    def _tensor(self, p: Placeholder, node: Node, tensor: torch.Tensor) -> None:
        word = "parameter" if p.role is Role.PARAMETER else "buffer"
        self.owners[node] = f"{word} {p.name!r}"
        if node.users:
            self.env[node] = self._constant(tensor, p.name)
            if p.role is Role.PARAMETER:
                self.parameters.add(p.name)

    def _input(self, p: Placeholder, name: str, index: int) -> InputSpec:
        node = p.node
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
        if node is not None:
            self.env[node] = p.constant
        return InputSpec(name, fixed=True, constant=p.constant)

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

    def _outputs(self, outs: Sequence[Any]) -> tuple[list[OutputSpec], list[Value]]:
        kept = [o for o, kept in zip(outs, self.program.outputs, strict=True) if kept]
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
        self.b.dims = self.sizes.ranges(self.program.ranges)
        loose = [r.name for r in self.b.dims if r.name not in bound]
        used = free_symbols(d for op in self.b.ops for r in op.results for d in r.type.shape)
        if any(n in used for n in loose):
            raise CaptureError(
                f"the size {', '.join(loose)} is given by a Python int, not by a tensor's shape; "
                "leave it out of `dynamic`"
            )
        return self.b.finish(*returns)
