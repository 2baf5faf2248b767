"""compress > raised: a Function as a ``torch.nn.Module`` that trains and is captured again exactly.

The module interprets the ops with the reference semantics (:mod:`leptonc.meaning`) under autograd.
Constants that were parameters are parameters again, under the names they had; the others are
buffers. In training mode batch norms use and update the statistics of the batch, as torch's do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from leptonc import meaning
from leptonc.capture import Captured
from leptonc.errors import InputError
from leptonc.ir.core import Function, Op, Value
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.norm import BatchNorm
from leptonc.ir.specialize import Specializer
from leptonc.meaning import const_of, tensor_of

Watch = Callable[[Op, Sequence[Tensor]], None]  # told of every op and its results
MOMENTUM = 0.1  # of running statistics, torch's default; the IR does not keep a model's own


class Raised(nn.Module):
    """``captured`` as a module: call it as the original model is called.

    ``state_dict`` has the names of the original model; constants without a name are buffers
    ``constant_0``, ``constant_1``, ... A constant is its module's own copy, so that training
    changes neither the Function nor the original model.
    """

    def __init__(self, captured: Captured) -> None:
        super().__init__()
        self._captured = captured
        self._names = names_of(captured.function)
        for value, name in self._names.items():
            made = tensor_of(_const(captured.function, value)).detach().clone()
            trains = value.hint in captured.parameters and made.is_floating_point()
            _place(self, name, nn.Parameter(made) if trains else made)
        self._watch: Watch | None = None
        self.eval()

    @property
    def function(self) -> Function:
        """The program with the present values of all parameters and buffers as constants."""
        return self.captured().function

    def captured(self) -> Captured:
        """Return what capturing this module gives: exact, without tracing."""
        held = {value: self._tensor(name) for value, name in self._names.items()}
        fn = self._captured.function
        ops = tuple(
            dataclasses.replace(op, kind=Constant(const_of(held[op.result])))
            if op.results and op.results[0] in held else op
            for op in fn.ops
        )  # fmt: skip
        return dataclasses.replace(self._captured, function=dataclasses.replace(fn, ops=ops))

    def __leptonc_captured__(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], dynamic: Any
    ) -> Captured | None:
        """Return :meth:`captured` if it is made for such arguments; None: trace the module."""
        captured = self._captured
        if not _covers(captured, dynamic):
            return None
        try:
            tensors = captured.tensors(captured.flatten(args, kwargs))
            meaning.bind_dims(captured.function, [tuple(t.shape) for t in tensors])
        except InputError:
            return None
        return self.captured()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the model returns. Raises InputError for arguments that do not fit."""
        captured = self._captured
        leaves = captured.flatten(args, kwargs)
        tensors = captured.tensors(leaves)
        fn = captured.function
        sizes = meaning.bind_dims(fn, [tuple(t.shape) for t in tensors])
        fix = Specializer(sizes)
        env: dict[Value, Tensor] = dict(zip(fn.params, tensors, strict=True))
        for op in fn.ops:
            if op.results and (name := self._names.get(op.results[0])) is not None:
                env[op.results[0]] = self._tensor(name)
            else:
                env.update(zip(op.results, self._results(op, fix, env), strict=True))
            if self._watch is not None:
                self._watch(op, [env[v] for v in op.results])
        return captured.restore([env[v] for v in fn.returns], leaves, sizes)

    def _results(self, op: Op, fix: Specializer, env: Mapping[Value, Tensor]) -> Sequence[Tensor]:
        kind = fix.kind(op.kind) if fix.sizes else op.kind
        operands = [env[v] for v in op.operands]
        if self.training and isinstance(kind, BatchNorm):
            x, mean, var, *affine = operands
            weight = affine[0] if kind.affine in ("both", "weight") else None
            bias = affine[-1] if kind.affine in ("both", "bias") else None
            return (F.batch_norm(x, mean, var, weight, bias, True, MOMENTUM, kind.eps),)
        return meaning.apply(kind, *operands)

    def _tensor(self, name: str) -> Tensor:
        owner, _, leaf = name.rpartition(".")
        return getattr(self.get_submodule(owner), leaf)


def _covers(captured: Captured, dynamic: Any) -> bool:
    """Return whether every size that shall be dynamic is so already."""
    if dynamic is None:
        return True
    if not isinstance(dynamic, Mapping):
        return bool(captured.function.dims)
    params = {s.name: captured.function.params[s.param] for s in captured.inputs
              if s.param is not None}  # fmt: skip
    for name, axes in dynamic.items():
        given = axes.items() if isinstance(axes, Mapping) else enumerate(axes or ())
        wanted = [axis for axis, size in given if size is not None]
        if wanted and name not in params:
            return False
        if any(isinstance(params[name].type.shape[axis], int) for axis in wanted):
            return False
    return True


def raise_(captured: Captured) -> Raised:
    """Return ``captured`` as a module in evaluation mode; see :class:`Raised`."""
    return Raised(captured)


def names_of(fn: Function) -> dict[Value, str]:
    """Return the name of every constant of ``fn``: its hint where it is distinct, else a number."""
    found: dict[Value, str] = {}
    taken: set[str] = set()
    for op in constants(fn):
        hint = op.result.hint
        plain = all(part.isidentifier() or part.isdigit() for part in hint.split("."))
        name = hint if plain and hint not in taken else f"constant_{len(found)}"
        taken.add(name)
        found[op.result] = name
    return found


def constants(fn: Function) -> Iterator[Op]:
    """Yield the constants among the ops of ``fn``."""
    return (op for op in fn.ops if isinstance(op.kind, Constant))


def _const(fn: Function, value: Value) -> Any:
    kind = fn.producer[value].kind
    assert isinstance(kind, Constant)
    return kind.const


def _place(root: nn.Module, name: str, tensor: Tensor) -> None:
    """Register ``tensor`` under a dotted name, making the modules on the way."""
    *path, leaf = name.split(".")
    at = root
    for part in path:
        if part not in at._modules:
            at.add_module(part, nn.Module())
        at = at.get_submodule(part)
    if isinstance(tensor, nn.Parameter):
        at.register_parameter(leaf, tensor)
    else:
        at.register_buffer(leaf, tensor)


__all__ = ["Raised", "constants", "names_of", "raise_"]
