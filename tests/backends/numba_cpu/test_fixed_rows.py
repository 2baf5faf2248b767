"""Linear layers of few rows whose weights are kept in 24 bits, or in 20 where sums are long."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import leptonc
from leptonc import meaning
from leptonc.backends.numba_cpu.kernels import fixed_rows
from leptonc.backends.numba_cpu.kernels.fixed_rows import (
    BLOCK,
    HEIGHTS,
    LONG,
    LOW,
    QUAD,
    ROWS,
)
from leptonc.backends.numba_cpu.kernels.tile_writer import PANEL
from leptonc.backends.numba_cpu.kernels.vec import LANES
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

    Those of its chain, of sums of chains, of blocks and their units, a bias, a residual.
    """
    chains = 4 // max(h for h in HEIGHTS if h <= rows)
    return BLOCK // chains + chains + -(-depth // BLOCK) + 1 + 2


def blocks_of(depth: int) -> list[slice]:
    """Return which inputs share a unit: all of a block but those that the one before has, too."""
    whole = [slice(i, i + BLOCK) for i in range(0, depth - BLOCK + 1, BLOCK)]
    return [*whole, slice(len(whole) * BLOCK, depth)] if depth % BLOCK else whole


def units(w: np.ndarray) -> np.ndarray:
    """Return the unit of each weight of ``w: f32[out, in]``."""
    made = np.empty(w.shape)
    for block in blocks_of(w.shape[1]):
        powers = fixed_rows.unit_powers(abs(w[:, block]).max(1), bits_of(w.shape[1]))
        made[:, block] = 2.0 ** powers[:, None]
    return made


def bits_of(depth: int) -> int:
    return 20 if depth >= LONG else 24


depths = st.integers(BLOCK, 3 * BLOCK + 1) | st.integers(LONG - 1, LONG + BLOCK + 1)


