"""Winograd kernels against direct convolution in float64."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from leptonc.backends.numba_cpu.kernels import winograd as wino
from leptonc.backends.numba_cpu.kernels import winograd_plan as plan
from leptonc.backends.numba_cpu.kernels import winograd_points as points
from leptonc.backends.numba_cpu.kernels import winograd_slots as slots
from leptonc.backends.numba_cpu.kernels.activation import Act
from leptonc.backends.numba_cpu.kernels.base import record
from leptonc.backends.numba_cpu.kernels.igemm import Res
from leptonc.backends.numba_cpu.kernels.vectype import LANES
from leptonc.backends.numba_cpu.kernels.winograd_points import POINTS, Form

pytestmark = pytest.mark.numba
FORMS = sorted(POINTS)
BOUND = {2: 2e-6, 4: 2e-5}  # by m, of the largest value, see the kernel's docstring


class Case:
    """One convolution with its memory; ``run(nt)`` returns the result as ``[b, h, w, n]``."""

    def __init__(
        self, form: Form, x: torch.Tensor, w: torch.Tensor, pad: tuple[int, int], **options
    ) -> None:
        (b, c, h, wide), n, m = x.shape, w.shape[0], form.m
        size = [(s + 2 * p - 3) // form.stride + 1 for s, p in zip((h, wide), pad, strict=True)]
        tiles = b * -(-size[0] // m) * -(-size[1] // m)
        blocks = options.get("blocks") or plan.blocking(form, tiles, c, n)
        bias, res = options.get("bias"), options.get("res")
        self.keep = {
            "x": np.ascontiguousarray(x.permute(0, 2, 3, 1).numpy()),
            "weights": plan.transform_weights(w.numpy(), form),
            "bias": 0 if bias is None else bias.numpy(),
            "res": 0 if res is None else np.ascontiguousarray(res.permute(0, 2, 3, 1).numpy()),
        }
        line, image = size[1] * n, size[0] * size[1] * n
        act, p0, p1 = options.get("act", (Act.NONE, 0.0, 0.0))
        pool = int(options.get("pool", 1))
        size = [s // pool * pool for s in size]
        self.written = (b, size[0] // pool, size[1] // pool, n)
        self.values = {
            "stride": form.stride, "m": m, **self.keep, "x_b": h * wide * c, "x_y": wide * c,
            "x_x": c, "batch": b, "in_h": h, "in_w": wide, "channels": c, "columns": n,
            "pad_y": pad[0], "pad_x": pad[1], "out_h": size[0], "out_w": size[1],
            "out_b": image, "out_y": line, "out_x": n, "res_b": image, "res_y": line, "res_x": n,
            "res_mode": int(options.get("mode", Res.BEFORE)), "act": int(act), "act_p0": p0,
            "act_p1": p1, "pool": pool,
            "tile_block": blocks.tile_block, "panel_block": blocks.panel_block,
            "scratch_bytes": blocks.scratch_bytes,
        }  # fmt: skip

    def run(self, nt: int = 1) -> np.ndarray:
        b, h, w, n = self.written
        out = np.full((b, h, w, n + 1), 77, np.float32)  # a guard a pixel
        guarded = {"out_x": n + 1, "out_y": w * (n + 1), "out_b": h * w * (n + 1)}
        scratch = np.full(self.values["scratch_bytes"] * nt + 64, 0xFF, np.uint8)
        values = {**self.values, **guarded, "out": out, "scratch": scratch}
        wino.winograd.run_all(record(*(values[name] for name in slots.NAMES)), nt)
        assert (out[..., -1] == 77).all()
        return out[..., :-1].copy()


def reference(form: Form, x: torch.Tensor, w: torch.Tensor, pad: tuple[int, int]) -> torch.Tensor:
    return F.conv2d(x.double(), w.double(), stride=form.stride, padding=pad)


def error(got: np.ndarray, want: torch.Tensor) -> float:
    exact = want.permute(0, 2, 3, 1).numpy()
    return float(np.abs(got - exact).max() / np.abs(exact).max())


def data(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(sum(shape)).standard_normal(shape, np.float32))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("b", "c", "h", "w", "n", "pad"),
    [
        (1, 16, 8, 8, 16, (1, 1)),
        (2, 19, 7, 9, 37, (1, 1)),
        (1, 64, 14, 13, 64, (0, 0)),
        (1, 33, 5, 6, 70, (2, 2)),
        (3, 32, 1, 1, 8, (1, 1)),
        (1, 20, 3, 30, 5, (0, 2)),
        (1, 130, 17, 6, 3, (1, 0)),
    ],
)
def test_any_size_is_near_float64(
    form: Form, b: int, c: int, h: int, w: int, n: int, pad: tuple[int, int]
) -> None:
    x, weight = data(b, c, h, w), data(n, c, 3, 3)
    case = Case(form, x, weight, pad)
    got = case.run()
    assert error(got, reference(form, x, weight, pad)) < BOUND[form.m]
    for nt in (2, 3, 5):
        assert np.array_equal(got, case.run(nt))


@pytest.mark.parametrize("form", FORMS)
def test_blocks_do_not_change_a_bit(form: Form) -> None:
    x, weight = data(1, 40, 23, 21), data(100, 40, 3, 3)
    want = Case(form, x, weight, (1, 1)).run()
    full = plan.blocking(form, 10**6, 40, 100)
    small = plan.Blocking(wino.ROWS, 1, full.scratch_bytes)
    assert np.array_equal(want, Case(form, x, weight, (1, 1), blocks=small).run(2))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", list(Res))
def test_epilogue(form: Form, mode: Res) -> None:
    x, weight, bias = data(2, 16, 6, 7), data(21, 16, 3, 3), data(21)
    res = data(2, 21, *(-(-s // form.stride) for s in (6, 7)))
    act = (Act.LEAKY_RELU, 0.25, 0.0)
    case = Case(form, x, weight, (1, 1), bias=bias, res=res, mode=mode, act=act)
    plain = reference(form, x, weight, (1, 1)) + bias.double()[:, None, None]
    want = {
        Res.BEFORE: lambda: F.leaky_relu(plain + res, 0.25),
        Res.AFTER: lambda: F.leaky_relu(plain, 0.25) + res,
        Res.TIMES: lambda: F.leaky_relu(plain, 0.25) * res,
    }[mode]()
    assert error(case.run(2), want) < BOUND[form.m]


@st.composite
def pooled(draw) -> tuple[Any, ...]:
    """A convolution to pool: sizes that tiles do not divide, channels that vectors do not."""
    sizes = [st.integers(1, 2), st.integers(1, 40), st.integers(2, 13), st.integers(2, 13)]
    pad = draw(st.tuples(*[st.integers(0, 2)] * 2))
    b, c, h, w = (draw(s) for s in sizes)
    h, w = (max(v, 4 - 2 * p) for v, p in zip((h, w), pad, strict=True))  # two outputs or more
    odd = draw(st.lists(st.sampled_from([np.nan, np.inf, -np.inf, -0.0]), max_size=3))
    acts = [(Act.NONE, 0.0, 0.0), (Act.RELU, 0.0, 0.0), (Act.CLAMP, -0.5, 0.5)]
    return b, c, h, w, draw(st.integers(1, 70)), pad, odd, draw(st.sampled_from(acts))


@pytest.mark.parametrize("form", [f for f in FORMS if f.stride == 1])
@given(pooled(), st.integers(1, 3))
def test_the_largest_of_four_outputs_has_the_bits_of_a_pool_behind(form, case, nt: int) -> None:
    b, c, h, w, n, pad, odd, act = case
    x, weight, bias = data(b, c, h, w), data(n, c, 3, 3), data(n)
    x.view(-1)[: len(odd)] = torch.tensor(odd)
    plain = torch.from_numpy(Case(form, x, weight, pad, bias=bias, act=act).run())
    want = F.max_pool2d(plain.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1).numpy()
    got = Case(form, x, weight, pad, bias=bias, act=act, pool=2).run(nt)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("form", FORMS)
def test_the_matrices_convolve(form: Form) -> None:
    t, rng, stride = points.matrices(form), np.random.default_rng(form.m), form.stride
    tile, g = rng.standard_normal((form.side, form.side)), rng.standard_normal((3, 3))
    sums = np.zeros((form.n, form.n))
    for py, down in enumerate(form.taps):
        for px, across in enumerate(form.taps):
            kernel = t.g[:, : len(down)] @ g[np.ix_(down, across)] @ t.g[:, : len(across)].T
            bt = [t.bt[:, : form.n - p] for p in (py, px)]
            sums += kernel * (bt[0] @ tile[py::stride, px::stride] @ bt[1].T)
    got = t.at @ sums @ t.at.T
    exact = F.conv2d(
        torch.from_numpy(tile)[None, None], torch.from_numpy(g)[None, None], stride=stride
    )
    np.testing.assert_allclose(got, exact[0, 0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_the_amplification_is_the_bound_of_ones(form: Form) -> None:
    bound = points.error_bound(np.ones((5, form.side, form.side)), np.ones((2, 5, 3, 3)), form)
    r = points.roundings(form, 5) * 2.0**-24
    assert bound.max() == pytest.approx(r / (1 - r) * 5 * 9 * points.amplification(form))


@given(
    form=st.sampled_from(FORMS),
    tiles=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    channels=st.integers(LANES, 80),
    out=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    spread=st.floats(0, 6),
    mean=st.floats(-3, 3),
)
@settings(max_examples=40, deadline=None)
def test_every_output_is_within_its_bound(
    form: Form,
    tiles: tuple[int, int],
    channels: int,
    out: int,
    seed: int,
    spread: float,
    mean: float,
) -> None:
    """Magnitudes over ``spread`` decades, a ``mean`` that makes sums cancel or grow."""
    rng = np.random.default_rng(seed)
    size = tuple(form.stride * form.m * (k - 1) + form.side for k in tiles)
    x = (rng.standard_normal((channels, *size)) + mean) * 10 ** rng.uniform(-spread, 0, size)
    w = (rng.standard_normal((out, channels, 3, 3)) + mean) * 10 ** rng.uniform(-spread, 0, (3, 3))
    x, w = x.astype(np.float32), w.astype(np.float32)
    case = Case(form, torch.from_numpy(x)[None], torch.from_numpy(w), (0, 0))
    exact = reference(form, torch.from_numpy(x)[None], torch.from_numpy(w), (0, 0))[0].numpy()
    bound = points.error_bound(x, w, form)
    assert (np.abs(case.run()[0].transpose(2, 0, 1) - exact) <= bound).all()


@given(
    form=st.sampled_from(FORMS),
    shape=st.tuples(*(st.integers(1, 23) for _ in range(2))),
    channels=st.integers(LANES, 50),
    out=st.integers(1, 80),
    nt=st.integers(2, 6),
    mode=st.sampled_from([None, *Res]),
    act=st.sampled_from([Act.NONE, Act.RELU, Act.RELU6, Act.CLAMP, Act.SILU]),
)
@settings(max_examples=40, deadline=None)
def test_any_thread_count_gives_the_same_bits(form, shape, channels, out, nt, mode, act) -> None:
    x, weight = data(2, channels, *shape), data(out, channels, 3, 3)
    size = [-(-s // form.stride) for s in shape]
    res = {} if mode is None else {"res": data(2, out, *size), "mode": mode}
    case = Case(form, x, weight, (1, 1), bias=data(out), act=(act, -0.5, 0.75), **res)
    assert np.array_equal(case.run(), case.run(nt))


@pytest.mark.parametrize("form", FORMS)
def test_images_that_are_fetched_ahead(form: Form) -> None:
    """An input and output of more than 4 MiB: the walk over the following block's tiles."""
    x, weight = data(1, 64, 131, 130), data(96, 64, 3, 3)
    got = Case(form, x, weight, (1, 1)).run()
    assert error(got, reference(form, x, weight, (1, 1))) < BOUND[form.m]


