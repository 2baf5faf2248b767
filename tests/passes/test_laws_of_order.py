"""Laws of order, of axes and of operands: networks rarely hold what a mix-up would show in.

A wrong order of axes shows where sizes are equal, hence cubes; one of operands where both are of
one type, and both orders stand in the program.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies.arrays import arrays_for
from strategies.kinds import attrs
from strategies.laws import same_bits

from leptonc import meaning
from leptonc.ir.core import Builder, Function, Kind, Trait
from leptonc.ir.kinds import binary
from leptonc.ir.kinds.pointwise import Where
from leptonc.ir.kinds.shape import Flip, Roll, Transpose
from leptonc.ir.kinds.unary import Neg, Relu
from leptonc.ir.types import DType, TensorType
from leptonc.passes import REGISTRY, load, pipeline
from leptonc.passes.cse import Cse
from leptonc.pipeline import PassManager

BINARY = tuple(k for k in binary.KINDS if Trait.ELEMENTWISE in k.TRAITS)
BITS = (binary.BitwiseAnd, binary.BitwiseOr, binary.BitwiseXor)
# Of 0.0 and -0.0 torch gives the first one: the other order is another result.
ZERO_OF_THE_FIRST = (binary.Maximum, binary.Minimum)
SQUARE = TensorType(DType.F32, (2, 3))


@st.composite
def moved_cubes(draw: st.DrawFn) -> Function:
    """Draw a row of moves of a cube's axes, with functions of single elements between them."""
    b = Builder("moves")
    x = b.param(TensorType(DType.F32, draw(st.sampled_from([(3, 3), (3, 3, 3), (2, 2, 2, 2)]))))
    for _ in range(draw(st.integers(2, 6))):
        cls = draw(st.sampled_from((Transpose, Transpose, Flip, Roll, Neg, Relu)))
        x = b(draw(attrs(cls, (x.type,))), x)
    return b.finish(x)


@pytest.mark.parametrize("name", [*sorted(REGISTRY), "O3"])
@given(fn=moved_cubes())
def test_moves_of_axes_keep_every_element_in_its_place(name: str, fn: Function) -> None:
    (x,) = fn.params
    args = (torch.arange(1.0, 1.0 + int(x.type.numel)).reshape([int(n) for n in x.type.shape]),)
    after = load(name)()(fn) if name in REGISTRY else PassManager(pipeline(name)).run(fn)
    same_bits(meaning.run(fn, *args), meaning.run(after, *args))


@pytest.mark.parametrize("kind", [*BINARY, Where], ids=lambda k: k.NAME)
@given(data=st.data())
def test_cse_merges_swapped_operands_where_they_commute_only(
    kind: type[Kind], data: st.DataObject
) -> None:
    b = Builder("twins")
    first = (b.param(SQUARE.with_dtype(DType.BOOL), "c"),) if kind is Where else ()
    of = SQUARE if kind not in BITS else SQUARE.with_dtype(DType.I32)
    x, y = b.param(of, "x"), b.param(of, "y")
    fn = b.finish(b(kind(), *first, x, y), b(kind(), *first, y, x))
    after = Cse()(fn)
    same = Trait.COMMUTATIVE in kind.TRAITS and kind not in ZERO_OF_THE_FIRST
    assert len(after.ops) == 2 - same
    args = data.draw(arrays_for(fn, special=True))
    same_bits(meaning.run(fn, *args), meaning.run(after, *args))
