"""What capture returns: the Function, and how arguments and results map to its values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from leptonc.errors import InputError
from leptonc.ir.core import Function, Origin
from leptonc.ir.dims import Dim, DimRange, evaluate
from leptonc.ir.kinds.region import TorchOp


@dataclass(frozen=True)
class InputSpec:
    """One flat leaf of ``(args, kwargs)``.

    ``param`` is its index among the function's parameters; a leaf without one is a Python value
    that the function was specialised on (``constant``, if ``fixed``) or is never read.
    ``size`` is the expression of a dynamic Python int.
    """

    name: str
    param: int | None = None
    fixed: bool = False
    constant: Any = None
    size: Dim | None = None
    tensor: bool = False


@dataclass(frozen=True)
class OutputSpec:
    """One flat leaf of the result: a return, an input leaf, a size, or a constant."""

    result: int | None = None
    input: int | None = None
    size: Dim | None = None
    constant: Any = None


@dataclass(frozen=True)
class CaptureRemark:
    """An op that stays opaque, where it stands in the user's model, and why."""

    op: str
    reason: str
    origin: Origin

    def __str__(self) -> str:
        return f"{self.op} at {self.origin}: {self.reason}"


@dataclass(frozen=True, eq=False)
class Captured:
    """A model as a Function, with everything needed to call it as the model is called.

    Attributes:
        function: the program; one parameter for each tensor argument that it reads.
        in_spec: pytree of ``(args, kwargs)``.
        out_spec: pytree of the result.
        inputs: one entry for each flat argument leaf.
        outputs: one entry for each flat result leaf.
        arg_names: names of all positional arguments of ``forward``.
        remarks: why ops stayed opaque.
        files: path of the file behind each source line (``net.py:12``) that an origin names.
        parameters: hints of the constants that are parameters of the model; the others are buffers.
    """

    function: Function
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    arg_names: tuple[str, ...] = ()
    remarks: tuple[CaptureRemark, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    parameters: frozenset[str] = frozenset()

    @property
    def ranges(self) -> tuple[DimRange, ...]:
        """The dynamic sizes and their ranges."""
        return self.function.dims

    @property
    def opaque(self) -> tuple[str, ...]:
        """Targets of the ops that run through torch."""
        return tuple(op.kind.target for op in self.function.ops if isinstance(op.kind, TorchOp))

    def flatten(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """Return the flat leaves of a call. Raises InputError when its structure differs."""
        args, kwargs = self._arranged(tuple(args), dict(kwargs))
        leaves, spec = pytree.tree_flatten((args, kwargs))
        if spec != self.in_spec:
            raise InputError(f"arguments are arranged as {spec}, the model was compiled for "
                             f"{self.in_spec}")  # fmt: skip
        return leaves

    def tensors(self, leaves: Sequence[Any]) -> list[Tensor]:
        """Return the function's operands among the leaves; Python values must be as captured.

        Raises:
            InputError: a leaf that is no tensor, or another Python value than at capture.
        """
        made: list[Any] = [None] * len(self.function.params)
        for spec, leaf in zip(self.inputs, leaves, strict=True):
            if spec.tensor and not isinstance(leaf, Tensor):
                raise InputError(f"{spec.name}: expected a tensor, got {type(leaf).__name__}")
            if spec.param is not None:
                made[spec.param] = leaf
            elif spec.fixed and not _same_constant(leaf, spec.constant):
                raise InputError(
                    f"{spec.name}: the model was compiled for the value {spec.constant!r}, "
                    f"got {leaf!r}; compile it again for another value"
                )
        return made

    def restore(
        self,
        results: Sequence[Tensor],
        leaves: Sequence[Any],
        sizes: Mapping[str, int] | None = None,
    ) -> Any:
        """Return the model's result structure.

        Args:
            results: what the function returned.
            leaves: the flat arguments of this call (for inputs that are passed through).
            sizes: the value of every dynamic size (for sizes that are returned).
        """
        flat: list[Any] = []
        for o in self.outputs:
            if o.result is not None:
                flat.append(results[o.result])
            elif o.input is not None:
                flat.append(leaves[o.input])
            else:
                flat.append(o.constant if o.size is None else evaluate(o.size, sizes or {}))
        if self._returns_sizes:
            return _unflattened(iter(flat), self.out_spec)
        return pytree.tree_unflatten(flat, self.out_spec)

    @cached_property
    def _returns_sizes(self) -> bool:
        return _holds_size(self.out_spec)

    def _arranged(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Move arguments between positions and keywords, and order keywords, as captured."""
        count, names = _call_shape(self.in_spec)
        if len(args) == count and list(kwargs) == names:
            return args, kwargs
        # Arguments captured by name may come by position: they follow the ones captured so.
        captured = {*self.arg_names[:count], *names}
        places = list(takewhile(captured.__contains__, self.arg_names))
        given = dict(zip(places, args, strict=False))
        if twice := [n for n in given if n in kwargs]:
            raise InputError(f"{', '.join(twice)}: given by position and by name")
        given |= kwargs
        extra = args[len(places) :]
        missing = [n for n in (*self.arg_names[:count], *names) if n not in given]
        unknown = [n for n in given if n not in captured]
        if missing or unknown or extra:
            known = ", ".join([*self.arg_names[:count], *names])
            raise InputError(
                f"the model was compiled for arguments ({known})"
                + (f"; missing {', '.join(missing)}" if missing else "")
                + (f"; unexpected {', '.join(unknown)}" if unknown else "")
                + (f"; {len(extra)} too many" if extra else "")
            )
        return tuple(given[n] for n in self.arg_names[:count]), {n: given[n] for n in names}


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and keyword arguments that example inputs stand for."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}


def _holds_size(spec: pytree.TreeSpec) -> bool:
    return spec.type is torch.Size or any(map(_holds_size, spec.children()))


def _unflattened(leaves: Iterator[Any], spec: pytree.TreeSpec) -> Any:
    """Return the structure of ``spec``; torch's own function makes a plain tuple of a Size."""
    if spec.is_leaf():
        return next(leaves)
    children = [_unflattened(leaves, child) for child in spec.children()]
    if spec.type is torch.Size:
        with suppress(TypeError):  # what a changed file calls a Size may hold anything
            return torch.Size(children)
        return tuple(children)
    return pytree.SUPPORTED_NODES[spec.type].unflatten_fn(children, spec.context)


def _call_shape(spec: pytree.TreeSpec) -> tuple[int, list[str]]:
    args, kwargs = spec.children()
    return args.num_children, list(kwargs.context)


def _same_constant(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, float) and isinstance(b, float) and a != a and b != b:
        return True
    return type(a) is type(b) and not isinstance(a, torch.Tensor) and bool(a == b)
