"""Run a function op by op with torch: the reference that everything else is held to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import sympy
import torch
from torch import Tensor

from leptonc.errors import InputError
from leptonc.ir.constants import Const
from leptonc.ir.core import Function, Kind, Op, Value
from leptonc.ir.dims import Dim, evaluate, free_symbols
from leptonc.ir.kinds.data import Full, Iota
from leptonc.ir.kinds.pointwise import Cast
from leptonc.ir.kinds.region import TorchOp, Unit
from leptonc.ir.specialize import Specializer, check_sizes
from leptonc.ir.types import DType, TensorType
from leptonc.meaning import opaque
from leptonc.meaning.collective import ALONE
from leptonc.meaning.constants import IR_DTYPES, TORCH_DTYPES, const_of
from leptonc.meaning.contraction import CONTRACTION
from leptonc.meaning.elementwise import ELEMENTWISE, Expression
from leptonc.meaning.movement import MOVEMENT
from leptonc.meaning.quantized import QUANTIZED
from leptonc.meaning.reduction import REDUCTION

Precision = Literal["f64"] | None
Observer = Callable[[Op, tuple[Tensor, ...]], None]
Feeder = Callable[[Op, tuple[Tensor, ...]], tuple[Tensor, ...]]
_NARROW = frozenset({DType.F32, DType.F16, DType.BF16})


def _unit(kind: Unit, *operands: Tensor) -> tuple[Tensor, ...]:
    return run(kind.body, *operands)


MEANING: Mapping[type[Kind], Expression] = MappingProxyType(
    {
        **ELEMENTWISE,
        **CONTRACTION,
        **REDUCTION,
        **MOVEMENT,
        **QUANTIZED,
        **ALONE,
        TorchOp: opaque.call,
        Unit: _unit,
    }
)
"""Kind -> torch expression ``(kind, *operands) -> Tensor | tuple[Tensor, ...]``.

Sizes in the kind's attributes must be ints (``ir.specialize``); ``run`` sees to it.
"""


def apply(kind: Kind, *operands: Tensor) -> tuple[Tensor, ...]:
    """Return the results of one application of a kind whose attributes hold no symbols."""
    made = MEANING[type(kind)](kind, *operands)
    return (made,) if isinstance(made, Tensor) else tuple(made)


def run(
    fn: Function,
    *tensors: Tensor,
    precision: Precision = None,
    observe: Observer | None = None,
    feed: Feeder | None = None,
) -> tuple[Tensor, ...]:
    """Return what ``fn`` returns for ``tensors``, computed op by op with torch.

    Args:
        fn: the function; symbolic sizes are bound from the shapes of ``tensors``.
        tensors: one per parameter.
        precision: None computes in the types of ``fn``; ``"f64"`` computes everything that is
            f32, f16 or bf16 in float64 (results are float64 then).
        observe: called with each op and its results; ops of a unit's body come before the unit.
        feed: called with each op and its operands; the op runs on what it returns.

    Raises:
        InputError: number, dtypes or shapes of ``tensors`` do not fit the parameters.
    """
    _check_dtypes(fn, tensors, precision)
    sizes = bind_dims(fn, [tuple(t.shape) for t in tensors])
    with torch.no_grad():
        if precision == "f64":
            tensors = tuple(map(_wide, tensors))
        return _Run(sizes, precision, observe, feed).function(fn, tensors)


class _Run:
    """One interpretation: the sizes, the precision, the observer and the feeder."""

    def __init__(
        self, sizes: Mapping[str, int], precision: Precision, observe: Observer | None,
        feed: Feeder | None,
    ) -> None:  # fmt: skip
        self.sizes, self.observe, self.feed = sizes, observe, feed
        self.precision: Precision = precision
        self.fix = Specializer(sizes)

    def function(self, fn: Function, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        env: dict[Value, Tensor] = dict(zip(fn.params, tensors, strict=True))
        left = dict(fn.use_count)
        for op in fn.ops:
            results = self.op(op, tuple(env[v] for v in op.operands))
            env.update(zip(op.results, results, strict=True))
            if self.observe is not None:
                self.observe(op, results)
            for v in op.operands:
                left[v] -= 1
            for v in (*op.operands, *op.results):
                if not left[v]:
                    env.pop(v, None)  # the last reader is done: give the memory back
        return tuple(env[v] for v in fn.returns)

    def op(self, op: Op, operands: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        kind = op.kind
        if self.feed is not None:
            operands = self.feed(op, operands)
        if isinstance(kind, Unit):
            sizes = bind_dims(kind.body, [tuple(t.shape) for t in operands], self.sizes)
            others = (self.observe, self.feed)
            inner = self if not sizes else _Run(sizes, self.precision, *others)
            return inner.function(kind.body, operands)
        kind = self.fix.kind(kind) if self.sizes else kind
        if self.precision is None:
            return apply(kind, *operands)
        if isinstance(kind, TorchOp):
            return _wide_call(kind, operands)
        return tuple(map(_wide, apply(widen(kind), *operands)))


def widen(kind: Kind) -> Kind:
    """Return ``kind`` with the narrow float dtype it names, if any, replaced by f64."""
    if isinstance(kind, (Full, Iota, Cast)) and kind.dtype in _NARROW:
        return dataclasses.replace(kind, dtype=DType.F64)
    return kind


def _wide(t: Tensor) -> Tensor:
    return t.double() if IR_DTYPES.get(t.dtype) in _NARROW else t


def _wide_call(kind: TorchOp, operands: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Run an opaque op in f64; one that refuses f64 runs in f32 and is widened after."""
    try:
        wide = dataclasses.replace(kind, args=_widened(kind.args), kwargs=_widened(kind.kwargs))
        return tuple(map(_wide, opaque.call(wide, *operands)))
    except (RuntimeError, TypeError, ValueError):
        narrow = (t.float() if t.dtype is torch.float64 else t for t in operands)
        return tuple(map(_wide, opaque.call(kind, *narrow)))


