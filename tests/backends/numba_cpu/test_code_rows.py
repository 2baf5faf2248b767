"""Rows of codes times matrices of 4 and 8 bits: the bits of the meaning, for any number of rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leptonc import meaning
from leptonc.backends.numba_cpu.kernels import code_rows as kernels
from leptonc.backends.numba_cpu.lower.code_rows import lower_code_rows
from leptonc.ir.core import Builder, Kind, Value
from leptonc.ir.kinds import binary, unary
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.quantize import IntLinear, QuantizeRows, UnpackInt4
from leptonc.ir.types import DType, TensorType
from tests.backends.numba_cpu.harness import Run

pytestmark = pytest.mark.numba


def const(b: Builder, t: torch.Tensor) -> Value:
    return b(Constant(meaning.const_of(t)))


def extreme(g: torch.Generator, low: int, high: int, *shape: int) -> torch.Tensor:
    drawn = torch.randint(low, high + 1, shape, generator=g)
    some = torch.randint(0, 4, shape, generator=g)
    return torch.where(some == 0, low, torch.where(some == 1, high, drawn))


def packed(codes: torch.Tensor) -> torch.Tensor:
    both = (codes + 8).to(torch.uint8)
    return both[:, ::2] | (both[:, 1::2] << 4)


@pytest.mark.parametrize("bits", [4, 8])
@given(data=st.data(), threads=st.integers(1, 2))
def test_units_give_the_bits_of_their_meaning(bits: int, data: st.DataObject, threads: int) -> None:
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 1 << 16)))
    groups = data.draw(st.integers(1, 4))
    k = groups * kernels.INPUTS[bits] * data.draw(st.integers(1, 9))
    n, lead = (
        data.draw(st.integers(1, 70)),
        data.draw(st.sampled_from([(1,), (2, 3), (8,), (17,), ()])),
    )
    b, args = Builder("unit"), []
    x = extreme(g, -128, 127, *lead, k).to(torch.int8)
    args.append(x)
    codes = extreme(g, -(1 << (bits - 1)), (1 << (bits - 1)) - 1, n, k)
    four = bits == 4
    w = b(UnpackInt4(), const(b, packed(codes))) if four else const(b, codes.to(torch.int8))
    scale = torch.rand(n, groups, generator=g) * 1e-2 + 1e-4
    if groups == 1 and data.draw(st.booleans()):
        scale = scale[:, 0]
    v = b(IntLinear(), b.param(TensorType(DType.I8, (*lead, k)), "x"), w, const(b, scale))
    if data.draw(st.booleans()):
        rows = torch.rand(*lead, 1, generator=g)
        args.append(rows)
        v = b(binary.Mul(), v, b.param(TensorType(DType.F32, (*lead, 1)), "rows"))
    if data.draw(st.booleans()):
        v = b(binary.Add(), v, const(b, torch.randn(n, generator=g)))
    if data.draw(st.booleans()):
        v = b(unary.Relu(), v)
    fn = b.finish(v)
    run = Run(fn, threads, lower_code_rows)
    assert [s.kernel.name for s in run.steps] == ["code_rows"]
    run.bind(*args)
    run.run()
    assert torch.equal(run.results()[0], meaning.run(fn, *args)[0])


@given(data=st.data())
def test_rows_are_quantized_as_they_come(data: st.DataObject) -> None:
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    shape = (*data.draw(st.sampled_from([(1,), (3, 2), (5,)])), data.draw(st.integers(1, 50)))
    x = torch.randn(shape, generator=g) * data.draw(st.sampled_from([1.0, 1e-30, 1e20]))
    special = torch.tensor([float("nan"), float("inf"), -0.0, 0.0, 1e-42])
    some = torch.randint(0, data.draw(st.sampled_from([200, 20])), shape, generator=g)
    x = torch.where(some < 5, special[some.clamp(max=4)], x)
    if data.draw(st.booleans()):
        x[..., :1, :] = 0.0
    b = Builder("rows")
    fn = b.finish(*b.emit(QuantizeRows(), b.param(meaning.type_of(x))))
    run = Run(fn, 2)
    run.bind(x)
    run.run()
    for got, want in zip(run.results(), meaning.run(fn, x), strict=True):
        pair = (torch.nan_to_num(t.double(), -7.0) for t in (got, want))
        assert torch.equal(*pair)


def test_the_longest_group_of_extremes_is_exact() -> None:
    k = kernels.MOST_DEPTH // 8 * 8
    codes = np.full((1, k), -128, np.int8)
    assert kernels.fits(k, 1, 8) and not kernels.fits(k + 8, 1, 8)
    assert int(kernels.excess(codes, 1)[0, 0]) == -128 * 128 * k
    b = Builder("long")
    x = b.param(TensorType(DType.I8, (1, k)), "x")
    w = const(b, torch.full((1, k), -128, dtype=torch.int8))
    fn = b.finish(b(IntLinear(), x, w, const(b, torch.ones(1))))
    args = torch.full((1, k), -128, dtype=torch.int8)
    run = Run(fn, 1, lower_code_rows)
    run.bind(args)
    run.run()
    assert torch.equal(run.results()[0], meaning.run(fn, args)[0])


@pytest.mark.parametrize("kind", [unary.Silu(), unary.Tanh()])
def test_other_activations(kind: Kind) -> None:
    g = torch.Generator().manual_seed(1)
    b = Builder("unit")
    x = b.param(TensorType(DType.I8, (3, 32)), "x")
    w = const(b, extreme(g, -128, 127, 20, 32).to(torch.int8))
    fn = b.finish(b(kind, b(IntLinear(), x, w, const(b, torch.full((20,), 1e-3)))))
    args = extreme(g, -128, 127, 3, 32).to(torch.int8)
    run = Run(fn, 1, lower_code_rows)
    run.bind(args)
    run.run()
    torch.testing.assert_close(run.results()[0], meaning.run(fn, args)[0], rtol=2e-6, atol=1e-6)