def test_a_nan_stays_within_its_tile() -> None:
    x, weight = data(1, 16, 12, 12), data(16, 16, 3, 3)
    x[0, 3, 0, 0] = float("nan")
    got = Case(Form(1, 4), x, weight, (1, 1)).run()
    assert np.isnan(got[0, :2, :2]).all() and np.isfinite(got[0, 4:]).all()


def test_padding_is_never_read() -> None:
    """Whatever lies around the image in memory has no influence."""
    x, weight = data(1, 16, 6, 6), data(8, 16, 3, 3)
    case = Case(Form(1, 4), x, weight, (1, 1))
    want = case.run()
    wide = np.full((1, 8, 8, 16), np.nan, np.float32)
    wide[:, 1:7, 1:7] = case.keep["x"]
    inner = wide.ctypes.data + 4 * (8 * 16 + 16)
    case.values.update(x=inner, x_b=8 * 8 * 16, x_y=8 * 16, x_x=16)
    assert np.array_equal(want, case.run())


@pytest.mark.parametrize("count", range(1, 4 * wino.ROWS + 1))
def test_groups_fit_the_scratch_memory(count: int) -> None:
    """Tiles spread over at most twice the groups that full ones would make."""
    rows: int = cast(Any, wino._rows_of_groups).py_func(count)
    assert 1 <= rows <= wino.ROWS
    assert -(-count // rows) <= 2 * -(-count // wino.ROWS)
