"""Dimensions: arithmetic on ints and symbols, evaluation, text."""

from __future__ import annotations

import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from leptonc.errors import ParseError
from leptonc.ir import dims
from leptonc.ir.dims import symbol

S, T = symbol("s"), symbol("t")


@st.composite
def expressions(draw: st.DrawFn) -> dims.Dim:
    e: dims.Dim = draw(st.sampled_from([S, T, 1, 2, 7]))
    for _ in range(draw(st.integers(0, 4))):
        other = draw(st.sampled_from([S, T, 1, 2, 3]))
        op = draw(st.sampled_from(["+", "*", "//", "^", "max", "mod"]))
        e = {
            "+": lambda a, b: a + b,
            "*": lambda a, b: a * b,
            "//": lambda a, b: dims.floordiv(a, b if isinstance(b, int) else 2),
            "^": lambda a, b: dims.ceildiv(a, 3),
            "max": lambda a, b: sympy.Max(a, b),
            "mod": lambda a, b: sympy.Mod(a, 3),
        }[op](e, other)
    return dims.as_dim(e)


@given(expressions())
def test_text_reads_back(e: dims.Dim) -> None:
    assert dims.parse_dim(dims.dim_text(e)) == e


@given(expressions(), st.integers(0, 9), st.integers(0, 9))
def test_evaluate_is_sympys_value(e: dims.Dim, s: int, t: int) -> None:
    want = e if isinstance(e, int) else e.subs({S: s, T: t})
    assert dims.evaluate(e, {"s": s, "t": t}) == want


@given(st.integers(-9, 30), st.integers(1, 6))
def test_divisions_of_ints_and_symbols_agree(a: int, b: int) -> None:
    free = sympy.Symbol("a", integer=True)
    for divide in (dims.floordiv, dims.ceildiv):
        assert dims.evaluate(divide(free, b), {"a": a}) == divide(a, b)
    assert dims.floordiv(a, b) == a // b
    assert dims.ceildiv(a, b) == -(-a // b)


def test_static_sizes_stay_plain_ints() -> None:
    assert type(dims.product((2, 3, 4))) is int
    assert type(dims.as_dim(sympy.Integer(3))) is int
    assert type(dims.as_dim(S - S + 2)) is int
    assert dims.product(()) == 1


def test_same_dim_proves_what_expands_alike() -> None:
    assert dims.same_dim(2 * (S + 1), 2 * S + 2)
    assert not dims.same_dim(S, T)
    assert not dims.same_dim(S, 3)
    assert not dims.same_dim(S, S + 1)


def test_free_symbols() -> None:
    assert dims.free_symbols((S + 1, 3, T * S)) == {"s", "t"}
    assert dims.free_symbols((1, 2)) == frozenset()


def test_evaluate_names_what_it_cannot_do() -> None:
    with pytest.raises(KeyError):
        dims.evaluate(S, {})
    with pytest.raises(ValueError, match="whole"):
        dims.evaluate(S / 2, {"s": 3})


@pytest.mark.parametrize("text", ["", "s +", "__import__('os')", "s.t", "f(s)", "1.5"])
def test_text_that_is_no_dimension(text: str) -> None:
    with pytest.raises(ParseError):
        dims.parse_dim(text)


def test_floor_division_may_be_written_as_in_python() -> None:
    assert dims.parse_dim("s//2") == dims.floordiv(S, 2)
    assert dims.parse_dim("7//2") == 3
