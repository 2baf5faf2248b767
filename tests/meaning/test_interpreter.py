"""Running functions: sizes bound from inputs, float64, early freeing, observers, folding."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import arrays_for, functions

from leptonc.errors import InferError, InputError
from leptonc.ir.core import Builder, Function, Op
from leptonc.ir.dims import DimRange, symbol
from leptonc.ir.kinds.binary import Add, Mul
from leptonc.ir.kinds.contract import Linear
from leptonc.ir.kinds.data import Constant, Full, Iota, scalar
from leptonc.ir.kinds.pointwise import Cast
from leptonc.ir.kinds.region import Arg, TorchOp, Unit
from leptonc.ir.kinds.shape import Concat
from leptonc.ir.kinds.unary import Exp, Relu
from leptonc.ir.types import DType, TensorType, parse_type
from leptonc.meaning import bind_dims, const_of, fold, run, type_of
from leptonc.meaning.opaque import encode, resolve

S, T = symbol("s"), symbol("t")
X = TensorType(DType.F32, (2, 3))


@given(st.data())
def test_results_have_the_declared_types(data: st.DataObject) -> None:
    f = data.draw(functions())
    out = run(f, *data.draw(arrays_for(f)))
    assert tuple(map(type_of, out)) == tuple(v.type for v in f.returns)


@given(st.data())
def test_float64_runs_widen_every_narrow_float(data: st.DataObject) -> None:
    f = data.draw(functions())
    seen: list[torch.dtype] = []
    run(
        f,
        *data.draw(arrays_for(f)),
        precision="f64",
        observe=lambda op, made: seen.extend(t.dtype for t in made),
    )
    assert not {torch.float32, torch.float16, torch.bfloat16} & set(seen)


def two_sizes() -> Function:
    b = Builder("f", dims=(DimRange("s", 1, 8), DimRange("t", 2, None)))
    x = b.param(TensorType(DType.F32, (2 * S, T)), "x")
    y = b.param(TensorType(DType.F32, (S, T)), "y")
    return b.finish(b(Concat(0), x, y))


def test_sizes_are_bound_from_shapes() -> None:
    f = two_sizes()
    assert bind_dims(f, [(4, 3), (2, 3)]) == {"s": 2, "t": 3}
    (out,) = run(f, torch.ones(4, 3), torch.zeros(2, 3))
    assert out.shape == (6, 3)


def test_sizes_inside_expressions_are_solved() -> None:
    b = Builder("f", dims=(DimRange("s", 1, 8),))
    x = b.param(TensorType(DType.F32, (3 * S + 1,)), "x")
    f = b.finish(x)
    assert bind_dims(f, [(7,)]) == {"s": 2}
    with pytest.raises(InputError, match=r"parameter 0 \(x\).*size of 8"):
        bind_dims(f, [(8,)])


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        ([(5, 3), (2, 3)], r"parameter 0 \(x\) has a size of 5.*2\*s with s = 2"),
        ([(4, 3), (2, 4)], r"parameter 1 \(y\) has a size of 4.*t"),
        ([(18, 3), (9, 3)], r"s = 9 is outside its range, s in \[1, 8\]"),
        ([(4, 1), (2, 1)], r"t = 1 is outside its range, t in \[2, inf\]"),
        ([(4, 3), (2, 3, 1)], r"shape \[2, 3, 1\]"),
    ],
)
def test_shapes_that_do_not_fit(shapes: list[tuple[int, ...]], says: str) -> None:
    with pytest.raises(InputError, match=says):
        bind_dims(two_sizes(), shapes)


def test_inputs_that_do_not_fit() -> None:
    b = Builder("f")
    f = b.finish(b(Relu(), b.param(X, "x")))
    with pytest.raises(InputError, match="takes 1 tensors, got 0"):
        run(f)
    with pytest.raises(InputError, match=r"parameter 0 \(x\) is f64, expected f32\[2,3\]"):
        run(f, torch.ones(2, 3, dtype=torch.float64))
    with pytest.raises(InputError, match="size of 4"):
        run(f, torch.ones(2, 4))
    assert run(f, torch.ones(2, 3, dtype=torch.float64), precision="f64")[0].dtype is torch.float64


def test_float64_is_closer() -> None:
    b = Builder("f")
    x, w = b.param(TensorType(DType.F32, (1, 4000))), torch.rand(1, 4000)
    y = b(Linear(), x, b(Constant(const_of(w))))
    f = b.finish(b(Cast(DType.F16), b(Mul(), y, scalar(b, 0.1, DType.F32))))
    v = torch.rand(1, 4000)
    exact = (v.double() @ w.double().T) * 0.1
    (wide,) = run(f, v, precision="f64")
    assert wide.dtype is torch.float64
    assert torch.equal(wide, exact)
    (narrow,) = run(f, v)
    assert narrow.dtype is torch.float16


def unit_function() -> Function:
    inner = Builder("body", dims=(DimRange("s", 1, 8),))
    p = inner.param(TensorType(DType.F32, (S, 3)), "p")
    ramp = inner(Iota(S, 0, 1, DType.F32))
    body = inner.finish(inner(Relu(), p), ramp)
    b = Builder("f", dims=(DimRange("s", 1, 8),))
    x = b.param(TensorType(DType.F32, (S, 3)), "x")
    y, r = b.emit(Unit(body, "u"), x)
    return b.finish(b(Add(), y, y), r)


def test_units_run_and_are_observed_inside_first() -> None:
    seen: list[str] = []

    def observe(op: Op, made: tuple[torch.Tensor, ...]) -> None:
        seen.append(op.kind.NAME)
        assert len(made) == len(op.results)

    x = torch.tensor([[-1.0, 0.0, 2.0]])
    y, r = run(unit_function(), x, observe=observe)
    assert y.tolist() == [[0.0, 0.0, 4.0]]
    assert r.tolist() == [0.0]
    assert seen == ["iota", "relu", "unit", "add"]
    assert run(unit_function(), x, precision="f64")[1].dtype is torch.float64


def test_dead_values_are_freed() -> None:
    b = Builder("f")
    v = b.param(X)
    for _ in range(4):
        v = b(Exp(), v)
    f = b.finish(v)
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def observe(op: Op, made: tuple[torch.Tensor, ...]) -> None:
        nonlocal most
        alive.extend(map(weakref.ref, made))
        gc.collect()
        most = max(most, sum(r() is not None for r in alive))

    run(f, torch.zeros(2, 3), observe=observe)
    assert most <= 2


def test_opaque_calls_run() -> None:
    b = Builder("f")
    x = b.param(X)
    split = TorchOp("aten.split.Tensor", (Arg(0), 1), (("dim", 1),), (parse_type("f32[2,1]"),) * 3)
    parts = b.emit(split, x)
    types = (parse_type("f16[2,3]"),)
    cat = TorchOp("aten.cat.default", ((Arg(0), Arg(1), Arg(2)), 1), (), (X,))
    y = b(
        TorchOp("aten._to_copy.default", (Arg(0),), (("dtype", DType.F16),), types), b(cat, *parts)
    )
    f = b.finish(y)
    v = torch.randn(2, 3)
    assert torch.equal(run(f, v)[0], v.half())
    assert torch.equal(run(f, v, precision="f64")[0], v.double())


def test_opaque_calls_that_refuse_float64_run_in_float32() -> None:
    torch.library.define("leptonc_test::only32", "(Tensor x) -> Tensor", lib=_LIBRARY)

    def only32(x: torch.Tensor) -> torch.Tensor:
        if x.dtype is not torch.float32:
            raise RuntimeError("f32 only")
        return x + 1

    _LIBRARY.impl("only32", only32, "CPU")
    b = Builder("f")
    f = b.finish(b(TorchOp("leptonc_test.only32.default", (Arg(0),), (), (X,)), b.param(X)))
    (made,) = run(f, torch.zeros(2, 3), precision="f64")
    assert torch.equal(made, torch.ones(2, 3, dtype=torch.float64))


_LIBRARY = torch.library.Library("leptonc_test", "FRAGMENT")


@pytest.mark.parametrize(
    "target",
    [
        "aten.no_such_op.default",
        "aten.relu.no_such_overload",
        "aten.relu",
        "no_such_library.f.default",
        "aten.__class__.default",
        "aten.relu.__call__",
        "os.system.default",
        "aten.relu.default.x",
    ],
)
def test_only_operators_are_found(target: str) -> None:
    with pytest.raises(InferError, match="torch_op"):
        resolve(target)


def test_templates_hold_torchs_own_values() -> None:
    assert encode([1, torch.float32, (2.5, None)]) == (1, DType.F32, (2.5, None))
    assert encode(torch.channels_last) == "torch.channels_last"
    assert encode(torch.device("cpu")) == "cpu"
    with pytest.raises(TypeError):
        encode(object())
    b = Builder("f")
    t = parse_type("f32[1,2,3,3]")
    kwargs = (("memory_format", "torch.channels_last"),)
    f = b.finish(b(TorchOp("aten.clone.default", (Arg(0),), kwargs, (t,)), b.param(t)))
    (made,) = run(f, torch.zeros(1, 2, 3, 3))
    assert made.is_contiguous(memory_format=torch.channels_last)


def test_fold() -> None:
    b = Builder("f")
    third = b(Full((3,), 1 / 3, DType.F32))
    f = b.finish(b(Mul(), third, third), b(Iota(2)))
    product, ramp = fold(f)
    assert (product.type, ramp.type) == (TensorType(DType.F32, (3,)), TensorType(DType.I64, (2,)))
    single = torch.tensor(1 / 3, dtype=torch.float32)
    assert torch.equal(product.payload, (single * single).expand(3))
    rounded, _ = fold(f, precision="f64")
    assert rounded.type == product.type
    assert torch.equal(rounded.payload, torch.tensor([1 / 9] * 3, dtype=torch.float32))
    b = Builder("g")
    with pytest.raises(InputError, match="without parameters"):
        fold(b.finish(b.param(X)))


def test_runs_do_not_track_gradients() -> None:
    b = Builder("f")
    f = b.finish(b(Exp(), b.param(X)))
    assert not run(f, torch.zeros(2, 3, requires_grad=True))[0].requires_grad
