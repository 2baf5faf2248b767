"""Gated images before a 1x1 convolution: the weight is scaled, not the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from leptonc import meaning
from leptonc.backends.numba_cpu.kernels.elementwise import elementwise
from leptonc.backends.numba_cpu.kernels.igemm import igemm
from leptonc.backends.numba_cpu.kernels.scale import scale_panels
from leptonc.backends.numba_cpu.lower.scaled import lower_scaled
from leptonc.backends.numba_cpu.schedule import Step
from leptonc.ir.core import Builder, Function, Kind, Value
from leptonc.ir.kinds.binary import Add, Mul
from leptonc.ir.kinds.contract import Conv
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.unary import Relu
from leptonc.ir.types import DType, TensorType
from tests.backends.numba_cpu.harness import Run

pytestmark = pytest.mark.numba
LAST = (0, 2, 3, 1)
EPS = float(np.finfo(np.float32).eps)


class _Net:
    """Builds ops on channels-last images."""

    def __init__(self) -> None:
        self.b = Builder("gated")

    def param(self, t: Tensor, order: tuple[int, ...] = LAST) -> Value:
        return self.b.param(TensorType(DType.F32, tuple(t.shape), order))

    def constant(self, t: Tensor) -> Value:
        return self.b(Constant(meaning.const_of(t)))

    def __call__(self, kind: Kind, *operands: Value) -> Value:
        made = self.b.emit(kind, *operands)[0]
        op = self.b.ops.pop()
        value = Value(TensorType(DType.F32, made.type.shape, LAST))
        self.b.append(type(op)(op.kind, op.operands, (value,)))
        return value


def _net(x: Tensor, gate: Tensor, w: Tensor, bias: Tensor | None, form: str) -> Function:
    net = _Net()
    image, factor = net.param(x), net.param(gate, LAST if "l" in form else (0, 1, 2, 3))
    pair = (factor, image) if "s" in form else (image, factor)
    operands = [net(Mul(), *pair), net.constant(w)]
    operands += [] if bias is None else [net.constant(bias)]
    y = net(Conv((1, 1), (0, 0), (1, 1), 1), *operands)
    y = net(Relu(), y) if "r" in form else y
    if "a" in form:
        y = net(Add(), y, net.param(torch.empty(y.type.shape)))
    return net.b.finish(y)


def _steps(run: Run) -> list[object]:
    return [s.kernel for s in run.ctx.steps if isinstance(s, Step)]


@settings(deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 70), st.integers(1, 70), st.integers(1, 9),
    st.integers(1, 9), st.booleans(), st.sampled_from(["", "l", "s", "lr", "lsa", "lra"]),
    st.integers(0, 99),
)  # fmt: skip
def test_the_product_is_that_of_the_scaled_image(
    batch: int, depth: int, columns: int, height: int, width: int, biased: bool, form: str,
    seed: int,
) -> None:  # fmt: skip
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, depth, height, width, generator=g)
    gate = torch.rand(batch, depth, 1, 1, generator=g)
    w = torch.randn(columns, depth, 1, 1, generator=g)
    bias = torch.randn(columns, generator=g) if biased else None
    res = torch.randn(batch, columns, height, width, generator=g)
    fn = _net(x, gate, w, bias, form)
    inputs = (x, gate, res) if "a" in form else (x, gate)
    got = []
    for threads in (1, 2, 3):
        run = Run(fn, threads, lower_scaled)
        assert _steps(run) == [scale_panels, igemm]
        got.append(run(*inputs)[0])
    assert all(torch.equal(t.view(torch.int32), got[0].view(torch.int32)) for t in got)
    wide, w64 = (x * 1.0).double() * gate.double(), w.double()
    exact = torch.nn.functional.conv2d(wide, w64, None if bias is None else bias.double())
    size = torch.nn.functional.conv2d(wide.abs(), w64.abs())
    size += 0.0 if bias is None else bias.double().abs()[:, None, None]
    exact = exact.relu() if "r" in form else exact
    if "a" in form:
        exact, size = exact + res.double(), size + res.double().abs()
    # One rounding of the scaled weight, one of each of depth + 2 sums: Higham, "Accuracy and
    # Stability of Numerical Algorithms", section 3.1.
    assert ((got[0].double() - exact).abs() <= (depth + 3) * EPS * size).all()


@pytest.mark.parametrize("special", [float("nan"), float("inf"), -0.0, 1e-42])
def test_special_values_of_an_image_and_of_a_gate(special: float) -> None:
    x, gate, w = torch.ones(1, 5, 3, 3), torch.full((1, 5, 1, 1), 0.5), torch.ones(7, 5, 1, 1)
    fn = _net(x, gate, w, None, "l")
    run = Run(fn, 1, lower_scaled)
    for at, value in ((x[0, 2, 1, 1], special), (gate[0, 3, 0, 0], special)):
        old = at.clone()
        at.fill_(value)
        want = torch.nn.functional.conv2d(x * gate, w)
        torch.testing.assert_close(run(x, gate)[0], want, equal_nan=True, rtol=8 * EPS, atol=0)
        at.copy_(old)


def test_strict_scales_the_image() -> None:
    x, gate = torch.randn(1, 5, 3, 3), torch.rand(1, 5, 1, 1)
    fn = _net(x, gate, torch.randn(7, 5, 1, 1), None, "l")

    def strict(ctx, body: Function) -> bool:
        ctx.precision = "strict"
        return lower_scaled(ctx, body)

    assert _steps(Run(fn, 1, strict)) == [elementwise, igemm]


def test_a_body_of_another_form_is_left_alone() -> None:
    net = _Net()
    x = net.param(torch.zeros(1, 4, 5, 5))
    wide = net(Mul(), x, x)
    weight = net.constant(torch.ones(3, 4, 1, 1))
    fn = net.b.finish(net(Conv((1, 1), (0, 0), (1, 1), 1), wide, weight))
    run = Run(fn, 1, lower_scaled)  # False: op by op
    assert _steps(run) == [elementwise, igemm]
