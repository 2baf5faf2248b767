"""Linear layers of few rows whose weights are kept in 24 bits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import leptonc
from leptonc import meaning
from leptonc.backends.numba_cpu.kernels import fixed_rows
from leptonc.backends.numba_cpu.kernels.fixed_rows import BITS, CELL, HEIGHTS, ROWS
from leptonc.backends.numba_cpu.kernels.tile_writer import PANEL
from leptonc.backends.numba_cpu.lower import questions
from leptonc.backends.numba_cpu.lower.contract import lower_contract
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.questions import FARTHEST
from leptonc.ir.core import Builder, Function
from leptonc.ir.kinds.binary import Add, Mul
from leptonc.ir.kinds.contract import Linear
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.unary import Relu, Tanh
from leptonc.ir.types import DType, TensorType
from tests.backends.numba_cpu.harness import Run, some_cuts

pytestmark = pytest.mark.numba

EPS = float(np.finfo(np.float32).eps) / 2
RES = {
    "none": lambda b, v, y: b(Relu(), v),
    "before": lambda b, v, y: b(Relu(), b(Add(), v, y)),
    "after": lambda b, v, y: b(Add(), b(Tanh(), v), y),
    "times": lambda b, v, y: b(Mul(), b(Tanh(), v), y),
}
EXACT = {
    "none": lambda v, y: v.relu(),
    "before": lambda v, y: (v + y).relu(),
    "after": lambda v, y: v.tanh() + y,
    "times": lambda v, y: v.tanh() * y,
}


@pytest.fixture(autouse=True, scope="module")
def of_any_size():
    """Use it for matrices of any size; others are the rule's own business."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(questions, "LEAST_BYTES", 1)
        patch.setattr(questions, "LEAST_DISTANCE", 0)
        yield


def function(shape: tuple[int, ...], w: Tensor, bias: Tensor | None, res: str) -> Function:
    """Return a linear layer, and what follows it."""
    b = Builder("linear")
    x = b.param(TensorType(DType.F32, shape), "x")
    y = b.param(TensorType(DType.F32, (*shape[:-1], len(w))), "y")
    constants = [b(Constant(meaning.const_of(t))) for t in (w, bias) if t is not None]
    return b.finish(RES[res](b, b(Linear(), x, *constants), y))


def draw(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, np.float32))


def ran(run: Run) -> list[str]:
    return [step.kernel.name for step in run.steps]


def roundings(rows: int, depth: int) -> int:
    """Return how many a product may meet, in a block of at most so many rows.

    Those of its chain and of the rest, of sums of chains, of the unit, a bias, a residual.
    """
    height = max(h for h in HEIGHTS if h <= rows)
    chains = 4 // height
    return depth // chains + chains + 3 + 1 + 2


