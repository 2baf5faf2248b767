"""numba_cpu > lower > epilogue: what a contraction does with its sums before it stores them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from leptonc.backends.numba_cpu.kernels.activation import Act
from leptonc.backends.numba_cpu.kernels.igemm_record import Res
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.product import Finish
from leptonc.backends.numba_cpu.lower.shape import as_dtype, contiguous, copy_view
from leptonc.backends.numba_cpu.schedule import Slot
from leptonc.backends.numba_cpu.views import View, ordered, static_shape
from leptonc.ir.core import Function, Kind, Op, Value
from leptonc.ir.kinds.binary import Add, Mul
from leptonc.ir.kinds.contract import Conv, ConvTranspose, Linear, Matmul
from leptonc.ir.kinds.data import Constant, Full
from leptonc.ir.kinds.pointwise import Clamp, Elu, Gelu, LeakyRelu, Softplus
from leptonc.ir.kinds.unary import HardSigmoid, HardSwish, Mish, Relu, Sigmoid, Silu, Tanh
from leptonc.ir.types import DType
from leptonc.meaning import array_of

Activation = tuple[Act, float, float]


def _clamp(k: Clamp) -> Activation | None:
    if any(b is not None and not isinstance(b, float) for b in (k.lo, k.hi)):
        return None
    low = -math.inf if k.lo is None else float(k.lo)
    return Act.CLAMP, low, math.inf if k.hi is None else float(k.hi)


def _elu(k: Elu) -> Activation | None:
    plain = k.scale == 1.0 and k.input_scale == 1.0
    return (Act.ELU, float(k.alpha), 0.0) if plain else None


_PLAIN: Mapping[type[Kind], Act] = {
    Relu: Act.RELU, Silu: Act.SILU, HardSwish: Act.HARDSWISH, HardSigmoid: Act.HARDSIGMOID,
    Sigmoid: Act.SIGMOID, Tanh: Act.TANH, Mish: Act.MISH,
}  # fmt: skip
_WITH_PARAMETERS: Mapping[type[Kind], Callable[..., Activation | None]] = {
    Gelu: lambda k: (Act.GELU_TANH if k.tanh else Act.GELU, 0.0, 0.0),
    LeakyRelu: lambda k: (Act.LEAKY_RELU, float(k.slope), 0.0),
    Softplus: lambda k: (Act.SOFTPLUS, float(k.beta), float(k.threshold)),
    Clamp: _clamp,
    Elu: _elu,
}


def activation(kind: Kind) -> Activation | None:
    """Return the code and parameters of an activation that kernels apply, None for other kinds."""
    if type(kind) in _PLAIN:
        return _PLAIN[type(kind)], 0.0, 0.0
    make = _WITH_PARAMETERS.get(type(kind))
    return None if make is None else make(kind)


@dataclass(frozen=True)
class Epilogue:
    """``act(sum + bias + shift [+ res]) [+ or * res]``.

    Attributes:
        act: code and parameters of the activation.
        res: the residual operand, broadcast to the result, or None. mode: where it goes.
        shift: a constant that only depends on the column, besides the root's own bias, or None.
    """

    act: Activation = (Act.NONE, 0.0, 0.0)
    res: Value | None = None
    mode: Res = Res.BEFORE
    shift: Value | None = None

    @property
    def trivial(self) -> bool:
        """Whether nothing happens to the sums."""
        return self.act[0] is Act.NONE and self.res is None and self.shift is None


NOTHING = Epilogue()
ROOTS = (Linear, Matmul, Conv, ConvTranspose)


def match(ctx: Lowering, body: Function) -> tuple[Op, Value, Epilogue] | None:
    """Return root, final value and epilogue of a body; None if the body is not of that form."""
    ops = [op for op in body.ops if not isinstance(op.kind, (Constant, Full))]
    if not ops or not isinstance(ops[0].kind, ROOTS):
        return None
    root, value, found = ops[0], ops[0].result, NOTHING
    half = root.result.type.dtype is not DType.F32
    for op in ops[1:]:
        if half or body.use_count[value] != 1 or value not in op.operands:
            return None
        more = _grown(ctx, root, found, value, op)
        if more is None:
            return None
        found, value = more, op.result
    return (root, value, found) if body.returns == (value,) else None


def _grown(ctx: Lowering, root: Op, found: Epilogue, value: Value, op: Op) -> Epilogue | None:
    """Return the epilogue with ``op`` in it, None if it has no place for ``op``."""
    if op.result.type.shape != value.type.shape:
        return None
    act = activation(op.kind)
    if act is not None:
        free = found.act[0] is Act.NONE and (found.res is None or found.mode is Res.BEFORE)
        return replace(found, act=act) if free else None
    if not isinstance(op.kind, (Add, Mul)) or found.res is not None:
        return None
    other = op.operands[1] if op.operands[0] is value else op.operands[0]
    if isinstance(op.kind, Mul):
        return replace(found, res=other, mode=Res.TIMES)
    if found.trivial and _is_vector(ctx, root, other):
        return replace(found, shift=other)
    late = found.act[0] is not Act.NONE
    return replace(found, res=other, mode=Res.AFTER if late else Res.BEFORE)


def _is_vector(ctx: Lowering, root: Op, value: Value) -> bool:
    """Return whether ``value`` is a constant of the root's columns that its bias can take in."""
    const, shape = ctx.constant(value), root.result.type.shape
    if const is None or any(ctx.constant(bias) is None for bias in root.operands[2:]):
        return False
    axis = 1 if isinstance(root.kind, (Conv, ConvTranspose)) else len(shape) - 1
    own = static_shape(const.type)
    padded = (1,) * (len(shape) - len(own)) + own
    return len(padded) == len(shape) and math.prod(own) == padded[axis] == shape[axis]


