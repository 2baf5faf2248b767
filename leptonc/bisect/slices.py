"""Bisect > slices: parts of a function as functions of their own, and what flows into them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

from leptonc import meaning
from leptonc.ir.constants import Const
from leptonc.ir.core import Function, Kind, Op, Value
from leptonc.ir.kinds.data import Constant, Full
from leptonc.ir.kinds.region import Unit
from leptonc.ir.types import TensorType

SOURCES = (Constant, Full)  # they follow their readers: a rule may look at their values
_SIZES = frozenset({"shape", "stop", "length", "groups"})  # attributes that hold sizes


def values_of(
    fn: Function, inputs: Sequence[Tensor], wanted: Collection[Value], *, wide: bool = False
) -> dict[Value, Tensor]:
    """Return what the wanted values of ``fn`` (none of a unit's body) are for ``inputs``.

    ``wide`` computes in float64.
    """
    own = set(fn.ops)
    found = {p: t for p, t in zip(fn.params, inputs, strict=True) if p in wanted}

    def observe(op: Op, results: tuple[Tensor, ...]) -> None:
        if op in own:
            found.update((v, t) for v, t in zip(op.results, results, strict=True) if v in wanted)

    meaning.run(fn, *inputs, precision="f64" if wide else None, observe=observe)
    return found


def work_of(fn: Function) -> tuple[Op, ...]:
    """Return the ops of ``fn`` that compute something: all but constants."""
    return tuple(op for op in fn.ops if not isinstance(op.kind, SOURCES))


def part(fn: Function, keep: Collection[Op]) -> Function:
    """Return the function of the ops ``keep`` alone.

    What they read from other ops is a parameter, constants excepted, which come along; what others
    read of them, or the caller, is returned.
    """
    kept = set(keep)
    read = {v for op in kept for v in op.operands}
    kept |= {op for op in fn.ops if isinstance(op.kind, SOURCES) and op.result in read}
    ops = tuple(op for op in fn.ops if op in kept)
    made = {v for op in ops for v in op.results}
    params = tuple(dict.fromkeys(v for op in ops for v in op.operands if v not in made))
    outside = set(fn.returns)
    outside.update(v for op in fn.ops if op not in kept for v in op.operands)
    work = [op for op in ops if not isinstance(op.kind, SOURCES)]
    returns = [v for op in work for v in op.results if v in outside]
    unread = made - {v for op in ops for v in op.operands}
    returns += [v for op in work for v in op.results if v in unread and v not in outside]
    return Function(fn.name, params, ops, tuple(returns), fn.dims)


def around(fn: Function, op: Op, steps: int) -> tuple[Op, ...]:
    """Return the ops at most ``steps`` edges away from ``op``, in order; constants are no edges."""
    work = work_of(fn)
    found, edge = {op}, {op}
    for _ in range(steps):
        values = {v for o in edge for v in (*o.operands, *o.results)}
        edge = {
            o for o in work if o not in found and not values.isdisjoint((*o.operands, *o.results))
        }
        found |= edge
    return tuple(o for o in work if o in found)


def unit_alone(op: Op) -> Function:
    """Return the function whose only op is ``op``; a value read twice is one parameter."""
    return Function(op.kind.NAME, tuple(dict.fromkeys(op.operands)), (op,), op.results)


def body_part(unit: Op, keep: Collection[Op]) -> Function:
    """Return the function of one unit that holds the ops ``keep`` of another unit's body."""
    kind = unit.kind
    assert isinstance(kind, Unit)
    body = part(kind.body, keep)
    params = tuple(Value(p.type, p.hint) for p in body.params)
    results = tuple(Value(r.type, r.hint) for r in body.returns)
    op = Op(Unit(body, kind.name, kind.pattern), params, results, unit.origin)
    return Function(kind.name or "unit", params, (op,), results)


# ----- sizes --------------------------------------------------------------------------------------


def sizes_of(fn: Function) -> tuple[int, ...]:
    """Return the sizes of the parameters and constants of ``fn``, each once, largest first."""
    types = [p.type for p in fn.params]
    for op in fn.ops:
        if isinstance(op.kind, Constant):
            types.append(op.result.type)
        if isinstance(op.kind, Unit):
            types += [v.type for o in op.kind.body.ops for v in o.results]
    return tuple(sorted({int(d) for t in types for d in t.shape if d != 1}, reverse=True))


def narrowed(tensor: Tensor, old: int, new: int) -> Tensor:
    """Return the first ``new`` elements along every axis of ``old``."""
    return tensor[tuple(slice(new) if n == old else slice(None) for n in tensor.shape)].clone()


def resized(fn: Function, old: int, new: int) -> Function:
    """Return ``fn`` with every size ``old`` replaced by ``new``, constants cut to fit.

    It computes something else, and may not be possible. Raises InferError where it is not.
    """
    env: dict[Value, Value] = {}

    def sized(t: TensorType) -> TensorType:
        return TensorType(t.dtype, tuple(new if d == old else d for d in t.shape), t.layout)

    for p in fn.params:
        env[p] = Value(sized(p.type), p.hint)
    ops: list[Op] = []
    for op in fn.ops:
        kind = _resized_kind(op.kind, old, new)
        operands = tuple(env[v] for v in op.operands)
        types = kind.infer(tuple(v.type for v in operands))
        for r, t in zip(op.results, types, strict=True):
            env[r] = Value(TensorType(t.dtype, t.shape, r.type.layout), r.hint)
        ops.append(Op(kind, operands, tuple(env[r] for r in op.results), op.origin))
    params = tuple(env[p] for p in fn.params)
    return Function(fn.name, params, tuple(ops), tuple(env[r] for r in fn.returns), fn.dims)


def _resized_kind(kind: Kind, old: int, new: int) -> Kind:
    changed: dict[str, Any] = {}
    for name, value in kind.attributes.items():
        if isinstance(value, Const):
            changed[name] = meaning.const_of(narrowed(meaning.tensor_of(value), old, new))
        elif isinstance(value, Function):
            changed[name] = resized(value, old, new)
        elif name in _SIZES and isinstance(value, tuple):
            changed[name] = tuple(new if d == old else d for d in value)
        elif name in _SIZES and value == old:
            changed[name] = new
    return dataclasses.replace(kind, **changed) if changed else kind  # type: ignore[type-var]


# ----- constants ----------------------------------------------------------------------------------


def constants_in(fn: Function) -> tuple[Const, ...]:
    """Return the constants of ``fn`` and of its units' bodies, equal ones once."""
    found: dict[str, Const] = {}
    for op in fn.ops:
        if isinstance(op.kind, Constant):
            found.setdefault(op.kind.const.digest, op.kind.const)
        elif isinstance(op.kind, Unit):
            found |= {c.digest: c for c in constants_in(op.kind.body)}
    return tuple(found.values())


def with_constants(fn: Function, new: Mapping[str, Const]) -> Function:
    """Return ``fn`` with constants replaced, by digest, also in the bodies of its units."""
    ops: list[Op] = []
    for op in fn.ops:
        kind = op.kind
        if isinstance(kind, Constant) and kind.const.digest in new:
            kind = Constant(new[kind.const.digest])
        elif isinstance(kind, Unit):
            kind = Unit(with_constants(kind.body, new), kind.name, kind.pattern)
        ops.append(op if kind is op.kind else Op(kind, op.operands, op.results, op.origin))
    return Function(fn.name, fn.params, tuple(ops), fn.returns, fn.dims)
