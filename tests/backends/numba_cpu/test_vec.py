"""Vector intrinsics against numpy and torch in float64: accuracy, special values, tails."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from leptonc.backends.numba_cpu.kernels import vec
from leptonc.backends.numba_cpu.kernels.activation import Act, vact
from leptonc.backends.numba_cpu.kernels.base import kernel, make_kernel, record
from leptonc.backends.numba_cpu.kernels.vec import (
    LANES,
    arg,
    argf,
    stf,
    vextract,
    vgt,
    vhmax,
    vhmin,
    vload,
    vload_bf16_n,
    vload_f16_n,
    vload_n,
    vload_step,
    vmax,
    vmin,
    vselect,
    vsplat,
    vstore_bf16_n,
    vstore_f16_n,
    vstore_n,
    vsum,
)

pytestmark = pytest.mark.numba

SPECIAL = np.array(
    [0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 1e-45, 88.72, 88.73, 89, -87.4, -90,
     -103.9, -104, -105, 3.4e38, -3.4e38, 1, -1, 0.5, 1e-8],
    np.float32,
)  # fmt: skip


def wide_range() -> np.ndarray:
    """Return arguments of every magnitude and the special ones; the length is odd."""
    rng = np.random.default_rng(0)
    parts = [
        SPECIAL,
        rng.uniform(-110, 100, 20001),
        rng.normal(size=20000) * 3,
        10.0 ** rng.uniform(-44, 38, 10000),
        -(10.0 ** rng.uniform(-44, 5, 5000)),
    ]
    return np.concatenate(parts).astype(np.float32)


def apply(name: str, x: np.ndarray) -> np.ndarray:
    function = getattr(vec, name)

    def body(args, tid, nt):
        n = arg(args, 2)
        for i in range(0, n, LANES):
            vstore_n(arg(args, 1), i, function(vload_n(arg(args, 0), i, n - i)), n - i)

    y = np.empty_like(x)
    make_kernel(body, name="apply", params=(name,))(record(x, y, len(x)))
    return y


def ulps(y: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Return the error in units of the last place of float32; 0 where both are not finite."""
    with np.errstate(all="ignore"):
        rounded = exact.astype(np.float32)
        unit = np.spacing(np.maximum(np.abs(rounded), np.float32(1.2e-38))).astype(np.float64)
        error = np.abs(y.astype(np.float64) - exact) / unit
    return np.where(np.isfinite(rounded) & np.isfinite(y), error, 0.0)


