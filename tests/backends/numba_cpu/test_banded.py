"""Bands of a depthwise convolution with its 1x1 neighbours: the bits of the steps one by one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from leptonc import meaning
from leptonc.backends.numba_cpu.kernels.banded import banded
from leptonc.backends.numba_cpu.kernels.igemm import igemm
from leptonc.backends.numba_cpu.kernels.pack import pad_image
from leptonc.backends.numba_cpu.lower import banded as lowering
from leptonc.backends.numba_cpu.lower.banded import lower_banded
from leptonc.backends.numba_cpu.schedule import Step
from leptonc.ir.core import Builder, Function, Kind, Value
from leptonc.ir.kinds.binary import Add
from leptonc.ir.kinds.contract import Conv
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.pointwise import Clamp
from leptonc.ir.kinds.unary import Silu
from leptonc.ir.types import DType, TensorType
from tests.backends.numba_cpu.harness import Run

pytestmark = pytest.mark.numba
LAST = (0, 2, 3, 1)
Window = tuple[int, int, int]  # kernel, stride, padding
FIRST: list[Window] = [(3, 2, 1), (7, 2, 3), (3, 1, 0), (2, 3, 1)]


class _Net:
    """Builds a chain of convolutions on channels-last images."""

    def __init__(self, x: Tensor) -> None:
        self.b, self.generator = Builder("chain"), torch.Generator().manual_seed(7)
        self.value = self.b.param(TensorType(DType.F32, tuple(x.shape), LAST), "x")
        self.x = self.value

    def add(self, kind: Kind, *others: Value) -> None:
        made = self.b.emit(kind, self.value, *others)[0]
        op = self.b.ops.pop()
        self.value = Value(TensorType(DType.F32, made.type.shape, LAST))
        self.b.append(type(op)(op.kind, op.operands, (self.value,)))

    def conv(self, kind: Conv, *shape: int) -> None:
        w = torch.randn(shape, generator=self.generator)
        b = torch.randn(shape[0], generator=self.generator)
        self.add(kind, *(self.b(Constant(meaning.const_of(t))) for t in (w, b)))


def _chain(x: Tensor, mid: int, conv: Window, first: Window, form: str) -> Function:
    """Return the chain of ``form``: (f)irst or (e)xpand, always depthwise, (p)roject."""
    net, c, (kernel, stride, pad) = _Net(x), x.shape[1], conv
    if "f" in form:
        k, step, zeros = first
        net.conv(Conv((step, step), (zeros, zeros), (1, 1), 1), mid, c, k, k)
        net.add(Clamp(0.0, 6.0))
        c = mid
    if "e" in form:
        net.conv(Conv((1, 1), (0, 0), (1, 1), 1), mid, c, 1, 1)
        net.add(Clamp(0.0, 6.0))
        c = mid
    net.conv(Conv((stride, stride), (pad, pad), (1, 1), c), c, 1, kernel, kernel)
    net.add(Silu())
    if "p" in form:
        net.conv(Conv((1, 1), (0, 0), (1, 1), 1), x.shape[1], c, 1, 1)
        if net.value.type.shape == net.x.type.shape:
            net.add(Add(), net.x)
    return net.b.finish(net.value)


def _separate(ctx, fn: Function) -> None:
    ctx.precision = "strict"  # by products, as in bands
    for part in lowering._parts(fn):
        lowering.lower_contract(ctx, part)


@settings(deadline=None)
@given(
    st.integers(1, 2),
    st.sampled_from([(3, 20), (16, 48), (5, 33)]),
    st.integers(1, 12),
    st.integers(1, 17),
    st.sampled_from([(3, 1, 1), (3, 2, 1), (5, 1, 2), (5, 2, 2), (7, 1, 3), (3, 1, 0), (2, 3, 1)]),
    st.sampled_from(FIRST),
    st.sampled_from(["ep", "e", "p", "fp", "f"]),
    st.integers(1, 3),
    st.sampled_from([1, 1 << 14, 1 << 20]),
)
def test_bands_give_the_bits_of_separate_steps(
    batch: int, widths: tuple, height: int, width: int, conv: Window, first: Window,
    form: str, threads: int, cache: int,
) -> None:  # fmt: skip
    size = max(height, conv[0]), max(width, conv[0])
    if "f" in form:
        k, step, zeros = first
        image = [(n - 1) * step + k - 2 * zeros for n in size]
        x = torch.randn(batch, 3, *image)
    else:
        x = torch.randn(batch, widths[0], *size)
    fn = _chain(x, widths[1], conv, first, form)
    (want,) = Run(fn, 1, _separate)(x)
    before = lowering.CACHE_BYTES
    lowering.CACHE_BYTES = cache
    try:
        run = Run(fn, threads, lower_banded)
    finally:
        lowering.CACHE_BYTES = before
    (got,) = run(x)
    out_w = want.shape[-1]
    one_row = 1 in ([size[1]] if form[0] in "ef" else []) + ([out_w] if "p" in form else [])
    kernels = [s.kernel for s in run.ctx.steps if isinstance(s, Step)]
    if "f" in form:
        assert kernels.pop(0) is pad_image
    assert (kernels == [banded]) is not one_row
    assert torch.equal(got.view(torch.int32), want.view(torch.int32))


def test_a_body_of_another_form_is_left_alone() -> None:
    net = _Net(torch.zeros(1, 4, 5, 5))
    net.conv(Conv((1, 1), (0, 0), (1, 1), 1), 8, 4, 1, 1)
    net.conv(Conv((1, 1), (0, 0), (1, 1), 1), 4, 8, 1, 1)
    fn = net.b.finish(net.value)
    run = Run(fn, 1, lower_banded)
    assert [s.kernel for s in run.ctx.steps if isinstance(s, Step)] == [igemm, igemm]
