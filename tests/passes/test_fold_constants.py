"""``fold-constants``: same bits as running, within a size limit."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import arrays_for, functions
from strategies.laws import keeps_its_laws, results, same_bits

from leptonc import meaning
from leptonc.ir.core import Builder, Function
from leptonc.ir.kinds.binary import Add, Mul
from leptonc.ir.kinds.data import Constant, Embedding, Full, Iota
from leptonc.ir.kinds.pointwise import Cast
from leptonc.ir.kinds.shape import Expand, Transpose
from leptonc.ir.kinds.unary import Relu
from leptonc.ir.types import DType, TensorType
from leptonc.passes.fold_constants import FoldConstants
from leptonc.rewrite import Trace

F23 = TensorType(DType.F32, (2, 3))


def kinds(fn: Function) -> list[str]:
    return [op.kind.NAME for op in fn.ops]


def constant(b: Builder, tensor: torch.Tensor):
    return b(Constant(meaning.const_of(tensor)))


def test_a_transposed_weight_is_stored_transposed() -> None:
    b = Builder("f")
    w = torch.arange(6.0).reshape(2, 3)
    after = FoldConstants()(b.finish(b(Transpose((1, 0)), constant(b, w))))
    (op,) = after.ops
    assert isinstance(op.kind, Constant)
    assert torch.equal(meaning.tensor_of(op.kind.const), w.T)


def test_an_expand_is_never_written_out_but_its_readers_are() -> None:
    b = Builder("f")
    row = constant(b, torch.tensor([1.0, 2.0, 3.0]))
    wide = b(Expand((2, 3)), row)
    after = FoldConstants()(b.finish(wide, b(Relu(), wide)))
    assert kinds(after) == ["constant", "expand", "constant"]


def test_a_large_result_is_left_to_the_program() -> None:
    b = Builder("f")
    big = b(Mul(), b(Full((1000, 1000), 2.0, DType.F32)), b(Full((), 3.0, DType.F32)))
    fn, trace = b.finish(b(Add(), big, b.param(TensorType(DType.F32, (1000, 1000))))), Trace("t")
    assert FoldConstants(max_bytes_growth=1 << 20).run(fn, trace) is fn
    assert "3.8 MiB" in trace.remarks[0].reason
    assert FoldConstants(max_bytes_growth=1 << 23)(fn) is not fn


def test_equal_elements_become_a_full_where_only_elementwise_ops_read_them() -> None:
    b = Builder("f")
    x = b.param(F23)
    ones = constant(b, torch.ones(2, 3))
    added = FoldConstants()(b.finish(b(Add(), x, ones)))
    assert kinds(added) == ["full", "add"]
    b = Builder("g")
    i = b.param(TensorType(DType.I64, (4,)))
    table = constant(b, torch.ones(2, 3))
    fn = b.finish(b(Embedding(), table, i))
    assert FoldConstants()(fn) is fn


def test_minus_zero_is_no_zero() -> None:
    b = Builder("f")
    x = b.param(F23)
    mixed = constant(b, torch.tensor([0.0, -0.0, 0.0]))
    fn = b.finish(b(Add(), x, mixed))
    assert FoldConstants()(fn) is fn


def test_the_ops_own_precision_is_kept() -> None:
    b = Builder("f")
    third = b(Full((), 1 / 3, DType.F32))
    (op,) = FoldConstants()(b.finish(b(Cast(DType.F64), third))).ops
    assert isinstance(op.kind, Full) and op.kind.value == torch.tensor(1 / 3).double().item()


def test_what_raises_when_run_is_left_to_raise() -> None:
    b = Builder("f")
    bad = b(Embedding(), constant(b, torch.ones(2, 3)), constant(b, torch.tensor([5])))
    fn, trace = b.finish(bad), Trace("t")
    assert FoldConstants().run(fn, trace) is fn
    assert "it raises" in trace.remarks[0].reason


def test_positions_are_computed() -> None:
    b = Builder("f")
    after = FoldConstants()(b.finish(b(Mul(), b(Iota(4)), b(Full((), 3, DType.I64)))))
    (op,) = after.ops
    assert isinstance(op.kind, Constant)
    assert meaning.tensor_of(op.kind.const).tolist() == [0, 3, 6, 9]


@given(data=st.data())
def test_laws(data: st.DataObject) -> None:
    before = data.draw(functions())
    args = data.draw(arrays_for(before))
    same_bits(results(before, args), results(keeps_its_laws(FoldConstants(), before), args))