@given(
    rows=st.integers(1, ROWS), n=st.integers(17, 3 * PANEL + 2), k=st.integers(1, 70),
    nt=st.integers(1, 5), bias=st.booleans(), res=st.sampled_from(list(RES)),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_few_rows(rows, n, k, nt, bias, res, seed):
    x, w, y = draw(seed, rows, k), draw(seed + 1, n, k), draw(seed + 3, rows, n)
    shift = draw(seed + 2, n) if bias else None
    run = Run(function((rows, k), w, shift, res), nt, lower_contract)
    assert ran(run) == ["fixed_rows"]
    (got,) = run(x, y)
    d = [t.double() for t in (x, w)]
    shift = torch.zeros(n) if shift is None else shift
    sums = F.linear(*d, shift.double())
    most = F.linear(*(t.abs() for t in d), shift.double().abs()) + y.double().abs()
    units = 2.0 ** torch.from_numpy(fixed_rows.unit_powers(w.abs().amax(1).numpy())).double()
    bound = roundings(rows, k) * EPS * most + x.double().abs().sum(1, keepdim=True) * units / 2
    # The slopes of all that follows are at most 1, but for a product; tanh is within 4 units.
    bound = (bound + 8 * EPS) * (1 + y.double().abs() * (res == "times"))
    assert ((got.double() - EXACT[res](sums, y.double())).abs() <= bound).all()
    fixed_rows.fixed_rows.run_all(run.records[0], nt, some_cuts(nt, n))
    torch.testing.assert_close(run.results()[0], got, rtol=0, atol=0)


@given(rows=st.integers(1, ROWS + 1), k=st.integers(1, 40), seed=st.integers(0, 99))
def test_whole_numbers_are_exact(rows, k, seed):
    random = np.random.default_rng(seed)
    x = torch.from_numpy(random.integers(-8, 9, (rows, k)).astype(np.float32))
    w = torch.from_numpy(random.integers(-(2**15), 2**15, (40, k)).astype(np.float32))
    w[:, 0] = 32767.0  # a last place that all share
    run = Run(function((rows, k), w, None, "none"), 2, lower_contract)
    assert ran(run) == ["fixed_rows" if rows <= ROWS else "igemm"]
    (got,) = run(x, torch.zeros(rows, 40))
    torch.testing.assert_close(got, F.linear(x, w).relu(), rtol=0, atol=0)


@given(
    largest=st.floats(2.0**-90, 2.0**100, width=32),
    others=st.lists(st.floats(-1, 1), max_size=9),
    negative=st.booleans(),
)
@example(largest=1 - 2.0**-24, others=[], negative=False)  # rounds up to one more bit
@example(largest=1 - 2.0**-24, others=[1.0], negative=True)
def test_a_weight_is_off_by_half_a_unit_at_most(largest, others, negative):
    top = -largest if negative else largest
    column = np.array([top, *(largest * o for o in others)], np.float32)
    packed = fixed_rows.pack(column[None])
    at = fixed_rows.units_at(1, len(column))
    unit = packed[at : at + 4].view(np.float32)[0].item()
    cells = packed[:at].reshape(-1, CELL)
    high = cells[:, :2].copy().view(np.int16).astype(np.int64)[:, 0]
    codes = (high << 8) + cells[:, 2 * PANEL]
    assert math.frexp(unit)[0] == 0.5
    assert unit * (1 - 2.0**-24) <= 2.0 ** (2 - BITS) * largest
    assert (np.abs(codes * unit - column.astype(np.float64)) <= unit / 2).all()
    assert (np.abs(codes) < 2 ** (BITS - 1)).all()


@pytest.mark.parametrize(
    "spoil",
    [lambda w: w[3].fill_(torch.nan), lambda w: w[3, 5:6].fill_(torch.inf),
     lambda w: w[3, 0:1].fill_(1e4)],
    ids=["NaN", "infinity", "an outlier"],
)  # fmt: skip
def test_weights_that_fit_no_common_unit_are_products_of_panels(spoil):
    w = torch.full((20, 8192), 0.5)
    spoil(w)
    run = Run(function((1, 8192), w, None, "none"), 1, lower_contract)
    assert ran(run) == ["igemm"]


def test_strict_programs_and_rows_that_are_computed_on_keep_all_bits():
    w = draw(0, 40, 30)

    def strictly(ctx: Lowering, fn: Function) -> bool:
        ctx.precision = "strict"
        return lower_contract(ctx, fn)

    assert ran(Run(function((1, 30), w, None, "none"), 1, strictly)) == ["igemm"]
    assert ran(Run(function((0, 30), w, None, "none"), 1, lower_contract)) in ([], ["igemm"])


def test_inputs_that_are_not_finite_reach_every_column():
    w = draw(1, 40, 33).abs() + 0.1
    run = Run(function((2, 33), w, None, "after"), 2, lower_contract)
    x = draw(2, 2, 33)
    x[0, 32] = torch.nan
    x[1, 0] = torch.inf
    (got,) = run(x, torch.zeros(2, 40))
    assert got[0].isnan().all()
    assert (got[1] == 1).all()


def test_only_large_matrices_of_even_weights(monkeypatch):
    monkeypatch.setattr(questions, "LEAST_BYTES", 4 * 32 * 40)
    for k, name in ((32, "fixed_rows"), (31, "igemm")):
        run = Run(function((1, k), draw(0, 40, k), None, "none"), 1, lower_contract)
        assert ran(run) == [name]
    monkeypatch.setattr(questions, "LEAST_DISTANCE", 2 * FARTHEST)
    near = Run(function((1, 32), draw(0, 40, 32), None, "none"), 1, lower_contract)
    assert ran(near) == ["igemm"]
    even = meaning.const_of(torch.tensor([[3.0, 3.0], [0.0, 0.0]]))
    assert meaning.peak_to_mean(even) == pytest.approx(1.0)
    far = meaning.const_of(torch.tensor([[0.0] * 15 + [2.0]]))
    assert meaning.peak_to_mean(far) == pytest.approx(16.0)
    assert meaning.peak_to_mean(meaning.const_of(torch.tensor([[1.0, math.nan]]))) == math.inf
    assert meaning.peak_to_mean(meaning.const_of(torch.zeros(0, 3))) == 1.0


def ran_in(net: leptonc.CompiledModel, x: Tensor) -> list[str]:
    return [name for unit in net.profile(x).units for name in unit.kernels]


def test_a_second_process_finds_the_matrix(tmp_path, monkeypatch):
    monkeypatch.setenv("LEPTONC_CACHE_DIR", str(tmp_path))
    net, x = nn.Sequential(nn.Linear(300, 200), nn.Linear(200, 700)).eval(), torch.randn(1, 300)
    with torch.no_grad():
        net[1].weight[3, 0] = 100.0  # an outlier: floats
    made = [leptonc.compile(net, x, threads=1) for _ in range(2)]
    assert [c.stats["cached"] for c in made] == [False, True]
    first, second = (c(x) for c in made)
    torch.testing.assert_close(second, first, rtol=0, atol=0)
    for c in made:
        assert ran_in(c, x) == ["fixed_rows", "igemm"]


def test_a_unit_alone_keeps_its_weights_as_in_the_network(monkeypatch):
    monkeypatch.setattr(questions, "LEAST_DISTANCE", 1 << 22)
    layers = [nn.Linear(512, 512) for _ in range(4)]
    relus = [nn.ReLU() for _ in layers]  # without them all would be one
    net = nn.Sequential(*(m for pair in zip(layers, relus, strict=True) for m in pair)).eval()
    x = torch.randn(1, 512)
    alone = leptonc.compile(layers[0], x, threads=1, cache=False)
    assert ran_in(alone, x) == ["igemm"]
    whole = leptonc.compile(net, x, threads=1, cache=False, verify="unit")
    assert ran_in(whole, x) == ["fixed_rows"] * 4
    assert whole.stats["constant_bytes"] < 4 * 4 * 512 * 512  # and not as floats, too
