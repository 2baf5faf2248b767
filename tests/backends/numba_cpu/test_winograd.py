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
from leptonc.backends.numba_cpu.kernels.base import Native, record
from leptonc.backends.numba_cpu.kernels.igemm_record import Res
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL
from leptonc.backends.numba_cpu.kernels.shares import ONE
from leptonc.backends.numba_cpu.kernels.vectype import LANES
from leptonc.backends.numba_cpu.kernels.winograd_calls import TRANSFORMS
from leptonc.backends.numba_cpu.kernels.winograd_late import EARLY, late_of
from leptonc.backends.numba_cpu.kernels.winograd_points import FORMS, POINTS, Axis, Form
from tests.backends.numba_cpu.harness import some_cuts

pytestmark = pytest.mark.numba
FOUR = Form.square(3, 4)
#: Of the largest value, by the larger m, see the kernel's docstring.
BOUND = {2: 2e-6, 3: 2e-5, 4: 2e-5}


def bound(form: Form) -> float:
    return BOUND[max(form.y.m, form.x.m)]


def kernel(form: Form, out: int, channels: int) -> torch.Tensor:
    return data(out, channels, *form.kernel)


def same(form: Form) -> tuple[int, int]:
    """Return the padding that keeps the size with stride 1, with an even kernel one more."""
    y, x = (taps // 2 for taps in form.kernel)
    return y, x


def addresses(form: Form, pool: int, tiles: int) -> dict[str, int]:
    """Return the slots that name the transforms of a form, and products with late weights."""
    slots = TRANSFORMS[form].slots(pool) | (late_of(form, tiles).slots() if tiles else EARLY)
    return {name: t.address if isinstance(t, Native) else t for name, t in slots.items()}


class Case:
    """One convolution with its memory; ``run(nt)`` returns the result as ``[b, h, w, n]``."""

    def __init__(
        self, form: Form, x: torch.Tensor, w: torch.Tensor, pad: tuple[int, int], **options
    ) -> None:
        (b, c, h, wide), n = x.shape, w.shape[0]
        ends = options.get("after") or pad
        size = [
            (s + p + q - axis.taps) // axis.stride + 1
            for s, p, q, axis in zip((h, wide), pad, ends, form, strict=True)
        ]
        tiles = b * -(-size[0] // form.y.m) * -(-size[1] // form.x.m)
        late = late_of(form, tiles) if options.get("late") else None
        self.blocks = options.get("blocks")
        self.sizes = form, tiles, c, n, late
        bias, res = options.get("bias"), options.get("res")
        pack = (
            plan.pack_late(w.numpy(), late.wide)
            if late
            else plan.transform_weights(w.numpy(), form)
        )
        self.keep = {
            "x": np.ascontiguousarray(x.permute(0, 2, 3, 1).numpy()),
            "weights": pack,
            "bias": 0 if bias is None else bias.numpy(),
            "res": 0 if res is None else np.ascontiguousarray(res.permute(0, 2, 3, 1).numpy()),
        }
        line, image = size[1] * n, size[0] * size[1] * n
        act, p0, p1 = options.get("act", (Act.NONE, 0.0, 0.0))
        pool = int(options.get("pool", 1))
        size = [s // pool * pool for s in size]
        self.written = (b, size[0] // pool, size[1] // pool, n)
        self.values = {
            **plan.slots(form, c), **addresses(form, pool, tiles if late else 0), **self.keep,
            "x_b": h * wide * c, "x_y": wide * c, "x_x": c,
            "batch": b, "in_h": h, "in_w": wide, "channels": c, "columns": n,
            "pad_y": pad[0], "pad_x": pad[1], "out_h": size[0], "out_w": size[1],
            "out_b": image, "out_y": line, "out_x": n, "res_b": image, "res_y": line, "res_x": n,
            "res_mode": int(options.get("mode", Res.BEFORE)), "act": int(act), "act_p0": p0,
            "act_p1": p1, "pool": pool,
        }  # fmt: skip

    def blocks_of(self, nt: int) -> plan.Blocking:
        form, _, *others = self.sizes
        share = wino.tiles_of_a_thread(*self.sizes, nt)
        return self.blocks or plan.blocking(form, share, *others)

    def run(self, nt: int = 1, cuts: np.ndarray | None = None) -> np.ndarray:
        b, h, w, n = self.written
        out = np.full((b, h, w, n + 1), 77, np.float32)  # a guard a pixel
        guarded = {"out_x": n + 1, "out_y": w * (n + 1), "out_b": h * w * (n + 1)}
        blocks = self.blocks_of(nt)
        scratch = np.full((nt, blocks.scratch_bytes + 64), 0xFF, np.uint8)  # a guard a thread
        blocked = {"tile_block": blocks.tile_block, "panel_block": blocks.panel_block}
        places = {"out": out, "scratch": scratch, "scratch_bytes": scratch.shape[1]}
        values = {**self.values, **guarded, **blocked, **places}
        cut = some_cuts(nt, h + w) if cuts is None else cuts
        wino.winograd.run_all(record(*(values[name] for name in slots.NAMES)), nt, cut)
        assert (out[..., -1] == 77).all()
        assert (scratch[:, -64:] == 0xFF).all()
        return out[..., :-1].copy()


def reference(
    form: Form, x: torch.Tensor, w: torch.Tensor, pad: tuple[int, int], after=None
) -> torch.Tensor:
    ends = after or pad
    wide = F.pad(x.double(), (pad[1], ends[1], pad[0], ends[0]))
    return F.conv2d(wide, w.double(), stride=form.stride)


def error(got: np.ndarray, want: torch.Tensor) -> float:
    exact = want.permute(0, 2, 3, 1).numpy()
    return float(np.abs(got - exact).max() / np.abs(exact).max())


def data(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(sum(shape)).standard_normal(shape, np.float32))


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize(
    ("b", "c", "h", "w", "n", "pad"),
    [
        (1, 16, 8, 8, 16, (1, 1)),
        (2, 19, 7, 9, 37, (1, 1)),
        (1, 64, 14, 13, 64, (0, 0)),
        (1, 33, 5, 6, 70, (2, 2)),
        (3, 32, 1, 1, 8, (3, 3)),
        (1, 20, 7, 30, 5, (0, 2)),
        (1, 130, 17, 7, 3, (1, 0)),
    ],
)
def test_any_size_is_near_float64(
    form: Form, b: int, c: int, h: int, w: int, n: int, pad: tuple[int, int]
) -> None:
    x, weight = data(b, c, h, w), kernel(form, n, c)
    pad = tuple(min(p, taps - 1) for p, taps in zip(pad, form.kernel, strict=True))
    case = Case(form, x, weight, pad)
    got = case.run()
    assert error(got, reference(form, x, weight, pad)) < bound(form)
    for nt in (2, 3, 5):
        assert np.array_equal(got, case.run(nt))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_blocks_do_not_change_a_bit(form: Form) -> None:
    x, weight = data(1, 40, 23, 21), kernel(form, 100, 40)
    want = Case(form, x, weight, same(form)).run()
    full = plan.blocking(form, 10**6, 40, 100)
    small = plan.Blocking(wino.ROWS, 1, full.scratch_bytes)
    assert np.array_equal(want, Case(form, x, weight, same(form), blocks=small).run(2))


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("mode", list(Res))
def test_epilogue(form: Form, mode: Res) -> None:
    x, weight, bias = data(2, 16, 6, 7), kernel(form, 21, 16), data(21)
    plain = reference(form, x, weight, same(form)) + bias.double()[:, None, None]
    res, act = data(*plain.shape), (Act.LEAKY_RELU, 0.25, 0.0)
    case = Case(form, x, weight, same(form), bias=bias, res=res, mode=mode, act=act)
    want = {
        Res.BEFORE: lambda: F.leaky_relu(plain + res, 0.25),
        Res.AFTER: lambda: F.leaky_relu(plain, 0.25) + res,
        Res.TIMES: lambda: F.leaky_relu(plain, 0.25) * res,
    }[mode]()
    assert error(case.run(2), want) < bound(form)


@st.composite
def pooled(draw) -> tuple[Any, ...]:
    """A convolution to pool: sizes that tiles do not divide, channels that vectors do not."""
    sizes = [st.integers(1, 2), st.integers(1, 40), st.integers(2, 13), st.integers(2, 13)]
    pad = draw(st.tuples(*[st.integers(0, 2)] * 2))
    b, c, h, w = (draw(s) for s in sizes)
    odd = draw(st.lists(st.sampled_from([np.nan, np.inf, -np.inf, -0.0]), max_size=3))
    acts = [(Act.NONE, 0.0, 0.0), (Act.RELU, 0.0, 0.0), (Act.CLAMP, -0.5, 0.5)]
    return b, c, h, w, draw(st.integers(1, 70)), pad, odd, draw(st.sampled_from(acts))


@pytest.mark.parametrize("form", [f for f in FORMS if f.pools], ids=str)
@given(pooled(), st.integers(1, 3))
def test_the_largest_of_four_outputs_has_the_bits_of_a_pool_behind(form, case, nt: int) -> None:
    b, c, h, w, n, pad, odd, act = case
    least = (axis.taps + 1 - 2 * p for axis, p in zip(form, pad, strict=True))  # two outputs
    h, w = (max(v, some) for v, some in zip((h, w), least, strict=True))
    x, weight, bias = data(b, c, h, w), kernel(form, n, c), data(n)
    x.view(-1)[: len(odd)] = torch.tensor(odd)
    plain = torch.from_numpy(Case(form, x, weight, pad, bias=bias, act=act).run())
    want = F.max_pool2d(plain.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1).numpy()
    got = Case(form, x, weight, pad, bias=bias, act=act, pool=2).run(nt)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_matrices_convolve(form: Form) -> None:
    (y, x), rng = (points.matrices(axis) for axis in form), np.random.default_rng(form.planes)
    tile, g = rng.standard_normal((form.y.side, form.x.side)), rng.standard_normal(form.kernel)
    sums = np.zeros((form.y.n, form.x.n))
    for py, down in enumerate(form.y.phases):
        for px, across in enumerate(form.x.phases):
            some = y.g[:, : len(down)] @ g[np.ix_(down, across)] @ x.g[:, : len(across)].T
            bt_y, bt_x = y.bt[:, : form.y.n - py], x.bt[:, : form.x.n - px]
            sums += some * (bt_y @ tile[py :: form.stride, px :: form.stride] @ bt_x.T)
    got = y.at @ sums @ x.at.T
    exact = reference(form, *(torch.from_numpy(v)[None, None] for v in (tile, g)), (0, 0))
    np.testing.assert_allclose(got, exact[0, 0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("axis", POINTS, ids=str)
def test_what_the_transforms_multiply_by_is_exact(axis: Axis) -> None:
    t = points.matrices(axis)
    for values in (t.at, t.bt, points.even_part(POINTS[axis].pairs)):
        assert np.array_equal(np.float32(values), values)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_amplification_is_the_bound_of_ones(form: Form) -> None:
    ones = np.ones((5, form.y.side, form.x.side)), np.ones((2, 5, *form.kernel))
    r = points.roundings(form, 5) * 2.0**-24
    want = r / (1 - r) * 5 * np.prod(form.kernel) * points.amplification(form)
    assert points.error_bound(*ones, form).max() == pytest.approx(want)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_no_form_promises_less_than_the_widest_square(form: Form) -> None:
    """What ``precision="fp32"`` tells its users."""
    assert points.amplification(form) <= points.amplification(FOUR)


@st.composite
def padded(draw) -> tuple[Form, tuple[int, int], tuple[int, int], tuple[int, int]]:
    """A form, the size of an image, zeros before and behind it: of one output or more."""
    form = draw(st.sampled_from(FORMS))
    pads = [[draw(st.integers(0, axis.taps - 1)) for axis in form] for _ in range(2)]
    least = [max(1, a.taps - p - q) for a, p, q in zip(form, *pads, strict=True)]
    size = [draw(st.integers(low, low + 2 * a.side)) for low, a in zip(least, form, strict=True)]
    return form, *((y, x) for y, x in (size, *pads))


def in_tiles(form: Form, x: np.ndarray, pads: list[tuple[int, int]]) -> np.ndarray:
    """Return ``x: [c, h, w]`` with its padding, and zeros behind up to whole tiles."""
    ends = []
    for size, axis, (p, q) in zip(x.shape[1:], form, pads, strict=True):
        step = axis.stride * axis.m
        ends.append((p, q + (axis.side - size - p - q) % step))
    return np.pad(x, [(0, 0), *ends])


@given(
    case=padded(),
    channels=st.integers(1, 80),
    out=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    spread=st.floats(0, 6),
    mean=st.floats(-3, 3),
    nt=st.integers(1, 2),
)
@settings(max_examples=80, deadline=None)
def test_every_output_is_within_its_bound(
    case, channels: int, out: int, seed: int, spread: float, mean: float, nt: int
) -> None:
    """Magnitudes over ``spread`` decades, a ``mean`` that makes sums cancel or grow."""
    form, size, pad, after = case
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((2, channels, *size)) + mean) * 10 ** rng.uniform(-spread, 0, size)
    w = rng.standard_normal((out, channels, *form.kernel)) + mean
    w *= 10 ** rng.uniform(-spread, 0, form.kernel)
    x, w = x.astype(np.float32), w.astype(np.float32)
    image, weight = torch.from_numpy(x), torch.from_numpy(w)
    exact = reference(form, image, weight, pad, after).numpy()
    got = Case(form, image, weight, pad, after=after).run(nt).transpose(0, 3, 1, 2)
    for one, want, y in zip(x, exact, got, strict=True):
        tiles = in_tiles(form, one, list(zip(pad, after, strict=True)))
        most = points.error_bound(tiles, w, form)[:, : want.shape[1], : want.shape[2]]
        assert (np.abs(y - want) <= most).all()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("side", [8, 14, 28])
def test_a_share_that_is_larger_than_equal_ones_goes_in_blocks(side: int, late: bool) -> None:
    form = Form.square(3, 4)
    x, w = data(1, 3 * LANES, side, side), data(PANEL + 3, 3 * LANES, 3, 3)
    case = Case(form, x, w, (1, 1), late=late)
    for most in (ONE // 16, ONE - ONE // 16):
        cuts = np.array([0, most, ONE])
        np.testing.assert_array_equal(case.run(2, cuts), case.run(1))


def test_threads_share_few_tiles_where_weights_are_near_else_panels() -> None:
    split = cast(Any, wino.split_tiles).py_func
    assert split(2, LANES, 2, False, LANES // 2) == (2, 1)
    assert split(2, LANES, 2, False, LANES) == (1, 2)
    assert split(2, 2 * LANES, 2, False, LANES) == (2, 1)


def test_threads_share_an_odd_number_of_many_tiles_rather_than_transform_all() -> None:
    split = cast(Any, wino.split_tiles).py_func
    assert split(2, 49, 16, False, LANES) == (2, 1)
    assert split(2, 17, 16, False, LANES) == (1, 2)


def test_a_block_stays_with_its_weights_in_the_second_level_cache() -> None:
    form, many = Form.square(3, 4), 10**6
    near = plan.blocking(form, many, 64, 64)
    weights = 4 * plan.PANEL * plan.depth(form, 64) * -(-64 // plan.PANEL)
    assert weights + near.scratch_bytes < plan._SECOND
    far = plan.blocking(form, many, 128, 128)
    assert far.tile_block == 4 * wino.ROWS
    assert near.tile_block < 2 * wino.ROWS or LANES < 16


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
    x, weight = data(2, channels, *shape), kernel(form, out, channels)
    size = reference(form, x, weight, same(form)).shape
    res = {} if mode is None else {"res": data(*size), "mode": mode}
    case = Case(form, x, weight, same(form), bias=data(out), act=(act, -0.5, 0.75), **res)
    assert np.array_equal(case.run(), case.run(nt))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_images_that_are_fetched_ahead(form: Form) -> None:
    """An input and output of more than 4 MiB: the walk over the following block's tiles."""
    x, weight = data(1, 64, 131, 130), kernel(form, 96, 64)
    got = Case(form, x, weight, same(form)).run()
    assert error(got, reference(form, x, weight, same(form))) < bound(form)


def test_a_nan_stays_within_its_tile() -> None:
    x, weight = data(1, 16, 12, 12), data(16, 16, 3, 3)
    x[0, 3, 0, 0] = float("nan")
    got = Case(FOUR, x, weight, (1, 1)).run()
    assert np.isnan(got[0, :2, :2]).all() and np.isfinite(got[0, 4:]).all()


def test_padding_is_never_read() -> None:
    """Whatever lies around the image in memory has no influence."""
    x, weight = data(1, 16, 6, 6), data(8, 16, 3, 3)
    case = Case(FOUR, x, weight, (1, 1))
    want = case.run()
    wide = np.full((1, 8, 8, 16), np.nan, np.float32)
    wide[:, 1:7, 1:7] = case.keep["x"]
    inner = wide.ctypes.data + 4 * (8 * 16 + 16)
    case.values.update(x=inner, x_b=8 * 8 * 16, x_y=8 * 16, x_x=16)
    assert np.array_equal(want, case.run())


@pytest.mark.parametrize("count", range(1, 4 * wino.ROWS + 1))
def test_groups_fit_the_scratch_memory(count: int) -> None:
    """Tiles make no more groups than there is room for."""
    rows: int = cast(Any, plan.rows_of_groups).py_func(count)
    assert 1 <= rows <= wino.ROWS
    full = -(-count // wino.ROWS) * wino.ROWS
    assert -(-count // rows) <= plan._most_groups(full)
