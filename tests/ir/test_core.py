"""Kinds as keys, functions and builders."""

from __future__ import annotations

import math

import pytest
import torch

from leptonc.errors import InferError
from leptonc.ir.core import Builder, Function, Origin, Trait
from leptonc.ir.dims import symbol
from leptonc.ir.kinds import ALL
from leptonc.ir.kinds.binary import Add
from leptonc.ir.kinds.data import Constant, Full
from leptonc.ir.kinds.pointwise import Clamp, LeakyRelu
from leptonc.ir.kinds.region import TorchOp, Unit
from leptonc.ir.kinds.shape import Reshape
from leptonc.ir.kinds.unary import Exp, Relu
from leptonc.ir.types import DType, TensorType
from leptonc.meaning import const_of

X = TensorType(DType.F32, (2, 3))


def test_names_are_unique_words() -> None:
    assert len({k.NAME for k in ALL}) == len(ALL)
    assert all(k.NAME.replace("_", "a").isalnum() and k.NAME.islower() for k in ALL)


def test_every_kind_has_a_docstring_and_an_infer() -> None:
    assert [k for k in ALL if not k.__doc__ or not k.infer.__doc__] == []


def test_attributes_that_differ_in_a_bit_are_different_keys() -> None:
    values = (1, 1.0, True, 0, 0.0, -0.0, False, math.nan, math.inf, -math.inf)
    kinds = [Full((), v, DType.F32) for v in values]
    assert len(set(kinds)) == len(values)
    assert Clamp(0, 1) != Clamp(0.0, 1.0)
    assert Full((), math.nan, DType.F32) == Full((), -math.nan, DType.F32)
    assert Full((1,), 1, DType.F32) != Full((), 1, DType.F32)
    assert LeakyRelu(0.1) != Relu()
    assert Relu() == Relu()
    assert Relu() != Exp()
    s = symbol("s")
    assert Reshape((s + 1,)) == Reshape((1 + s,))
    assert Reshape((s,)) != Reshape((symbol("t"),))


def test_constants_are_equal_by_content() -> None:
    a, b = torch.ones(3), torch.ones(3)
    assert Constant(const_of(a)) == Constant(const_of(b))
    assert Constant(const_of(a)) != Constant(const_of(-b))
    assert Constant(const_of(torch.tensor(0.0))) != Constant(const_of(torch.tensor(-0.0)))


def test_units_are_equal_by_identity_of_their_body() -> None:
    def body() -> Function:
        b = Builder("body")
        return b.finish(b(Relu(), b.param(X)))

    one = body()
    assert Unit(one) == Unit(one)
    assert Unit(one) != Unit(body())


def test_traits_may_depend_on_attributes() -> None:
    pure = TorchOp("aten.relu.default", (), (), (X,))
    random = TorchOp("aten.rand.default", (), (), (X,), pure=False)
    assert Trait.PURE in pure.traits
    assert Trait.PURE not in random.traits
    b = Builder("body")
    (v,) = b.emit(random)
    assert Trait.PURE not in Unit(b.finish(v)).traits
    assert Trait.COMMUTATIVE in Add().traits


def test_function_views() -> None:
    b = Builder("f")
    x = b.param(X, "x")
    y = b(Relu(), x)
    z = b(Add(), y, y)
    f = b.finish(z, y)
    assert f.producer[z] is f.ops[1]
    assert f.use_count == {x: 1, y: 3, z: 1}
    assert f.users[y] == (f.ops[1],)
    assert f.users[z] == ()
    assert f.ops[0].result is y


def test_builder_errors_name_the_origin() -> None:
    b = Builder("f", origin=Origin("layer1.act", "net.py:7"))
    x = b.param(TensorType(DType.I64, (2,)))
    with pytest.raises(InferError, match=r"exp.*i64.*layer1\.act \(net\.py:7\)"):
        b(Exp(), x)
