"""Types and literals: text forms read back exactly."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import tensor_types
from strategies.kinds import ALL_DTYPES

from leptonc.errors import ParseError
from leptonc.ir.core import _bits
from leptonc.ir.dims import symbol
from leptonc.ir.kinds.region import Arg
from leptonc.ir.literal import literal, parse_literal
from leptonc.ir.types import DType, TensorType, bracket, parse_type, split_top

S = symbol("s")
TYPES = tensor_types(ALL_DTYPES) | st.sampled_from(
    [
        TensorType(DType.F32, (S, 3, 2 * S + 1)),
        TensorType(DType.C64, (0,)),
        TensorType(DType.OTHER, ()),
        TensorType(DType.F32, (S, 3, 8, 8), (0, 2, 3, 1)),
        TensorType(DType.F32, (2,) * 12, tuple(range(11, -1, -1))),
    ]
)


@given(TYPES)
def test_types_read_back(t: TensorType) -> None:
    assert parse_type(str(t)) == t


def test_types_print_as_documented() -> None:
    t = TensorType(DType.F32, (S, 3, 224, 224), (0, 2, 3, 1))
    assert str(t) == "f32[s,3,224,224]@0231"
    assert t.logical().layout is None
    assert t.with_dtype(DType.I8) == TensorType(DType.I8, t.shape)
    assert not t.is_static
    assert TensorType(DType.F32, (2, 3)).numel == 6


@pytest.mark.parametrize("text", ["", "f32", "f33[2]", "f32[2", "f32[a b]", "[2]"])
def test_text_that_is_no_type(text: str) -> None:
    with pytest.raises(ParseError):
        parse_type(text)


def test_every_dtype_has_a_size_and_one_class() -> None:
    for d in DType:
        assert d.nbytes >= 1
        assert not (d.is_float and d.is_int)


_ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([*DType, Arg(0), Arg(12), S, S + 1, (S + 1) * (S + 2), 2 * S])
    | TYPES
)
LITERALS = st.recursive(_ATOMS, lambda inner: st.lists(inner, max_size=4).map(tuple), max_leaves=8)


@given(LITERALS)
@example((1, 1.0, True, 0.0, -0.0, math.nan, math.inf, -math.inf))
@example(())
@example(((),))
@example("a, 'b'  // (c) \\ { \n é")
@example((S + 1) * (S + 2))
def test_literals_read_back_bit_for_bit(value: Any) -> None:
    assert _bits(parse_literal(literal(value), {})) == _bits(value)


@pytest.mark.parametrize("text", ["const<sha256:00>", "'open", "1 + ", "open("])
def test_text_that_is_no_literal(text: str) -> None:
    with pytest.raises(ParseError):
        parse_literal(text, {})


def test_splitting_minds_brackets_and_quotes() -> None:
    assert split_top("a, (b, c), 'd, e', f<g, h>") == ["a", "(b, c)", "'d, e'", "f<g, h>"]
    assert split_top("  ") == []
    assert split_top("a; [1, 2]; b", ";") == ["a", "[1, 2]", "b"]
    assert bracket("{a=(1, '}')}(b) : c", "{") == ("a=(1, '}')", "(b) : c")
    assert bracket("b", "{") == ("", "b")
    with pytest.raises(ParseError):
        bracket("{a", "{")
