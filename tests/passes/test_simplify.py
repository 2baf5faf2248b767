"""``simplify``: an example to read, then the laws of every pass, then its cost."""

from __future__ import annotations

import sys
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from strategies import arrays_for, functions
from strategies.laws import keeps_its_laws, results, same_bits

from leptonc import passes
from leptonc.ir.core import Builder, Function
from leptonc.ir.kinds.binary import Add, Mul
from leptonc.ir.kinds.data import Full
from leptonc.ir.kinds.norm import LayerNorm
from leptonc.ir.kinds.shape import Reshape, Transpose
from leptonc.ir.kinds.unary import Sigmoid
from leptonc.ir.text import dump, parse
from leptonc.ir.types import DType, TensorType
from leptonc.passes.simplify import Simplify
from leptonc.pipeline import PassManager


def test_transposes_cancel() -> None:
    before = parse("""
func @f(%x: f32[2,3]) {
  %1 = transpose{perm=(1, 0)}(%x) : f32[3,2]
  %2 = relu(%1) : f32[3,2]
  %3 = transpose{perm=(1, 0)}(%2) : f32[2,3]
  %4 = relu(%3) : f32[2,3]
  return %4
}""")
    assert (
        dump(Simplify()(before))
        == """\
func @f(%x: f32[2,3]) {
  %1 = relu(%x) : f32[2,3]
  return %1
}"""
    )


def test_symbolic_sizes_are_simplified_too() -> None:
    before = parse("""
func @f(%x: f32[n,6]; n in [1, 64]) {
  %1 = reshape{shape=(n, 2, 3)}(%x) : f32[n,2,3]
  %2 = reshape{shape=(n*2, 3)}(%1) : f32[2*n,3]
  %3 = reshape{shape=(n, 6)}(%2) : f32[n,6]
  %4 = slice{axis=0, start=0, stop=n, step=1}(%3) : f32[n,6]
  return %4
}""")
    after = Simplify()(before)
    assert after.returns == after.params


def test_options_choose_the_rules() -> None:
    before = parse("""
func @f(%x: f32[2]) {
  %z = full{shape=(), value=0.0, dtype=f32}() : f32[]
  %y = add(%x, %z) : f32[2]
  return %y
}""")
    assert Simplify()(before) is before, "-0.0 + 0.0 is 0.0"
    assert not Simplify(signed_zeros=False)(before).ops


@given(data=st.data())
def test_laws(data: st.DataObject) -> None:
    before = data.draw(functions(max_ops=12))
    args = data.draw(arrays_for(before))
    pass_ = Simplify()
    after = keeps_its_laws(pass_, before)
    if not any(op.kind.NAME in ("pow", "rsqrt", "reciprocal") for op in (*before.ops, *after.ops)):
        same_bits(results(before, args), results(after, args))


def big(n: int) -> Function:
    """A function of about ``n`` ops with something to do for every pass."""
    b = Builder("big")
    x = b.param(TensorType(DType.F32, (4, 8)), "x")
    one = b(Full((), 1.0, DType.F32))
    while len(b.ops) < n:
        y = b(Transpose((1, 0)), x)
        y = b(Transpose((1, 0)), y)
        s = b(Mul(), y, b(Sigmoid(), y))
        r = b(Reshape((4, 8)), b(Reshape((8, 4)), s))
        x = b(LayerNorm(1, 1e-5, "none"), b(Add(), b(Mul(), r, one), s))
    return b.finish(x)


def calls(run: Callable[[], object]) -> int:
    """Return how many functions written in Python ``run`` calls."""
    count = 0

    def tick(_frame: object, event: str, _arg: object) -> None:
        nonlocal count
        count += event == "call"

    old = sys.getprofile()
    sys.setprofile(tick)
    try:
        run()
    finally:
        sys.setprofile(old)
    return count


def test_work_grows_with_the_program_not_faster() -> None:
    manager = PassManager(passes.pipeline("simplify,recognize,cse,dce"))
    small, large = big(500), big(2000)
    manager.run(small)  # what is made once
    few, many = (calls(lambda fn=fn: manager.run(fn)) for fn in (small, large))
    assert many < 1.1 * few * len(large.ops) / len(small.ops)
    assert many < 250 * len(large.ops)