FUNCTIONS = {
    "vexp": (np.exp, 1.5),
    "vexpm1": (np.expm1, 2.0),
    "vlog": (np.log, 1.5),
    "vlog1p": (np.log1p, 2.0),
    "vtanh": (np.tanh, 4.0),
    "verf": (lambda x: torch.erf(torch.from_numpy(x)).numpy(), 2.0),
    "vsigmoid": (lambda x: 1 / (1 + np.exp(-x)), 3.5),
    "vsqrt": (np.sqrt, 0.51),
    "vfloor": (np.floor, 0.0),
    "vround": (np.round, 0.0),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_is_accurate_and_keeps_special_values(name):
    function, bound = FUNCTIONS[name]
    x = wide_range()
    y = apply(name, x)
    with np.errstate(all="ignore"):
        exact = function(x.astype(np.float64))
        rounded = exact.astype(np.float32)
    error = ulps(y, exact)
    if name == "vsigmoid":  # results below the normal range may be flushed to 0
        flushed = (exact < 2.0**-126) & (y >= 0) & (y < 2.0**-125)
        error[flushed] = 0
    assert error.max() <= bound
    np.testing.assert_array_equal(np.isnan(y), np.isnan(rounded))
    np.testing.assert_array_equal(np.isinf(y), np.isinf(rounded))
    number = ~np.isnan(y)
    np.testing.assert_array_equal(np.signbit(y[number]), np.signbit(rounded[number]))


@kernel
def _combine(args, tid, nt):
    x, y, out = arg(args, 0), arg(args, 1), arg(args, 2)
    a, b = vload(x, 0), vload(y, 0)
    vstore_n(out, 0, vmax(a, b), LANES)
    vstore_n(out, LANES, vmin(a, b), LANES)
    vstore_n(out, 2 * LANES, vselect(vgt(a, b), a + b, -(a * b - b / vsplat(2.0))), LANES)
    vstore_n(out, 3 * LANES, vload_step(x, 1, 3), LANES)
    stf(out, 4 * LANES, vsum(b))
    stf(out, 4 * LANES + 1, vhmax(a))
    stf(out, 4 * LANES + 2, vhmin(b))
    stf(out, 4 * LANES + 3, vextract(b, 2))


def test_arithmetic_and_reductions():
    x = np.arange(1, 3 * LANES + 2, dtype=np.float32) % 5
    y = np.linspace(-2, 4, LANES).astype(np.float32)
    x[1] = np.nan
    out = np.empty(4 * LANES + 4, np.float32)
    _combine(record(x, y, out))
    a = x[:LANES]
    rows = out[: 4 * LANES].reshape(4, LANES)
    np.testing.assert_array_equal(rows[0], np.maximum(a, y))
    np.testing.assert_array_equal(rows[1], np.minimum(a, y))
    np.testing.assert_allclose(rows[2], np.where(a > y, a + y, -(a * y - y / 2)), rtol=1e-6)
    np.testing.assert_array_equal(rows[3], x[1::3][:LANES])
    np.testing.assert_allclose(out[4 * LANES], y.sum(), rtol=1e-5)
    assert np.isnan(out[4 * LANES + 1])
    assert out[4 * LANES + 2] == y.min()
    assert out[4 * LANES + 3] == y[2]


@kernel
def _copy(args, tid, nt):
    for n in range(-1, LANES + 3):
        base = (n + 1) * (LANES + 4)
        vstore_n(arg(args, 1), base, vload_n(arg(args, 0), 0, n), n)


def test_tails_touch_only_their_lanes():
    x = np.arange(1, LANES + 1, dtype=np.float32)
    out = np.full((LANES + 4, LANES + 4), -1, np.float32)
    _copy(record(x, out))
    for n in range(-1, LANES + 3):
        some = min(max(n, 0), LANES)
        np.testing.assert_array_equal(out[n + 1, :some], x[:some])
        assert (out[n + 1, some:] == -1).all()


@kernel
def _halves(args, tid, nt):
    n = arg(args, 3)
    for i in range(0, n, LANES):
        v = vload_n(arg(args, 0), i, n - i)
        vstore_bf16_n(arg(args, 1), i, v, n - i)
        vstore_f16_n(arg(args, 2), i, v, n - i)
        vstore_n(arg(args, 4), i, vload_bf16_n(arg(args, 1), i, n - i), n - i)
        vstore_n(arg(args, 5), i, vload_f16_n(arg(args, 2), i, n - i), n - i)


def test_half_precision_rounds_like_torch():
    x = wide_range()
    b16, f16 = (np.empty(len(x), np.int16) for _ in range(2))
    from_b16, from_f16 = (np.empty_like(x) for _ in range(2))
    _halves(record(x, b16, f16, len(x), from_b16, from_f16))
    t = torch.from_numpy(x)
    for mine, dtype in ((from_b16, torch.bfloat16), (from_f16, torch.float16)):
        np.testing.assert_array_equal(mine, t.to(dtype).float().numpy())


@kernel
def _activate(args, tid, nt):
    n, p0, p1 = arg(args, 2), argf(args, 4), argf(args, 5)
    for i in range(0, n, LANES):
        v = vact(arg(args, 3), vload_n(arg(args, 0), i, n - i), p0, p1)
        vstore_n(arg(args, 1), i, v, n - i)


ACTIVATIONS = {
    Act.NONE: lambda x: x,
    Act.RELU: F.relu,
    Act.RELU6: F.relu6,
    Act.CLAMP: lambda x: torch.clamp(x, 0.25, 2.0),
    Act.SILU: F.silu,
    Act.HARDSWISH: F.hardswish,
    Act.HARDSIGMOID: F.hardsigmoid,
    Act.SIGMOID: torch.sigmoid,
    Act.GELU: F.gelu,
    Act.GELU_TANH: lambda x: F.gelu(x, approximate="tanh"),
    Act.LEAKY_RELU: lambda x: F.leaky_relu(x, 0.25),
    Act.ELU: lambda x: F.elu(x, 0.25),
    Act.TANH: torch.tanh,
    Act.MISH: F.mish,
    Act.SOFTPLUS: lambda x: F.softplus(x, 0.25, 2.0),
    Act.SELU: F.selu,
    Act.ABS: torch.abs,
    Act.EXP: torch.exp,
    Act.SQRT: torch.sqrt,
    Act.NEG: torch.neg,
    Act.SQUARE: torch.square,
    Act.QUICK_GELU: lambda x: x * torch.sigmoid(1.702 * x),
    Act.SOFTSIGN: F.softsign,
    Act.LOG: torch.log,
    Act.RECIPROCAL: torch.reciprocal,
}


def test_every_activation_is_tested():
    assert set(ACTIVATIONS) == set(Act)


@pytest.mark.parametrize("act", list(Act), ids=lambda a: a.name.lower())
def test_activation_agrees_with_torch(act):
    rng = np.random.default_rng(1)
    x = np.concatenate([SPECIAL[:8], rng.normal(size=5001) * 4]).astype(np.float32)
    y = np.empty_like(x)
    _activate(record(x, y, len(x), int(act), 0.25, 2.0))
    exact = ACTIVATIONS[act](torch.from_numpy(x).double()).numpy()
    with np.errstate(over="ignore"):
        rounded = exact.astype(np.float32)
    finite = np.isfinite(rounded)
    error = np.abs(y[finite] - exact[finite]) / np.maximum(np.abs(x[finite]), 1)
    np.testing.assert_array_less(error, 4e-7 + 1e-6 * np.abs(exact[finite]))
    np.testing.assert_array_equal(y[~finite], rounded[~finite])


SMOOTH = (
    Act.SILU, Act.HARDSWISH, Act.SIGMOID, Act.GELU, Act.GELU_TANH, Act.ELU, Act.TANH, Act.MISH,
    Act.SOFTPLUS, Act.SELU, Act.QUICK_GELU,
)  # fmt: skip


@pytest.mark.parametrize("act", SMOOTH, ids=lambda a: a.name.lower())
def test_activation_is_as_accurate_as_eager(act):
    """At most 1e-6 of max(|x|, 1), and four times the worst error of eager mode."""
    grid = np.concatenate([np.linspace(-100, 100, 40001), np.linspace(-9, 9, 200001)])
    x = grid.astype(np.float32)
    y = np.empty_like(x)
    _activate(record(x, y, len(x), int(act), 0.25, 2.0))
    t = torch.from_numpy(x)
    exact = ACTIVATIONS[act](t.double()).numpy()
    unit = np.maximum(np.abs(x), 1)
    worst, eager = ((np.abs(v - exact) / unit).max() for v in (y, ACTIVATIONS[act](t).numpy()))
    assert worst < 1e-6
    assert worst <= 4 * max(eager, 2.0**-24)


@pytest.mark.parametrize("act", sorted(set(SMOOTH) - {Act.HARDSWISH}), ids=lambda a: a.name.lower())
def test_activation_of_huge_arguments(act):
    """Far from 0 an activation is 0, constant or the argument: nothing small is multiplied up.

    Hardswish is left out: eager's own product with 6 overflows.
    """
    x = np.concatenate([s * 10.0 ** np.arange(2, 38.4, 0.1) for s in (1, -1)]).astype(np.float32)
    y = np.empty_like(x)
    _activate(record(x, y, len(x), int(act), 0.25, 2.0))
    exact = ACTIVATIONS[act](torch.from_numpy(x).double()).numpy()
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(y, exact.astype(np.float32), rtol=4e-7, atol=1e-35)
