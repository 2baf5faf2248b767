"""Products of codes with epilogues: ``root {activation, residual in either order} quantize``."""

from __future__ import annotations

from collections.abc import Mapping

from leptonc.ir.core import Function, Op, Value
from leptonc.ir.kinds.binary import Add, Mul
from leptonc.ir.kinds.quantize import (
    BYTES,
    Dequantize,
    IntAvgPool,
    IntLinear,
    Quantize,
    QuantizeRows,
    UnpackInt4,
)
from leptonc.passes.fusing.axes import same_memory
from leptonc.passes.fusing.contract import is_activation
from leptonc.passes.fusing.units import INTEGER, SOURCES


def integer_roots(fn: Function) -> list[Op]:
    """Return the products of codes of ``fn``, the last first: of two, the later gets a sum."""
    return [op for op in reversed(fn.ops) if isinstance(op.kind, INTEGER)]


def codes_per_reader(fn: Function) -> Function:
    """Return ``fn`` with a ``dequantize`` for each op that reads one; ``fn`` if that is so.

    Codes take a quarter of the bytes: what reads them in its own unit never sees them as floats.
    """
    made: list[Op] = []
    own: dict[tuple[int, Value], Value] = {}  # by reader
    for op in fn.ops:
        readers = fn.users[op.result] if isinstance(op.kind, Dequantize) else ()
        first = 0 if isinstance(op.kind, Dequantize) and op.result in fn.returns else 1
        for reader in readers[first:]:
            copy = Value(op.result.type, op.result.hint)
            made.append(Op(op.kind, op.operands, (copy,), op.origin))
            own[id(reader), op.result] = copy
        operands = tuple(own.get((id(op), v), v) for v in op.operands)
        same = all(a is b for a, b in zip(operands, op.operands, strict=True))
        made.append(op if same else Op(op.kind, operands, op.results, op.origin))
    if not own:
        return fn
    return Function(fn.name, fn.params, tuple(made), fn.returns, fn.dims)


def find_codes(root: Op, fn: Function, taken: Mapping[int, str]) -> list[Op]:
    """Return ``root`` and the ops of its epilogue in order; the last alone is read by others."""
    ops, active, added = [root], False, False
    while not isinstance(ops[-1].kind, Quantize):
        value = ops[-1].result
        users = fn.users[value]
        if fn.use_count[value] != 1 or len(users) != 1 or id(users[0]) in taken:
            break
        (user,) = users
        if is_activation(user.kind) and not active:
            active = True
        elif isinstance(user.kind, Quantize) and _one_scale(user, fn):
            pass
        elif isinstance(user.kind, Add) and not added and _fits(user, value):
            added = True
            ops += _residual(user, value, fn, taken)
        else:
            break
        ops.append(user)
    return _in_order(ops, fn)


def find_code_rows(root: Op, fn: Function, taken: Mapping[int, str]) -> list[Op]:
    """Return a linear layer on codes of rows and what belongs to it, in order.

    That is: the unpacking of its weight, the product with the rows' scales, a bias, an activation.
    """
    ops = [root]
    w = fn.producer.get(root.operands[1])
    if w is not None and isinstance(w.kind, UnpackInt4):
        source = fn.producer.get(w.operands[0])
        alone = fn.use_count[w.result] == 1 and id(w) not in taken
        if not alone or source is None or not isinstance(source.kind, SOURCES):
            return ops
        ops.append(w)
    value, parts = root.result, [_scales_rows, _adds_vector, _activates]
    while parts:
        users = fn.users[value]
        if fn.use_count[value] != 1 or len(users) != 1 or id(users[0]) in taken:
            break
        fitting = [i for i, part in enumerate(parts) if part(users[0], value, fn)]
        if not fitting:
            break
        parts = parts[fitting[0] + 1 :]
        ops.append(users[0])
        value = users[0].result
    return _in_order(ops, fn)


def find_pooled(fn: Function, taken: Mapping[int, str]) -> list[list[Op]]:
    """Return the means of codes whose one reader makes codes of them, with that reader."""
    pairs = [(op, fn.users[op.result]) for op in fn.ops if isinstance(op.kind, IntAvgPool)]
    return [
        [op, *users]
        for op, users in pairs
        if fn.use_count[op.result] == 1 and len(users) == 1 and id(users[0]) not in taken
        and isinstance(users[0].kind, Quantize) and users[0].kind.dtype in BYTES
        and _one_scale(users[0], fn)
    ]  # fmt: skip


def _scales_rows(op: Op, value: Value, fn: Function) -> bool:
    if not isinstance(op.kind, Mul):
        return False
    other = op.operands[1] if op.operands[0] is value else op.operands[0]
    maker = fn.producer.get(other)
    rows = other.type.shape == (*value.type.shape[:-1], 1)
    return rows and maker is not None and isinstance(maker.kind, QuantizeRows)


def _adds_vector(op: Op, value: Value, fn: Function) -> bool:
    if not isinstance(op.kind, Add):
        return False
    other = op.operands[1] if op.operands[0] is value else op.operands[0]
    maker = fn.producer.get(other)
    constant = maker is not None and isinstance(maker.kind, SOURCES)
    return constant and other.type.shape == value.type.shape[-1:]


def _activates(op: Op, value: Value, fn: Function) -> bool:
    del value, fn
    return is_activation(op.kind)


def reads_rows(root: Op, fn: Function) -> bool:
    """Return whether a product of codes is one on rows of scales of their own, or of groups."""
    if not isinstance(root.kind, IntLinear) or root.kind.x_zero:
        return False
    maker = fn.producer.get(root.operands[0])
    by_rows = maker is not None and isinstance(maker.kind, QuantizeRows)
    return by_rows or root.operands[2].type.rank == 2


def _one_scale(op: Op, fn: Function) -> bool:
    """Return whether the scale and zero point of a conversion are one constant each."""
    made = (fn.producer.get(v) for v in op.operands[1:])
    return all(m is not None and isinstance(m.kind, SOURCES) for m in made) and not any(
        v.type.rank for v in op.operands[1:]
    )


def _fits(add: Op, value: Value) -> bool:
    other = add.operands[1] if add.operands[0] is value else add.operands[0]
    alike = same_memory(other.type, add.result.type) and same_memory(value.type, add.result.type)
    return other is not value and alike


def _residual(add: Op, value: Value, fn: Function, taken: Mapping[int, str]) -> list[Op]:
    """Return the op that makes the other summand from codes, if the unit can do that."""
    other = add.operands[1] if add.operands[0] is value else add.operands[0]
    maker = fn.producer.get(other)
    if maker is None or not isinstance(maker.kind, Dequantize) or id(maker) in taken:
        return []
    alone = fn.use_count[other] == 1
    return [maker] if alone and _one_scale(maker, fn) else []


def _in_order(ops: list[Op], fn: Function) -> list[Op]:
    place = {id(op): i for i, op in enumerate(fn.ops)}
    return sorted(ops, key=lambda op: place[id(op)])
