"""Random well-typed functions over the elementwise, shape, reduction and matmul kinds."""

from __future__ import annotations

from hypothesis import assume
from hypothesis import strategies as st

from leptonc.ir.core import Builder, Function, Kind, Value
from leptonc.ir.kinds import binary, contract, data, norm, pointwise, reduce, shape, unary
from leptonc.ir.types import DType, TensorType

from .kinds import Draw, attrs, operand_types, scalar_of, takes, tensor_types

# Integer division by zero raises, a float that no integer can hold casts to anything: both would
# make a run depend on more than the program's meaning.
_FLOAT_ONLY = (binary.FloorDiv, binary.TruncDiv, binary.Remainder, binary.Fmod, binary.Pow)
_MOVING = tuple(k for k in shape.KINDS if k is not shape.Relayout)
KINDS: tuple[type[Kind], ...] = (
    *unary.KINDS,
    *binary.KINDS,
    *pointwise.KINDS,
    *(reduce.Sum, reduce.Mean, reduce.Prod, reduce.Amax, reduce.Amin, reduce.All, reduce.Any),
    *(reduce.ArgMax, reduce.ArgMin, reduce.CumSum, norm.Softmax),
    *_MOVING * 3,
    *(contract.Linear, contract.Matmul) * 3,
)
_MOST = 256  # elements of a value


@st.composite
def functions(
    draw: st.DrawFn,
    max_ops: int = 8,
    kinds: tuple[type[Kind], ...] = KINDS,
    min_ops: int = 1,
) -> Function:
    """Draw a verified function of ``min_ops`` to ``max_ops`` drawn ops (and some ``full``).

    Args:
        draw: supplied by Hypothesis.
        max_ops: most ops drawn.
        kinds: classes to draw from; repeat one to see more of it.
        min_ops: fewest ops drawn.
    """
    b = Builder("drawn")
    pool = [b.param(draw(tensor_types()), f"p{i}") for i in range(draw(st.integers(1, 3)))]
    for _ in range(draw(st.integers(min_ops, max_ops))):
        _grow(draw, b, pool, kinds)
    returns = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=2))
    return b.finish(pool[-1], *returns[1:])


def _grow(draw: Draw, b: Builder, pool: list[Value], kinds: tuple[type[Kind], ...]) -> None:
    """Append one op that reads values of ``pool``, new parameters or new constants."""
    first = pool[-1 - draw(st.integers(0, len(pool) - 1))]
    fitting = [k for k in kinds if _allowed(k, first.type)]
    assume(fitting)
    cls = draw(st.sampled_from(fitting))
    types = draw(operand_types(cls, first.type))
    kind = draw(attrs(cls, types))
    if isinstance(kind, pointwise.Cast) and first.type.dtype.is_float and kind.dtype.is_int:
        kind = pointwise.Cast(DType.F32)
    assume(all(t.numel <= _MOST for t in kind.infer(types)))
    operands = [first, *(_operand(draw, b, pool, t) for t in types[1:])]
    if len(operands) == 2 and cls in binary.KINDS and draw(st.booleans()):
        operands.reverse()
    pool.extend(b.emit(kind, *operands))


def _allowed(cls: type[Kind], t: TensorType) -> bool:
    return takes(cls, t) and (t.dtype.is_float or cls not in _FLOAT_ONLY)


def _operand(draw: Draw, b: Builder, pool: list[Value], t: TensorType) -> Value:
    """Return a value of type ``t``: one that is there, a filled array, or a new parameter."""
    there = [v for v in pool if v.type == t]
    if there and draw(st.booleans()):
        return draw(st.sampled_from(there))
    if not draw(st.integers(0, 2)):
        value = b(data.Full(t.shape, scalar_of(draw, t.dtype), t.dtype))
    else:
        value = b.param(t, f"p{len(b.params)}")
    pool.append(value)
    return value
