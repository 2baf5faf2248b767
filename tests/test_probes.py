"""Probes keep to the domain that the example shows, and to what the function defines."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from leptonc import meaning
from leptonc.ir.core import Builder, Function
from leptonc.ir.kinds.binary import Add, Maximum
from leptonc.ir.kinds.contract import Matmul
from leptonc.ir.kinds.data import Embedding
from leptonc.ir.kinds.norm import Softmax
from leptonc.ir.kinds.pointwise import Cast
from leptonc.ir.kinds.region import TorchOp, Unit
from leptonc.ir.kinds.unary import Relu, Sqrt
from leptonc.ir.types import DType, TensorType
from leptonc.probes import EXAMPLE, LARGE, PERMUTED, nature, probes

F32 = DType.F32
ALL = {"free", "nan", "inf"}


def chain(*kinds: Any, shape: tuple[int, ...] = (3, 50)) -> Function:
    """Return a function of one tensor that applies ``kinds`` in turn."""
    b = Builder("f")
    v = b.param(TensorType(F32, shape))
    for kind in kinds:
        v = b(kind, v)
    return b.finish(v)


def pair(kind: Any, a: TensorType, b: TensorType) -> Function:
    """Return a function that applies ``kind`` to its two parameters."""
    build = Builder("f")
    return build.finish(build(kind, build.param(a), build.param(b)))


def named(fn: Function, *example: Tensor, skip: tuple[str, ...] = ()) -> dict[str, Any]:
    return {p.name: p.inputs for p in probes(fn, example, skip)}


DTYPES = st.sampled_from([
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32,
    torch.uint8, torch.bool, torch.complex64,
])  # fmt: skip
SHAPES = st.lists(st.integers(0, 9), max_size=3)


@given(st.lists(st.tuples(DTYPES, SHAPES, st.integers(0, 99)), max_size=3))
def test_shapes_and_dtypes_never_change_and_the_example_comes_first(rows):
    example = []
    for dtype, shape, seed in rows:
        random = torch.Generator().manual_seed(seed)
        example.append((torch.randn(shape, generator=random) * 20).abs().to(dtype))
    kept = [t.clone() for t in example]
    drawn = list(probes(chain(Relu()), example))
    assert drawn[0].name == EXAMPLE
    assert len({p.name for p in drawn}) == len(drawn)
    for p in drawn:
        assert [(t.shape, t.dtype) for t in p.inputs] == [(t.shape, t.dtype) for t in example]
    assert all(torch.equal(a, b) for a, b in zip(example, kept, strict=True)), "only read"
    again = list(probes(chain(Relu()), example))
    assert [p.name for p in again] == [p.name for p in drawn]
    for p, q in zip(drawn, again, strict=True):
        for a, b in zip(p.inputs, q.inputs, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@given(st.lists(st.integers(0, 40), min_size=2, max_size=30), st.data())
def test_integers_are_permuted_and_stay_valid_indices(ids, data):
    assume(len(set(ids)) > 1)
    fn = pair(Embedding(), TensorType(F32, (41, 3)), TensorType(DType.I64, (len(ids),)))
    index = torch.tensor(ids)
    for p in probes(fn, (torch.randn(41, 3), index)):
        assert sorted(p.inputs[1].tolist()) == sorted(ids)
        meaning.run(fn, *p.inputs)
    only = list(probes(fn, (torch.full((41, 3), -float("inf")), torch.arange(40))))
    assert [p.name for p in only] == [EXAMPLE, PERMUTED], "one permutation is enough"
    assert data


def test_masks_and_bools_stay_as_they_are():
    fn = pair(Add(), TensorType(F32, (4, 4)), TensorType(F32, (4, 4)))
    x = torch.randn(4, 4)
    for low in (-float("inf"), torch.finfo(torch.float32).min):
        mask = torch.full((4, 4), low).triu(1)
        for inputs in named(fn, x, mask).values():
            assert torch.equal(inputs[1], mask)
    kept = torch.tensor([True, False])
    assert all(p.inputs[0] is kept for p in probes(fn, (kept, x)))


def test_nothing_is_drawn_where_nothing_may_vary():
    x = torch.tensor([True])
    assert list(named(chain(Relu()), x)) == [EXAMPLE]
    assert list(named(chain(Relu()), torch.zeros(0, 4))) == [EXAMPLE]
    assert list(named(chain(Relu()))) == [EXAMPLE]


@given(st.floats(-100, 100), st.floats(0.01, 100), st.integers(2, 60))
def test_uniform_numbers_stay_in_the_range_of_the_example(low, width, n):
    x = torch.linspace(low, low + width, n)
    got = named(chain(Relu(), shape=(n,)), x)["uniform numbers"][0]
    assert x.min() <= got.min() <= got.max() <= x.max()


@given(st.floats(1e-6, 1e29))
def test_large_numbers_leave_room_for_squares_and_sums(largest):
    x = torch.tensor([[largest, -largest / 3]])
    drawn = named(chain(Relu(), shape=(1, 2)), x)
    if "large numbers" in drawn:
        scale = float(drawn["large numbers"][0].abs().max()) / largest
        assert 1.0 < scale <= LARGE * (1 + 1e-6)
        assert bool(torch.isfinite(drawn["large numbers"][0] ** 2 * 1e6).all())
    else:
        assert largest > torch.finfo(torch.float32).max ** 0.25 * 0.99


@pytest.mark.parametrize(
    ("fn", "want"),
    [
        (chain(Relu(), Sqrt()), ALL),
        (chain(Relu(), Softmax(1)), {"free", "nan"}),
        (pair(Maximum(), TensorType(F32, (3,)), TensorType(F32, (3,))), ALL),
        (pair(Matmul(), TensorType(F32, (3, 4)), TensorType(F32, (4, 3))), {"free"}),
        (chain(Relu(), Cast(DType.I64)), set()),
        (chain(Cast(DType.F64), Relu()), ALL),
        (chain(TorchOp("aten.erfinv.default", (), (), (TensorType(F32, (3,)),))), set()),
    ],
)
def test_what_a_function_defines_decides_what_it_sees(fn, want):
    assert nature(fn) == want
    inside = Function("u", fn.params, fn.ops, fn.returns)
    b = Builder("outer")
    outer = b.finish(*b.emit(Unit(inside, "u"), *[b.param(p.type) for p in fn.params]))
    assert nature(outer) == want, "a unit is what its body is"
    drawn = named(fn, *[torch.rand(40) + 0.5 for _ in fn.params])
    assert "uniform numbers" in drawn
    for name, needs in (("zeros", "free"), ("NaN", "nan"), ("infinities", "inf")):
        assert (name in drawn) == (needs in want)
    assert "NaN" not in named(fn, *[torch.rand(40) for _ in fn.params], skip=("NaN",))


def test_special_values_are_few_and_all_there():
    x = torch.rand(1000)
    drawn = named(chain(Relu()), x)
    assert int(drawn["NaN"][0].isnan().sum()) == 63
    special = drawn["infinities"][0]
    assert int(torch.isposinf(special).sum()) == int(torch.isneginf(special).sum()) == 21
    assert int((torch.signbit(special) & (special == 0)).sum()) == 21
    assert int(torch.isfinite(special).sum()) == 1000 - 42