@given(
    rows=st.integers(1, ROWS), n=st.integers(17, 3 * PANEL + 2), k=depths,
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
    lost = F.linear(x.double().abs(), torch.from_numpy(units(w.numpy())) / 2)
    bound = roundings(rows, k) * EPS * most + lost
    # The slopes of all that follows are at most 1, but for a product; tanh is within 4 units.
    bound = (bound + 8 * EPS) * (1 + y.double().abs() * (res == "times"))
    assert ((got.double() - EXACT[res](sums, y.double())).abs() <= bound).all()
    fixed_rows.fixed_rows.run_all(run.records[0], nt, some_cuts(nt, n))
    torch.testing.assert_close(run.results()[0], got, rtol=0, atol=0)


@given(rows=st.integers(1, ROWS + 1), k=depths, seed=st.integers(0, 99))
def test_whole_numbers_are_exact(rows, k, seed):
    random = np.random.default_rng(seed)
    x = torch.from_numpy(random.integers(-8, 9, (rows, k)).astype(np.float32))
    top = 2**12 if k < 1000 else 2**8  # sums of them have no more than 24 bits
    w = torch.from_numpy(random.integers(-top, top, (40, k)).astype(np.float32))
    run = Run(function((rows, k), w, None, "none"), 2, lower_contract)
    assert ran(run) == ["fixed_rows" if rows <= ROWS else "igemm"]
    (got,) = run(x, torch.zeros(rows, 40))
    torch.testing.assert_close(got, F.linear(x, w).relu(), rtol=0, atol=0)


@given(rows=st.integers(1, ROWS), k=depths, seed=st.integers(0, 99))
def test_every_bit_of_a_weight_is_read(rows, k, seed):
    """A row of x that has one element other than zero gives the weights that meet it."""
    random = np.random.default_rng(seed)
    top = 2 ** (bits_of(k) - 1) - 1
    w = torch.from_numpy(random.integers(-top, top + 1, (40, k)).astype(np.float32))
    places = random.integers(0, k, rows)
    x = torch.zeros(rows, k)
    x[range(rows), places] = 1.0
    run = Run(function((rows, k), w, None, "none"), 2, lower_contract)
    (got,) = run(x, torch.zeros(rows, 40))
    torch.testing.assert_close(got, w[:, places].T.relu(), rtol=0, atol=0)


def unpacked(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes and the units of a packed matrix, each ``[out, in]``."""
    n, depth = w.shape
    low, blocks = fixed_rows.low_bits(depth), -(-depth // BLOCK)
    packed = fixed_rows.pack(w)
    assert packed.nbytes == fixed_rows.packed_bytes(n, depth)
    panels = packed.reshape(-(-n // PANEL), blocks, fixed_rows.block_bytes(low))
    codes = np.empty((len(panels) * PANEL, depth), np.int64)
    found = np.empty(codes.shape)
    for p, b, q, u, c in np.ndindex(len(panels), blocks, BLOCK // QUAD, QUAD, PANEL):
        block = panels[p, b]
        quad = block[4 * PANEL :].reshape(BLOCK // QUAD, -1)[q]
        code = int(quad[: 2 * QUAD * PANEL].view(np.int16)[u * PANEL + c]) << low
        lower = quad[2 * QUAD * PANEL :]
        if low == LOW:
            code += int(lower[u * PANEL + c])
        else:
            code += int(lower[u * LANES + c % LANES]) >> low * (c // LANES) & 15
        first = min(b * BLOCK, depth - BLOCK)
        k = first + q * QUAD + u
        if k < b * BLOCK:
            assert code == 0  # the block before has it
        else:
            codes[p * PANEL + c, k] = code
            found[p * PANEL + c, k] = block[: 4 * PANEL].view(np.float32)[c]
    assert not codes[n:].any()
    return codes[:n], found[:n]


@pytest.mark.parametrize("depth", [BLOCK, BLOCK + 3, 2 * BLOCK, LONG + 1])
@given(
    largest=st.floats(2.0**-90, 2.0**100, width=32),
    seed=st.integers(0, 99),
    negative=st.booleans(),
)
@settings(max_examples=4)
@example(largest=1 - 2.0**-24, seed=0, negative=False)  # rounds up to one more bit
@example(largest=1 - 2.0**-24, seed=0, negative=True)
def test_a_weight_is_off_by_half_a_unit_at_most(depth, largest, seed, negative):
    random = np.random.default_rng(seed)
    w = random.uniform(-largest, largest, (PANEL + 1, depth)).astype(np.float32)
    w[::3, 5] = -largest if negative else largest
    codes, unit = unpacked(w)
    bits = bits_of(depth)
    assert (unit == units(w)).all()
    for block in blocks_of(depth):
        top = abs(w[:, block]).max(1).astype(np.float64)
        assert (unit[:, block].max(1) * (1 - 2.0 ** (1 - bits)) <= 2.0 ** (2 - bits) * top).all()
    assert (np.abs(codes * unit - w.astype(np.float64)) <= unit / 2).all()
    assert (np.abs(codes) < 2 ** (bits - 1)).all()


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
    w = draw(0, 40, 80)

    def strictly(ctx: Lowering, fn: Function) -> bool:
        ctx.precision = "strict"
        return lower_contract(ctx, fn)

    assert ran(Run(function((1, 80), w, None, "none"), 1, strictly)) == ["igemm"]
    assert ran(Run(function((0, 80), w, None, "none"), 1, lower_contract)) in ([], ["igemm"])


def test_inputs_that_are_not_finite_reach_every_column():
    w = draw(1, 40, 133).abs() + 0.1
    run = Run(function((2, 133), w, None, "after"), 2, lower_contract)
    x = draw(2, 2, 133)
    x[0, 132] = torch.nan
    x[1, 0] = torch.inf
    (got,) = run(x, torch.zeros(2, 40))
    assert got[0].isnan().all()
    assert (got[1] == 1).all()


def test_only_large_matrices_of_even_weights(monkeypatch):
    monkeypatch.setattr(questions, "LEAST_BYTES", 4 * 96 * 40)
    for k, name in ((96, "fixed_rows"), (95, "igemm")):
        run = Run(function((1, k), draw(0, 40, k), None, "none"), 1, lower_contract)
        assert ran(run) == [name]
    narrow = Run(function((1, BLOCK - 1), draw(0, 99, BLOCK - 1), None, "none"), 1, lower_contract)
    assert ran(narrow) == ["igemm"]
    monkeypatch.setattr(questions, "LEAST_DISTANCE", 2 * FARTHEST)
    near = Run(function((1, 96), draw(0, 40, 96), None, "none"), 1, lower_contract)
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
