"""Linear layers of one row, few columns and long sums: the lanes are those of the sum."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from leptonc import meaning
from leptonc.backends.numba_cpu.kernels import row_dots
from leptonc.backends.numba_cpu.kernels.row_dots import LEAST, MOST
from leptonc.backends.numba_cpu.lower.contract import lower_contract
from leptonc.ir.core import Builder, Function, Kind
from leptonc.ir.kinds.binary import Add
from leptonc.ir.kinds.contract import Linear
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.pointwise import Clamp
from leptonc.ir.kinds.unary import Relu, Tanh
from leptonc.ir.types import DType, TensorType
from tests.backends.numba_cpu.harness import Run, some_cuts

pytestmark = pytest.mark.numba

EPS = float(np.finfo(np.float32).eps) / 2
ENDS: dict[str, tuple[list[Kind], object]] = {
    "none": ([], lambda t: t),
    "relu": ([Relu()], torch.relu),
    "clamp": ([Clamp(-0.5, 0.25)], lambda t: t.clamp(-0.5, 0.25)),
    "tanh": ([Tanh()], torch.tanh),
}


def function(
    shape: tuple[int, ...], w: torch.Tensor, bias: torch.Tensor | None, kinds: list[Kind],
    plus: bool = False,
) -> Function:  # fmt: skip
    """Return ``kinds(x @ w.T + bias)``, plus a residual if asked for."""
    b = Builder("linear")
    x = b.param(TensorType(DType.F32, shape), "x")
    constants = [b(Constant(meaning.const_of(t))) for t in (w, bias) if t is not None]
    value = b(Linear(), x, *constants)
    for kind in kinds:
        value = b(kind, value)
    if plus:
        value = b(Add(), value, b.param(TensorType(DType.F32, (*shape[:-1], len(w))), "y"))
    return b.finish(value)


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, np.float32))


def ran(run: Run) -> list[str]:
    return [step.kernel.name for step in run.steps]


@given(
    n=st.integers(1, MOST), k=st.integers(LEAST, LEAST + 150), nt=st.integers(1, 5),
    bias=st.booleans(), end=st.sampled_from(list(ENDS)), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_row_of_few_columns(n, k, nt, bias, end, seed):
    x, w = draw(seed, 1, k), draw(seed + 1, n, k)
    shift = draw(seed + 2, n) if bias else None
    kinds, exact_end = ENDS[end]
    fn = function((1, k), w, shift, kinds)
    run = Run(fn, 1, lower_contract)
    assert ran(run) == ["row_dots"]
    (got,) = run(x)
    address = int(run.records[0][row_dots.OUT])
    np.ctypeslib.as_array((ctypes.c_float * n).from_address(address))[:] = np.nan
    # A product as small as this runs on one thread: the shares of several are run by hand.
    row_dots.row_dots.run_all(run.records[0], nt, some_cuts(nt, n))
    torch.testing.assert_close(run.results()[0], got, rtol=0, atol=0)
    d = [t.double() for t in (x, w)]
    sums = F.linear(*d, None if shift is None else shift.double())
    most = F.linear(*(t.abs() for t in d), None if shift is None else shift.double().abs())
    # The slopes of all these activations are at most 1; tanh itself is within 4 units of its last.
    bound = row_dots.additions(k) * EPS * most + 8 * EPS
    assert ((got.double() - exact_end(sums)).abs() <= bound).all()


@pytest.mark.parametrize(
    ("shape", "columns", "plus"),
    [((2, LEAST), 5, False), ((1, LEAST - 1), 5, False), ((1, LEAST), MOST + 1, False),
     ((1, LEAST), 5, True)],
    ids=["two rows", "short sum", "many columns", "residual"],
)  # fmt: skip
def test_what_is_no_such_row_is_a_product_of_panels(shape, columns, plus):
    w = draw(0, columns, shape[-1])
    run = Run(function(shape, w, None, [], plus), 1, lower_contract)
    assert ran(run) == ["igemm"]
    x, y = draw(1, *shape), draw(2, *shape[:-1], columns)
    (got,) = run(x, y) if plus else run(x)
    want = F.linear(x.double(), w.double()) + (y.double() if plus else 0.0)
    bound = (shape[-1] + 2) * EPS * (F.linear(x.double().abs(), w.double().abs()) + 4.0)
    assert ((got.double() - want).abs() <= bound).all()


def test_nothing_is_read_behind_the_row_and_nan_goes_to_every_column():
    k = LEAST + 3
    x, w = draw(0, 1, k), draw(1, 7, k)
    run = Run(function((1, k), w, None, [Relu()]), 2, lower_contract)
    (clean,) = run(x)  # guards around the row hold odd bytes
    assert torch.isfinite(clean).all()
    x[0, k - 1] = torch.nan
    (got,) = run(x)
    assert got.isnan().all()


def test_weights_of_any_strides_are_packed():
    k = LEAST
    x, w = draw(0, 1, k), draw(1, 3, k)
    packed = row_dots.pack_columns(w.numpy().T.copy().T)  # of any strides
    np.testing.assert_array_equal(packed, w.numpy())
    (got,) = Run(function((1, k), w, None, []), 1, lower_contract)(x)
    bound = row_dots.additions(k) * EPS * F.linear(x.double().abs(), w.double().abs())
    assert ((got.double() - F.linear(x.double(), w.double())).abs() <= bound).all()
