"""What the strategies promise: every kind, every attribute of it, types, sizes, shapes of nets."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from strategies import arrays
from strategies.arrays import sizes_for
from strategies.inputs import inputs, strided
from strategies.kinds import ALL_DTYPES, tensor_types
from strategies.models import attentions, cnns, models, recurrents
from strategies.symbolic import NAMES, any_application, dims, ranges, symbolic_types

from leptonc import meaning
from leptonc.errors import InputError
from leptonc.ir.core import Builder, Function, Kind
from leptonc.ir.dims import DimRange, ceildiv, dim_text, evaluate, floordiv, parse_dim, same_dim
from leptonc.ir.kinds import ALL
from leptonc.ir.kinds.data import Full
from leptonc.ir.specialize import Specializer, check_sizes, specialize
from leptonc.ir.text import constants, dump, parse
from leptonc.ir.types import DType, TensorType, parse_type, same_type
from leptonc.ir.verify import verify

SEEN = settings(
    max_examples=300, derandomize=True, database=None, phases=[Phase.generate], deadline=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


def seen(strategy: st.SearchStrategy[Any]) -> list[Any]:
    """Return what a strategy draws."""
    found: list[Any] = []

    @SEEN
    @given(strategy)
    def look(drawn: Any) -> None:
        found.append(drawn)

    look()
    return found


@pytest.mark.parametrize("cls", ALL, ids=lambda k: k.NAME)
def test_every_attribute_of_every_kind_varies(cls: type[Kind]) -> None:
    fields = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    if not fields:
        return
    kinds = [kind for kind, _ in seen(any_application(cls))]
    for name in fields:
        values = {repr(kind.attributes[name]) for kind in kinds}
        assert len(values) > 1, f"{cls.NAME}: {name} is always {values}"


@pytest.mark.parametrize("cls", ALL, ids=lambda k: k.NAME)
@settings(max_examples=max(10, settings.default.max_examples // 10))  # type: ignore[union-attr]
@given(data=st.data())
def test_any_kind_reads_back_and_compares_by_bits(cls: type[Kind], data: st.DataObject) -> None:
    kind, types = data.draw(any_application(cls))
    b = Builder("f", dims=tuple(DimRange(n, 1, 9) for n in NAMES))
    fn = b.finish(*b.emit(kind, *map(b.param, types)))
    text = dump(fn)
    again = parse(text, constants(fn))
    assert dump(again) == text
    if cls.NAME != "unit":  # bodies are compared by identity
        assert again.ops[0].kind == kind and hash(again.ops[0].kind) == hash(kind)


def test_networks_hold_what_networks_are_made_of() -> None:
    wanted = {
        cnns: "conv batch_norm max_pool avg_pool conv_transpose interpolate concat linear softmax "
        "adaptive_avg_pool group_norm pad mul add",
        attentions: "attention matmul softmax layer_norm rms_norm embedding linear silu transpose",
        recurrents: "recurrent linear sigmoid tanh concat cumsum full",
    }
    for shaped, names in wanted.items():
        drawn = seen(shaped())
        count = Counter(op.kind.NAME for fn in drawn for op in fn.ops)
        assert not set(names.split()) - set(count), shaped.__name__
        assert any(fn.dims for fn in drawn) and any(not fn.dims for fn in drawn)


# ----- sizes and types ----------------------------------------------------------------------------


@given(declared=ranges(), dim=dims(), other=dims(), data=st.data())
def test_sizes(declared, dim, other, data: st.DataObject) -> None:
    sizes = data.draw(sizes_for(Function("f", (), (), (), declared)))
    check_sizes("f", declared, sizes)
    value = evaluate(dim, sizes)
    assert evaluate(parse_dim(dim_text(dim)), sizes) == value
    assert same_dim(parse_dim(dim_text(dim)), dim)
    k = data.draw(st.integers(1, 7))
    assert evaluate(floordiv(dim, k), sizes) == value // k
    assert evaluate(ceildiv(dim, k), sizes) == -(-value // k)
    if same_dim(dim, other):
        assert value == evaluate(other, sizes)


@given(declared=ranges(), data=st.data())
def test_sizes_outside_their_range_are_refused(declared, data: st.DataObject) -> None:
    sizes = dict(data.draw(sizes_for(Function("f", (), (), (), declared))))
    d = data.draw(st.sampled_from(declared))
    beyond = [d.min - 1] + ([] if d.max is None else [d.max + 1])
    with pytest.raises(InputError, match=f"size {d.name} = "):
        check_sizes("f", declared, {**sizes, d.name: data.draw(st.sampled_from(beyond))})


@given(declared=ranges(), type_=symbolic_types(), data=st.data())
def test_types(declared, type_: TensorType, data: st.DataObject) -> None:
    sizes = data.draw(sizes_for(Function("f", (), (), (), declared)))
    again = parse_type(str(type_))
    assert same_type(again, type_) and again.layout == type_.layout
    fixed = Specializer(sizes).type(type_)
    assert fixed.is_static and fixed.dtype is type_.dtype and fixed.layout == type_.layout
    assert fixed.numel == evaluate(type_.numel, sizes)
    assert fixed.shape == tuple(evaluate(d, sizes) for d in again.shape)


def test_the_layout_of_a_scalar_reads_back() -> None:
    scalar = TensorType(DType.F64, (), ())
    assert parse_type(str(scalar)) == scalar != scalar.logical()


@given(fn=models(), data=st.data())
def test_types_inferred_on_symbols_hold_for_every_size(fn: Function, data: st.DataObject) -> None:
    verify(fn)
    sizes = data.draw(sizes_for(fn))
    fixed = specialize(fn, sizes)
    verify(fixed)  # infers every type again, on ints
    args = data.draw(inputs(fixed))
    made = meaning.run(fn, *args)
    assert [tuple(t.shape) for t in made] == [v.type.shape for v in fixed.returns]


# ----- arrays -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [DType.F64, DType.F32, DType.F16, DType.BF16], ids=str)
def test_hard_values_are_drawn(dtype: DType) -> None:
    drawn = torch.cat([t.reshape(-1) for t in seen(arrays(TensorType(dtype, (3, 4))))])
    tiny = torch.finfo(drawn.dtype).tiny
    assert drawn.isnan().any() and drawn.isposinf().any() and drawn.isneginf().any()
    assert ((drawn == 0) & drawn.signbit()).any() and ((drawn == 0) & ~drawn.signbit()).any()
    assert ((drawn != 0) & (drawn.abs() < tiny)).any(), "no denormal"


@given(type_=tensor_types(ALL_DTYPES), data=st.data())
def test_strides_change_no_element(type_: TensorType, data: st.DataObject) -> None:
    t = data.draw(arrays(type_))
    other = data.draw(strided(t))
    assert other.shape == t.shape and other.dtype == t.dtype
    torch.testing.assert_close(other, t, rtol=0, atol=0, equal_nan=True)


def test_strides_vary() -> None:
    drawn = seen(strided(torch.arange(24.0).reshape(2, 3, 4)))
    assert len({t.stride() for t in drawn}) > 10
    assert any(t.storage_offset() for t in drawn)
    assert any(not t.is_contiguous() for t in drawn)


def test_full_is_a_kind_without_operands() -> None:
    assert all(not types for _, types in seen(any_application(Full)))