def _widened(template: Any) -> Any:
    if isinstance(template, tuple):
        return tuple(map(_widened, template))
    return DType.F64 if isinstance(template, DType) and template in _NARROW else template


def _check_dtypes(fn: Function, tensors: Sequence[Tensor], precision: Precision) -> None:
    if len(tensors) != len(fn.params):
        raise InputError(f"{fn.name}: takes {len(fn.params)} tensors, got {len(tensors)}")
    for i, (p, t) in enumerate(zip(fn.params, tensors, strict=True)):
        want, got = p.type.dtype, IR_DTYPES.get(t.dtype, DType.OTHER)
        if want is not got and not (precision == "f64" and want.is_float and got.is_float):
            raise InputError(f"{fn.name}: {_name(p, i)} is {got.value}, expected {p.type}")


def bind_dims(
    fn: Function, shapes: Sequence[Sequence[int]], known: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Return the value of each symbolic size of ``fn`` for parameters of these shapes.

    Args:
        fn: the function.
        shapes: a shape per parameter.
        known: sizes that are already bound (of the function around a unit's body).

    Raises:
        InputError: a shape does not fit, two parameters disagree, or a size leaves its range.
    """
    declared = {d.name for d in fn.dims}
    sizes = {n: v for n, v in (known or {}).items() if n in declared}
    later: list[tuple[int, Dim, int]] = []
    for i, (p, shape) in enumerate(zip(fn.params, shapes, strict=True)):
        if len(shape) != p.type.rank:
            raise InputError(f"{fn.name}: {_name(p, i)} has shape {list(shape)}, expected {p.type}")
        for want, got in zip(p.type.shape, shape, strict=True):
            if isinstance(want, int):
                if want != got:
                    raise _misfit(fn, i, want, got, sizes)
            elif isinstance(want, sympy.Symbol) and str(want) not in sizes:
                sizes[str(want)] = int(got)
            else:
                later.append((i, want, int(got)))
    for i, want, got in later:
        _solve(want, got, sizes)
        if not free_symbols((want,)) <= sizes.keys() or evaluate(want, sizes) != got:
            raise _misfit(fn, i, want, got, sizes)
    check_sizes(fn.name, [d for d in fn.dims if d.name in sizes], sizes)
    return sizes


def _solve(want: Dim, got: int, sizes: dict[str, int]) -> None:
    """Bind the one unknown symbol of ``want == got``, if there is one whole solution >= 0."""
    if isinstance(want, int):
        return
    unknown = [s for s in want.free_symbols if str(s) not in sizes]
    if len(unknown) == 1:
        known: Any = {s: sizes[str(s)] for s in want.free_symbols if str(s) in sizes}
        found = [v for v in sympy.solve(want.subs(known) - got, unknown[0]) if v.is_Integer]
        if len(found) == 1 and found[0] >= 0:
            sizes[str(unknown[0])] = int(found[0])


def _misfit(fn: Function, i: int, want: Dim, got: int, sizes: Mapping[str, int]) -> InputError:
    p = fn.params[i]
    used = [f"{n} = {sizes[n]}" for n in sorted(free_symbols((want,)) & sizes.keys())]
    under = f" with {', '.join(used)}" if used else ""
    return InputError(
        f"{fn.name}: {_name(p, i)} has a size of {got} where {p.type} has {want}{under}"
    )


def _name(p: Value, i: int) -> str:
    return f"parameter {i} ({p.hint})" if p.hint else f"parameter {i}"


def fold(fn: Function, precision: Precision = None) -> tuple[Const, ...]:
    """Return what a function without parameters returns, as constants of its return types.

    Args:
        fn: a function whose ops read nothing but constants.
        precision: None gives the bits that running it would give; ``"f64"`` computes in float64
            and rounds once, at the end.

    Raises:
        InputError: ``fn`` has parameters.
    """
    if fn.params:
        raise InputError(f"{fn.name}: only a function without parameters folds to constants")
    made = run(fn, precision=precision)
    return tuple(
        const_of(_as_type(t, v.type).contiguous()) for t, v in zip(made, fn.returns, strict=True)
    )


def _as_type(t: Tensor, type_: TensorType) -> Tensor:
    return t.to(TORCH_DTYPES.get(type_.dtype, t.dtype))
