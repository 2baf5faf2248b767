"""Products of mostly zero weights, against float64, with every epilogue; who chooses them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import leptonc
from leptonc import meaning
from leptonc.backends.numba_cpu.kernels import sparse as kernels
from leptonc.backends.numba_cpu.lower import questions
from leptonc.backends.numba_cpu.lower.choices import Answer
from leptonc.backends.numba_cpu.lower.contract import lower_contract
from leptonc.ir.core import Builder, Function, Kind, Value
from leptonc.ir.kinds import binary, unary
from leptonc.ir.kinds.contract import Conv, Linear
from leptonc.ir.kinds.data import Constant
from leptonc.ir.types import TensorType
from tests.backends.numba_cpu.harness import Run

pytestmark = pytest.mark.numba
POINT = Conv((1, 1), (0, 0), (1, 1))


def weight(g: torch.Generator, n: int, k: int, density: float) -> torch.Tensor:
    w = torch.randn(n, k, generator=g)
    return w * (torch.rand(n, k, generator=g) < density)


def chosen(fn: Function) -> dict[str, Answer]:
    """Return the answers that take the sparse way wherever there is one."""
    found = questions.asked(fn, "fp32", questions.FAR)
    return {q.key: Answer("sparse", "test") for q in found if "sparse" in q.costs}


def run(fn: Function, *args: torch.Tensor, threads: int = 1) -> torch.Tensor:
    answers = chosen(fn)
    assert answers

    def lower(ctx, body):
        ctx.answers = answers
        return lower_contract(ctx, body)

    made = Run(fn, threads, lower)
    assert "sparse" in [s.kernel.name for s in made.steps]
    made.bind(*args)
    made.run()
    return made.results()[0]


EPILOGUES: dict[str, tuple[Kind, ...]] = {
    "none": (), "relu": (unary.Relu(),), "add": (binary.Add(),),
    "add-relu": (binary.Add(), unary.Relu()), "silu": (unary.Silu(),),
    "relu-add": (unary.Relu(), binary.Add()), "sigmoid-mul": (unary.Sigmoid(), binary.Mul()),
}  # fmt: skip


@given(data=st.data(), threads=st.integers(1, 2))
def test_against_float64(data: st.DataObject, threads: int) -> None:
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 1 << 16)))
    n, k = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70))
    w = weight(g, n, k, data.draw(st.sampled_from([0.0, 0.1, 0.3])))
    b = Builder("unit")
    conv = data.draw(st.booleans())
    if conv:
        size = (data.draw(st.integers(1, 2)), *(data.draw(st.integers(1, 9)) for _ in range(2)))
        x = torch.randn(size[0], k, *size[1:], generator=g)
        layout, out = (0, 2, 3, 1), (size[0], n, *size[1:])
        kind: Kind = POINT
        w = w.reshape(n, k, 1, 1)
    else:
        lead = data.draw(st.sampled_from([(1,), (3, 7), (64,), (130,)]))
        x = torch.randn(*lead, k, generator=g)
        layout, out, kind = None, (*lead, n), Linear()
    args = [x]
    bias = torch.randn(n, generator=g)
    operands = [b.param(TensorType(meaning.type_of(x).dtype, tuple(x.shape), layout), "x")]
    operands += [b(Constant(meaning.const_of(t))) for t in (w, bias)]
    v = b(kind, *operands[: 2 + data.draw(st.integers(0, 1))])
    for step in EPILOGUES[data.draw(st.sampled_from(sorted(EPILOGUES)))]:
        if isinstance(step, (binary.Add, binary.Mul)):
            args.append(torch.randn(out, generator=g))
            r = b.param(TensorType(meaning.type_of(x).dtype, out, layout), "r")
            v = b(step, v, r)
        else:
            v = b(step, v)
    op = b.ops[-1]
    if layout is not None:
        v = Value(TensorType(op.result.type.dtype, op.result.type.shape, layout))
        b.ops[-1] = type(op)(op.kind, op.operands, (v,), op.origin)
    fn = b.finish(v)
    if not chosen(fn):  # a draw of few elements may be dense
        return
    got = run(fn, *args, threads=threads)
    (true,) = meaning.run(fn, *args, precision="f64")
    # |error| of a sum of m products: (m + 1) u sum |w||x|; epilogues here are 2-Lipschitz
    sums = float(w.abs().reshape(n, -1).sum(1).max()) * float(x.abs().max())
    most = sums + float(bias.abs().max())
    extra = max((float(t.abs().max()) for t in args[1:]), default=1.0)
    bound = 4 * (k + 4) * 2.0**-24 * (most + 1.0) * max(extra, 1.0)
    assert float((got.double() - true).abs().max()) <= bound if got.numel() else True


def test_lists_hold_what_is_not_zero() -> None:
    w = np.array([[0, 2, 0], [0, 0, 0], [-0.0, 3, 4]], np.float32)
    starts, inputs, weights = kernels.lists(w)
    assert starts.tolist() == [0, 1, 1, 3]
    assert inputs.tolist() == [1, 1, 2] and weights.tolist() == [2, 3, 4]


def test_only_mostly_zero_weights_ask() -> None:
    g = torch.Generator().manual_seed(0)
    b = Builder("f")
    x = b.param(TensorType(meaning.type_of(torch.zeros(1)).dtype, (8, 64)), "x")
    dense, some = (b(Constant(meaning.const_of(weight(g, 64, 64, d)))) for d in (1.0, 0.1))
    fn = b.finish(b(Linear(), x, dense), b(Linear(), x, some))
    assert len(chosen(fn)) == 1
    assert not [q for q in questions.asked(fn, "strict", questions.FAR) if "sparse" in q.costs]


def test_a_pruned_layer_is_measured_and_right() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.ReLU()).eval()
    with torch.no_grad():
        net[0].weight *= torch.rand(512, 512) < 0.03
    x = torch.randn(256, 512)
    made = leptonc.compile(net, x, threads=1, cache=False)
    torch.testing.assert_close(made(x), net(x).detach(), rtol=1e-4, atol=1e-5)
    (unit,) = made.profile(x).units
    assert unit.algorithm == "sparse"
    strict = leptonc.compile(net, x, threads=1, cache=False, precision="strict")
    assert strict.profile(x).units[0].algorithm == "igemm"


def test_long_lists_and_empty_ones() -> None:
    w = torch.zeros(40, 3000)
    w[3] = 1.0
    w[5, ::7] = 0.5
    x = torch.ones(70, 3000)
    b = Builder("unit")
    fn = b.finish(b(Linear(), b.param(meaning.type_of(x), "x"), b(Constant(meaning.const_of(w)))))
    got = run(fn, x)
    assert torch.equal(got[:, 3], torch.full((70,), 3000.0))
    assert torch.equal(got[:, 5], torch.full((70,), 0.5 * math.ceil(3000 / 7)))
    assert not got[:, [0, 39]].any()
