"""numba_cpu > lower > elementwise: elementwise ops and chains as machine programs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from leptonc.backends.numba_cpu.kernels.elementwise_ops import INTS, compute_type, has
from leptonc.backends.numba_cpu.legal import YES, Claim, ClaimFn, No, stored
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.machine import Machine, Node
from leptonc.backends.numba_cpu.views import View
from leptonc.errors import ClaimError
from leptonc.ir.core import Function, Kind, Op, Trait, Value
from leptonc.ir.kinds import binary, pointwise, unary
from leptonc.ir.kinds.data import Constant, Full
from leptonc.ir.kinds.shape import Slice, Transpose
from leptonc.ir.types import DType

Params = tuple[int | float, ...]
_IDENTITY = frozenset({"floor", "ceil", "round", "trunc"})
_ALIAS: Mapping[tuple[str, str], str] = {
    **{("is_nan", k): "ne" for k in (*INTS, "bool")},
    **{("is_inf", k): "ne" for k in (*INTS, "bool")},
    **{("is_finite", k): "eq" for k in (*INTS, "bool")},
}  # tests that have one answer for integers: compare the operand with itself
_POWERS: Mapping[float, str] = {
    2.0: "square", 3.0: "cube", 0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal",
    -2.0: "inverse_square",
}  # fmt: skip
_LIMITS = {
    "i64": (-(2**63), 2**63 - 1), "i32": (-(2**31), 2**31 - 1), "i16": (-(2**15), 2**15 - 1),
    "i8": (-128, 127), "u8": (0, 255),
}  # fmt: skip
_DIVISIONS = (binary.FloorDiv, binary.TruncDiv, binary.Remainder, binary.Fmod)


# --- what operation a kind is ---------------------------------------------------------------------
def _identity(kind: Kind, compute: str) -> bool:
    """Return whether the kind changes no value of this compute type."""
    if kind.NAME in _IDENTITY:
        return compute != "f32"
    if isinstance(kind, pointwise.Clamp) and kind.lo is None and kind.hi is None:
        return True
    return kind.NAME in ("relu", "abs") and compute == "u8"


def _name(kind: Kind, compute: str) -> str:
    """Return the name of the operation that the kind is on this compute type."""
    if isinstance(kind, pointwise.Gelu):
        return "gelu_tanh" if kind.tanh else "gelu"
    if isinstance(kind, pointwise.Cast):
        return _cast_name(compute, compute_type(kind.dtype.value))
    return _ALIAS.get((kind.NAME, compute), kind.NAME)


def _cast_name(source: str, to: str) -> str:
    return f"to_{to}" if source != to else ""


def _clamp_params(k: pointwise.Clamp, compute: str) -> Params:
    if compute == "f32":
        low = -math.inf if k.lo is None else float(k.lo)
        return low, math.inf if k.hi is None else float(k.hi)
    low, high = _LIMITS[compute]
    return low if k.lo is None else int(k.lo), high if k.hi is None else int(k.hi)


_PARAMS: Mapping[type[Kind], Callable[..., Params]] = {
    pointwise.LeakyRelu: lambda k, compute: (float(k.slope),),
    pointwise.Elu: lambda k, compute: (float(k.alpha), float(k.scale), float(k.input_scale)),
    pointwise.Softplus: lambda k, compute: (float(k.beta), float(k.threshold)),
    pointwise.Clamp: _clamp_params,
}


def claim(op: Op) -> Claim:
    """Claim an elementwise op whose dtypes and attributes there are operations for."""
    answer = stored(op)
    if isinstance(answer, No):
        return answer
    dtype = op.operands[-1].type.dtype.value
    compute, kind = compute_type(dtype), op.kind
    if isinstance(kind, pointwise.Clamp) and compute != "f32":
        bounds = [b for b in (kind.lo, kind.hi) if b is not None]
        low, high = _LIMITS.get(compute, (0, -1))
        if any(b != int(b) or not low <= b <= high for b in bounds):
            return No(f"clamp of {dtype} has no kernel for bounds {kind.lo}, {kind.hi}")
    name = _name(kind, compute)
    if not name or _identity(kind, compute) or has(name, compute):
        return YES
    return No(f"{kind.NAME} has no kernel for {dtype}")


# --- programs -------------------------------------------------------------------------------------
def number(ctx: Lowering, value: Value) -> float | int | bool | None:
    """Return the one number that a constant holds in every element, None if there is none."""
    fill = ctx.splat(value)
    if isinstance(fill, (bool, int, float)):
        return fill
    array = ctx.array(value) if value.type.numel == 1 else None
    return None if array is None else array.reshape(-1)[0].item()


def _check_divisor(ctx: Lowering, op: Op) -> None:
    """Refuse integer division by what may hold 0: torch raises then."""
    divisor = op.operands[1]
    fill, array = ctx.splat(divisor), ctx.array(divisor)
    known = fill if fill is not None else array
    if known is None or not (bool(known) if array is None else bool((array != 0).all())):
        raise ClaimError(f"{op.kind.NAME} of integers may divide by 0")


def apply(m: Machine, op: Op, operands: Sequence[Node]) -> Node:
    """Return the value of ``op`` in the program. Raises ClaimError."""
    kind, compute = op.kind, operands[-1].kind
    out = op.result.type.dtype.value
    if isinstance(kind, pointwise.Cast):
        return _cast(m, operands[0], kind.dtype)
    if _identity(kind, compute):
        return operands[0]
    if isinstance(kind, _DIVISIONS) and compute != "f32":
        _check_divisor(m.ctx, op)
    if isinstance(kind, binary.Pow) and compute == "f32":
        power = number(m.ctx, op.operands[1])
        if power == 1:
            return operands[0]
        if power is not None and power in _POWERS:
            return m.op(_POWERS[float(power)], operands[0], stored=out)
    name = _name(kind, compute)
    operands = (*operands, *operands) if (kind.NAME, compute) in _ALIAS else operands
    make = _PARAMS.get(type(kind))
    return m.op(name, *operands, params=make(kind, compute) if make else (), stored=out)


def _cast(m: Machine, x: Node, dtype: DType) -> Node:
    to = compute_type(dtype.value)
    name = _cast_name(x.kind, to)
    if name:
        x = m.op(name, x)
    if dtype in (DType.BF16, DType.F16):
        x = m.op(f"round_{dtype.value}", x)
    return x


def lower_op(ctx: Lowering, op: Op) -> None:
    """Lower one elementwise op. Raises ClaimError."""
    _lower_group(ctx, [op], {op.result})


def _lower_group(ctx: Lowering, ops: Sequence[Op], wanted: set[Value]) -> None:
    """Lower ops of one result shape into one step that stores the ``wanted`` values."""
    shape = tuple(int(d) for d in ops[0].result.type.shape)
    m = Machine(ctx, max((_shape(op) for op in ops), key=len, default=shape))
    nodes: dict[Value, Node] = {}
    for op in ops:
        operands = [nodes[v] if v in nodes else m.load(ctx.view(v)) for v in op.operands]
        nodes[op.result] = apply(m, op, operands)
    for op in ops:
        if op.result in wanted:
            m.store(nodes[op.result], ctx.out(op.result).expand(m.shape))
    m.emit()


def _shape(op: Op) -> tuple[int, ...]:
    return tuple(int(d) for d in op.result.type.shape)


def _core(op: Op) -> tuple[int, ...]:
    """Return the result's shape without leading ones: what the iteration space depends on."""
    shape = _shape(op)
    while shape and shape[0] == 1:
        shape = shape[1:]
    return shape


