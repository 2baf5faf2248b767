"""Sizes with symbols in them, their ranges, and types over them; kinds that hold programs."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from leptonc.ir.core import Builder, Kind
from leptonc.ir.dims import Dim, DimRange, ceildiv, floordiv, symbol
from leptonc.ir.kinds.region import Arg, TorchOp, Unit
from leptonc.ir.types import DType, TensorType

from .kinds import COVERED, applications
from .operands import ALL_DTYPES, Types, tensor_types

NAMES = ("b", "s", "n0")


@st.composite
def ranges(draw: st.DrawFn) -> tuple[DimRange, ...]:
    """Draw the range of every size of ``NAMES``: bounded or not, maybe of one value."""
    made: list[DimRange] = []
    for name in NAMES:
        low = draw(st.integers(1, 8))
        made.append(DimRange(name, low, draw(st.none() | st.integers(low, low + 60))))
    return tuple(made)


def dims() -> st.SearchStrategy[Dim]:
    """Return a strategy of sizes: ints, symbols, sums, products, quotients rounded either way."""
    leaves: st.SearchStrategy[Any] = st.integers(1, 9) | st.sampled_from(list(map(symbol, NAMES)))
    small = st.integers(1, 5)

    def grow(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return (
            st.builds(lambda a, b: a + b, inner, inner)
            | st.builds(lambda a, b: a * b, inner, small)
            | st.builds(lambda a, b: a * b, inner, inner)
            | st.builds(floordiv, inner, small)
            | st.builds(ceildiv, inner, small)
        )

    return st.recursive(leaves, grow, max_leaves=4)


@st.composite
def symbolic_types(draw: st.DrawFn, max_rank: int = 4) -> TensorType:
    """Draw a type of any dtype over ``NAMES``, row-major or in a drawn physical order."""
    sizes = tuple(draw(st.lists(dims(), max_size=max_rank)))
    order = tuple(draw(st.permutations(range(len(sizes)))))
    return TensorType(
        draw(st.sampled_from(list(DType))), sizes, draw(st.sampled_from([None, order]))
    )


# ----- kinds that hold programs -------------------------------------------------------------------

_TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), max_size=8)


def _literals() -> st.SearchStrategy[Any]:
    flat = (
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**63)
        | st.floats(allow_nan=True)
        | _TEXT
        | st.sampled_from(ALL_DTYPES)
        | st.builds(Arg, st.integers(0, 2))
        | st.sampled_from(list(map(symbol, NAMES)))
    )
    return st.recursive(flat, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5)


@st.composite
def torch_ops(draw: st.DrawFn) -> tuple[Kind, Types]:
    """Draw an opaque call with any literals in its template (it need not run) and its operands."""
    operands = tuple(draw(tensor_types()) for _ in range(3))
    args = (Arg(0), *draw(st.lists(_literals(), max_size=3)))
    names = draw(st.lists(st.sampled_from(("alpha", "dim", "mode")), unique=True, max_size=2))
    kwargs = tuple((n, draw(_literals())) for n in names)
    results = tuple(draw(st.lists(tensor_types(), min_size=1, max_size=2)))
    target = draw(st.sampled_from(("aten.relu.default", "aten.foo.out", "lib.op.Tensor")))
    return TorchOp(target, args, kwargs, results, draw(st.booleans())), operands


@st.composite
def units(draw: st.DrawFn) -> tuple[Kind, Types]:
    """Draw a unit whose body is one op of a drawn kind, and its operands."""
    kind, types = draw(applications(draw(st.sampled_from(COVERED))))
    b = Builder("body")
    body = b.finish(*b.emit(kind, *map(b.param, types)))
    name = draw(st.sampled_from(("", "conv_0", "it's 2")))
    return Unit(body, name, draw(st.sampled_from(("", "chain", "conv")))), types


def any_application(cls: type[Kind]) -> st.SearchStrategy[tuple[Kind, Types]]:
    """Return a strategy of kinds of class ``cls``, whichever it is, with operands that fit."""
    special = {TorchOp: torch_ops, Unit: units}
    return special[cls]() if cls in special else applications(cls)
