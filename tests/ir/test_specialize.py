"""Fixing symbolic sizes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import functions

from leptonc.errors import InputError
from leptonc.ir.core import Builder, Function
from leptonc.ir.dims import DimRange, symbol
from leptonc.ir.kinds.binary import Mul
from leptonc.ir.kinds.data import Full, Iota, scalar
from leptonc.ir.kinds.pointwise import Cast
from leptonc.ir.kinds.region import Arg, TorchOp, Unit
from leptonc.ir.kinds.shape import Concat, Expand, Reshape, Slice
from leptonc.ir.kinds.unary import Relu
from leptonc.ir.specialize import specialize
from leptonc.ir.types import DType, TensorType
from leptonc.ir.verify import verify
from leptonc.meaning import run

S = symbol("s")
RANGE = DimRange("s", 1, 9)
X = TensorType(DType.F32, (S, 3))


def sample() -> Function:
    """Return a function with the size in types, attributes, an opaque template and a body."""
    inner = Builder("body", dims=(RANGE,))
    p = inner.param(X, "p")
    q = inner(Slice(0, 0, S), inner(Concat(0), p, inner(Relu(), p)))
    b = Builder("f", dims=(RANGE,))
    x = b.param(X, "x")
    y = b(Unit(inner.finish(q), "u"), x)
    view = TorchOp("aten.view.default", (Arg(0), (3 * S,)), (), (TensorType(DType.F32, (3 * S,)),))
    z = b(view, b(Mul(), y, b(Expand((S, 3)), b(Reshape((1, 1)), scalar(b, S, DType.F32)))))
    i = b(Cast(DType.F32), b(Iota(3 * S, S, 2)))
    return b.finish(b(Mul(), z, i), b(Full((S,), 1.0, DType.F32)))


@given(st.integers(1, 9))
def test_specialized_functions_are_static_and_mean_the_same(n: int) -> None:
    f = sample()
    verify(f)
    g = specialize(f, {"s": n})
    verify(g)
    assert g.dims == ()
    x = torch.randn(n, 3)
    assert all(torch.equal(a, b) for a, b in zip(run(f, x), run(g, x), strict=True))
    assert [v.type.shape for v in g.returns] == [(3 * n,), (n,)]


@given(functions())
def test_static_functions_are_returned_as_they_are(f: Function) -> None:
    assert specialize(f, {}) is f
    declared = Function(f.name, f.params, f.ops, f.returns, (RANGE,))
    g = specialize(declared, {"s": 2})
    assert g.ops == f.ops
    assert g.params == f.params


@pytest.mark.parametrize("sizes", [{}, {"s": 0}, {"s": 10}, {"t": 3}])
def test_sizes_must_be_given_and_in_range(sizes: dict[str, int]) -> None:
    with pytest.raises(InputError, match=r"s in \[1, 9\]"):
        specialize(sample(), sizes)