def finish(ctx: Lowering, op: Op, epilogue: Epilogue, out: View, order: Sequence[int]) -> Finish:
    """Return the epilogue with its operands in place; a third operand of ``op`` is its bias."""
    bias, reads = _bias(ctx, op.operands[2:], epilogue.shift)
    res = residual(ctx, epilogue, out, order)
    return Finish(bias, epilogue.act, res, epilogue.mode, tuple(reads))


def _bias(ctx: Lowering, values: Sequence[Value], shift: Value | None) -> tuple[Slot, list[View]]:
    """Return the address of the bias (0 if there is none) and the views that it reads."""
    parts = [v for v in (*values, shift) if v is not None]
    consts = [c for v in parts if (c := ctx.constant(v)) is not None]
    if not parts:
        return 0, []
    if len(consts) < len(parts):  # a computed bias stands alone, see _is_vector
        view = contiguous(ctx, as_dtype(ctx, ctx.view(parts[0]), DType.F32))
        return view.ref, [view]
    key = ("bias", *(id(c.payload) for c in consts))

    def total() -> np.ndarray:
        flat = [array_of(c).reshape(-1).astype(np.float64) for c in consts]
        return np.sum(flat, axis=0).astype(np.float32)

    return ctx.packed(key, total, consts), []


def zeros(ctx: Lowering, count: int) -> Slot:
    """Return the address of at least ``count`` zeros that are never written."""
    size = max(1024, 1 << max(count - 1, 1).bit_length())
    return ctx.packed(("zeros", size), lambda: np.zeros(size, np.float32))


def target(
    ctx: Lowering, result: Value, order: Sequence[int], dtype: DType = DType.F32
) -> tuple[View, Callable[[], None]]:
    """Return where the kernel writes ``result``, of ``dtype``, unit stride along ``order[-1]``.

    The function returned must be called after the kernel's steps: it copies to where the result
    belongs if that is of another dtype or has other strides.
    """
    out, inner = ctx.out(result), order[-1]
    if out.dtype is dtype and (out.strides[inner] == 1 or out.shape[inner] == 1):
        return out, lambda: None
    made = ctx.temp(dtype, out.shape, ordered(out.shape, order))
    return made, lambda: copy_view(ctx, made, out)


def residual(ctx: Lowering, epilogue: Epilogue, out: View, order: Sequence[int]) -> View | None:
    """Return the residual broadcast to ``out``'s shape with unit stride along ``order[-1]``."""
    if epilogue.res is None:
        return None
    view, inner = as_dtype(ctx, ctx.view(epilogue.res), DType.F32).expand(out.shape), order[-1]
    if view.strides[inner] == 1 or view.shape[inner] == 1:
        return view
    return contiguous(ctx, view, order)
