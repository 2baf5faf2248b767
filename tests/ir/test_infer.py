"""Type rules against torch: what ``infer`` says is what the meaning makes; what fits no kind."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import applications, arrays
from strategies.kinds import COVERED

from leptonc.errors import InferError
from leptonc.ir.core import Kind
from leptonc.ir.dims import evaluate, symbol
from leptonc.ir.kinds import ALL, collective, contract, data, norm, pointwise, reduce, shape
from leptonc.ir.kinds.base import window
from leptonc.ir.kinds.region import TorchOp, Unit
from leptonc.ir.types import DType, TensorType, parse_type
from leptonc.meaning import apply, type_of

_INDEXED = {data.Embedding: 1, data.IndexSelect: 1, data.Gather: 1}


def test_strategies_cover_every_kind() -> None:
    assert set(ALL) == {*COVERED, *collective.KINDS, TorchOp, Unit}


@given(st.data())
@pytest.mark.parametrize("cls", COVERED, ids=lambda k: k.NAME)
@pytest.mark.filterwarnings("ignore:var")
def test_infer_is_what_torch_makes(cls: type[Kind], data: st.DataObject) -> None:
    kind, types = data.draw(applications(cls))
    operands = [data.draw(arrays(t)) for t in types]
    if (at := _INDEXED.get(cls)) is not None or _divides_ints(cls, types):
        at = 1 if at is None else at
        operands[at] = torch.full_like(operands[at], at if _divides_ints(cls, types) else 0)
    made = apply(kind, *operands)
    assert tuple(map(type_of, made)) == tuple(t.logical() for t in kind.infer(types))


def _divides_ints(cls: type[Kind], types: tuple[TensorType, ...]) -> bool:
    names = ("floor_div", "trunc_div", "remainder", "fmod")
    return cls.NAME in names and not types[0].dtype.is_float


@given(
    *(st.integers(1, 12), st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.booleans()),
    st.data(),
)
def test_windows_of_symbols_are_those_of_ints(
    size: int, kernel: int, stride: int, dilation: int, ceil: bool, data: st.DataObject
) -> None:
    pad = data.draw(st.integers(0, kernel // 2))
    free = window(symbol("n"), kernel, stride, pad, dilation, ceil)
    assert evaluate(free, {"n": size}) == window(size, kernel, stride, pad, dilation, ceil)


def test_rules_work_on_symbols() -> None:
    s = symbol("s")
    x = TensorType(DType.F32, (s, 3, 8, 8))
    w = parse_type("f32[4,3,3,3]")
    (y,) = contract.Conv((2, 2), (1, 1), (1, 1)).infer((x, w))
    assert str(y) == "f32[s,4,4,4]"
    (z,) = shape.Reshape((s * 4, 16)).infer((y,))
    assert str(z) == "f32[4*s,16]"
    (c,) = shape.Concat(0).infer((z, z))
    assert str(c) == "f32[8*s,16]"
    (a,) = contract.Attention(1.0).infer((TensorType(DType.F32, (1, s, 4)),) * 3)
    assert str(a) == "f32[1,s,4]"
    (t,) = shape.Slice(0, 1, s, 2).infer((x,))
    assert evaluate(t.shape[0], {"s": 6}) == 3


REFUSED = [
    (contract.Linear(), "f32[2,3]", "f32[4,5]"),
    (contract.Linear(), "f32[2,3]", "f64[4,3]"),
    (contract.Linear(), "f32[2,3]", "f32[4,3]", "f32[3]"),
    (contract.Linear(), "f32[2,3]"),
    (contract.Matmul(), "f32[3]", "f32[3,2]"),
    (contract.Matmul(), "f32[2,3]", "f32[4,2]"),
    (contract.Conv((1,), (0,), (1,)), "f32[1,2,8,8]", "f32[4,2,3,3]"),
    (contract.Conv((1, 1), (0, 0), (1, 1), 2), "f32[1,2,8,8]", "f32[4,2,3,3]"),
    (contract.Conv((1, 1), (0, 0), (1, 1), 2), "f32[1,2,8,8]", "f32[3,1,3,3]"),
    (contract.Conv((1, 1), (0, 0), (1, 1)), "f32[1,2,2,2]", "f32[4,2,3,3]"),
    (contract.Attention(1.0), "f32[2,4]", "f32[3,5]", "f32[3,4]"),
    (contract.Attention(1.0), "i64[2,4]", "i64[3,4]", "i64[3,4]"),
    (norm.BatchNorm(1e-5), "f32[2,3]", "f32[3]", "f32[3]"),
    (norm.BatchNorm(1e-5, "none"), "f32[2,3]", "f32[2]", "f32[2]"),
    (norm.BatchNorm(1e-5, "some"), "f32[2,3]", "f32[3]", "f32[3]"),
    (norm.LayerNorm(3, 1e-5, "none"), "f32[2,3]"),
    (norm.GroupNorm(2, 1e-5, "none"), "f32[2,3]"),
    (norm.Softmax(2), "f32[2,3]"),
    (norm.Softmax(0), "i64[2,3]"),
    (reduce.Sum((2,)), "f32[2,3]"),
    (reduce.Sum((0, 0)), "f32[2,3]"),
    (reduce.Sum((-1,)), "f32[2,3]"),
    (reduce.Mean((0,)), "i64[2,3]"),
    (reduce.MaxPool((3,), (1,), (2,)), "f32[2,3]"),
    (reduce.MaxPool((4,), (1,), (0,)), "f32[2,3]"),
    (shape.Reshape((5,)), "f32[2,3]"),
    (shape.Transpose((0, 0)), "f32[2,3]"),
    (shape.Expand((2, 4)), "f32[2,3]"),
    (shape.Slice(0, 1, 3), "f32[2,3]"),
    (shape.Slice(0, 0, 0), "f32[]"),
    (shape.Concat(0), "f32[]", "f32[]"),
    (shape.Concat(0), "f32[2,3]", "f32[2,4]"),
    (shape.Concat(0),),
    (shape.Pad((0,), (0,)), "f32[2,3]"),
    (shape.Pad((-1, 0), (-2, 0)), "f32[2,3]"),
    (shape.Pad((1, 0), (0, 0), "mirror"), "f32[2,3]"),
    (data.Embedding(), "f32[2,3]", "f32[2]"),
    (data.IndexSelect(0), "f32[]", "i64[1]"),
    (data.Interpolate((4,), "area"), "f32[1,2,3]"),
    (data.Recurrent("rnn", 1), "f32[1,2,3]", "f32[1,2,3]"),
    (pointwise.Clamp(0.5, None), "i64[2]"),
    (pointwise.Where(), "f32[2]", "f32[2]", "f32[2]"),
    (pointwise.Where(), "bool[2]", "f32[2]", "f64[2]"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda c: c[0].NAME)
def test_what_fits_no_kind_is_refused_by_name(case: tuple[Kind, *tuple[str, ...]]) -> None:
    kind, *types = case
    with pytest.raises(InferError, match=kind.NAME):
        kind.infer(tuple(map(parse_type, types)))


_LSTM = data.Recurrent("lstm", 2, bidirectional=True)
_LAYER = ("f32[16,{}]", "f32[16,4]", "f32[16]", "f32[16]")
_FITS = (
    "f32[5,2,3]", "f32[4,2,4]", "f32[4,2,4]",
    *(t.format(k) for k in (3, 3, 8, 8) for t in _LAYER),
)  # fmt: skip


def test_a_recurrent_layer_gives_its_states_and_twice_its_hidden_size() -> None:
    assert list(map(str, _LSTM.infer(tuple(map(parse_type, _FITS))))) == [
        "f32[5,2,8]", "f32[4,2,4]", "f32[4,2,4]",
    ]  # fmt: skip


@pytest.mark.parametrize("at", range(1, len(_FITS)))
@pytest.mark.parametrize("change", ["larger", "another rank"])
def test_a_recurrent_layer_refuses_each_operand_of_another_shape(at: int, change: str) -> None:
    types = list(map(parse_type, _FITS))
    shape = types[at].shape
    wrong = (*shape[:-1], shape[-1] + 1) if change == "larger" else (*shape, 1)
    types[at] = types[at].with_shape(wrong)
    with pytest.raises(InferError, match="recurrent"):
        _LSTM.infer(tuple(types))
