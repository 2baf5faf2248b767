"""``dce``: what nothing reads is gone, what has an effect stays."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from strategies import arrays_for, functions
from strategies.laws import keeps_its_laws, results, same_bits

from leptonc.ir.core import Builder
from leptonc.ir.kinds.region import TorchOp
from leptonc.ir.kinds.unary import Relu
from leptonc.ir.types import DType, TensorType
from leptonc.passes.dce import Dce

F2 = TensorType(DType.F32, (2,))


def test_effects_keep_what_they_read() -> None:
    b = Builder("f")
    x = b.param(F2)
    read = b(Relu(), x)
    b.emit(TorchOp("aten.relu_.default", (), (), (F2,), pure=False), read)
    b(Relu(), x)
    assert [op.kind.NAME for op in Dce()(b.finish(x)).ops] == ["relu", "torch_op"]


@given(data=st.data())
def test_laws(data: st.DataObject) -> None:
    before = data.draw(functions())
    args = data.draw(arrays_for(before))
    after = keeps_its_laws(Dce(), before)
    same_bits(results(before, args), results(after, args))
    live = set(after.returns) | {v for op in after.ops for v in op.operands}
    assert all(not live.isdisjoint(op.results) for op in after.ops)