def _moved(kind: Kind, view: View) -> View:
    """Return what a transpose or a slice makes of a view."""
    if isinstance(kind, Transpose):
        return view.transpose(kind.perm)
    assert isinstance(kind, Slice)
    return view.slice(kind.axis, int(kind.start), int(kind.stop), kind.step)


def lower_chain(ctx: Lowering, body: Function) -> bool:
    """Lower a whole body of elementwise ops: one step for each shape of results.

    What they read may be transposed or cut out first: that moves nothing.

    Returns:
        False if the body holds something else; nothing has been lowered then.
    """
    ops = [op for op in body.ops if not isinstance(op.kind, (Constant, Full))]
    moves = [op for op in ops if isinstance(op.kind, (Slice, Transpose))]
    ops = [op for op in ops if not isinstance(op.kind, (Slice, Transpose))]
    if not ops or any(Trait.ELEMENTWISE not in op.kind.traits for op in ops):
        return False
    made = {op.result for op in ops}
    if any(op.operands[0] in made or op.result in body.returns for op in moves):
        return False
    for op in moves:
        ctx.views[op.result] = _moved(op.kind, ctx.view(op.operands[0]))
    groups: dict[tuple[int, ...], list[Op]] = {}
    for op in ops:
        groups.setdefault(_core(op), []).append(op)
    home = {op.result: core for core, group in groups.items() for op in group}
    wanted = {v for v in body.returns if v in home}
    wanted |= {v for op in ops for v in op.operands if v in home and home[v] != _core(op)}
    # An operand broadcasts into its result: smaller shapes first is an order of dependence.
    for core in sorted(groups, key=lambda c: (math.prod(c), len(c))):
        _lower_group(ctx, groups[core], wanted)
    return True


LOWER: dict[type[Kind], tuple[ClaimFn, Callable[[Lowering, Op], None]]] = {
    k: (claim, lower_op) for k in (*unary.KINDS, *binary.KINDS, *pointwise.KINDS)
}
