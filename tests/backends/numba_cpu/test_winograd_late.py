"""Products of Winograd whose weights are transformed as they are used."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from leptonc.backends.numba_cpu.kernels import winograd_plan as plan
from leptonc.backends.numba_cpu.kernels import winograd_points as points
from leptonc.backends.numba_cpu.kernels.activation import Act
from leptonc.backends.numba_cpu.kernels.igemm_record import Res
from leptonc.backends.numba_cpu.kernels.microkernel import ROWS
from leptonc.backends.numba_cpu.kernels.vectype import LANES
from leptonc.backends.numba_cpu.kernels.winograd_late import LATE
from leptonc.backends.numba_cpu.kernels.winograd_late_few import MOST_FEW
from leptonc.backends.numba_cpu.kernels.winograd_late_tile import scales, sets, slots_of
from leptonc.backends.numba_cpu.kernels.winograd_points import Form
from leptonc.backends.numba_cpu.lower.choices import Answer
from leptonc.backends.numba_cpu.lower.contract import lower_contract
from leptonc.backends.numba_cpu.lower.conv_choice import (
    Algorithm,
    ConvShape,
    costs,
    held_bytes,
)
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.peaks import lower_peaks
from leptonc.ir.core import Function
from leptonc.ir.kinds.contract import Conv
from leptonc.ir.kinds.unary import Relu
from tests.backends.numba_cpu.harness import Run
from tests.backends.numba_cpu.test_lines import POOL, function, values
from tests.backends.numba_cpu.test_winograd import (
    Case,
    bound,
    data,
    error,
    in_tiles,
    kernel,
    reference,
    same,
)

pytestmark = pytest.mark.numba
FORMS = list(LATE)
#: Channels: whole vectors, and some that a block of them does not divide.
CHANNELS = st.integers(1, 11).map(lambda v: v * LANES)


@pytest.mark.parametrize("form", FORMS, ids=str)
@given(
    channels=CHANNELS,
    size=st.tuples(st.integers(1, 22), st.integers(1, 22)),
    out=st.integers(1, 80),
    seed=st.integers(0, 2**32 - 1),
    spread=st.floats(0, 6),
    mean=st.floats(-3, 3),
    nt=st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_every_output_is_within_its_bound(form, channels, size, out, seed, spread, mean, nt):
    """Magnitudes over ``spread`` decades, a ``mean`` that makes sums cancel or grow."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((2, channels, *size)) + mean) * 10 ** rng.uniform(-spread, 0, size)
    w = rng.standard_normal((out, channels, *form.kernel)) + mean
    w *= 10 ** rng.uniform(-spread, 0, form.kernel)
    x, w = x.astype(np.float32), w.astype(np.float32)
    image, weight, pad = torch.from_numpy(x), torch.from_numpy(w), same(form)
    exact = reference(form, image, weight, pad).numpy()
    got = Case(form, image, weight, pad, late=True).run(nt).transpose(0, 3, 1, 2)
    for one, want, y in zip(x, exact, got, strict=True):
        tiles = in_tiles(form, one, [(p, p) for p in pad])
        most = points.error_bound(tiles, w, form, late=True)
        assert (np.abs(y - want) <= most[:, : want.shape[1], : want.shape[2]]).all()


@pytest.mark.parametrize("form", FORMS, ids=str)
@given(
    shape=st.tuples(*(st.integers(1, 23) for _ in range(2))),
    channels=CHANNELS,
    out=st.integers(1, 80),
    nt=st.integers(2, 6),
    mode=st.sampled_from([None, *Res]),
    act=st.sampled_from([Act.NONE, Act.RELU, Act.RELU6, Act.CLAMP, Act.SILU]),
)
@settings(max_examples=30, deadline=None)
def test_any_thread_count_gives_the_same_bits(form, shape, channels, out, nt, mode, act) -> None:
    x, weight = data(2, channels, *shape), kernel(form, out, channels)
    res = {} if mode is None else {"res": data(2, out, *shape), "mode": mode}
    options = {"bias": data(out), "act": (act, -0.5, 0.75), "late": True, **res}
    case = Case(form, x, weight, same(form), **options)
    got = case.run()
    assert np.array_equal(got, case.run(nt))
    early = Case(form, x, weight, same(form), **(options | {"late": False})).run()
    # The epilogue is that of weights transformed before; sums differ by their roundings. No
    # activation is steeper than 1.1.
    sums = float(reference(form, x, weight, same(form)).abs().max())
    steep = 1.1 * max(1.0, float(res["res"].abs().max()) if res else 1.0)
    assert np.abs(got - early).max() <= 2 * bound(form) * sums * steep


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_long_sums_err_less_than_one_chain(form) -> None:
    """Of few tiles: sums of some channels are added up."""
    x, weight = data(1, 512, 7, 7), kernel(form, 64, 512)
    want = reference(form, x, weight, same(form))
    late, early = (
        error(Case(form, x, weight, same(form), late=late).run(), want) for late in (True, False)
    )
    assert late < 0.6 * early


@given(
    tiles=st.tuples(st.integers(1, 5), st.integers(1, 5)).filter(
        lambda n: math.prod(n) <= MOST_FEW
    ),
    vectors=st.integers(1, 2), out=st.integers(1, 80), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_each_of_few_tiles_is_computed_as_if_it_were_alone(tiles, vectors, out, seed) -> None:
    """Whatever the group that it is in; the channels are one block for all groups."""
    form, rng = Form.square(3, 4), np.random.default_rng(seed)
    size = [4 * n + 2 for n in tiles]
    x = torch.from_numpy(rng.standard_normal((1, vectors * LANES, *size), np.float32))
    weight = torch.from_numpy(rng.standard_normal((out, vectors * LANES, 3, 3), np.float32))
    case = Case(form, x, weight, (0, 0), late=True)
    assert case.values["products"] != 0
    got = case.run()[0]
    for y, x0 in ((4 * i, 4 * j) for i, j in np.ndindex(*tiles)):
        part = x[:, :, y : y + 6, x0 : x0 + 6].contiguous()
        alone = Case(form, part, weight, (0, 0), late=True).run()[0]
        assert np.array_equal(got[y : y + 4, x0 : x0 + 4], alone)


@pytest.mark.parametrize("form", [f for f in FORMS if f.pools], ids=str)
def test_pooled_has_the_bits_of_a_pool_behind(form) -> None:
    x, weight, bias = data(1, 2 * LANES, 8, 8), kernel(form, 40, 2 * LANES), data(40)
    options = {"bias": bias, "act": (Act.RELU, 0.0, 0.0), "late": True}
    plain = torch.from_numpy(Case(form, x, weight, (1, 1), **options).run())
    want = nn.functional.max_pool2d(plain.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(Case(form, x, weight, (1, 1), pool=2, **options).run(2), want)


@pytest.mark.parametrize("form", FORMS, ids=str)
@given(channels=CHANNELS, batch=st.integers(1, 3), size=st.integers(9, 30), nt=st.integers(1, 2))
@settings(max_examples=20, deadline=None)
def test_blocks_do_not_change_a_bit(form, channels, batch, size, nt) -> None:
    x, weight = data(batch, channels, size, size), kernel(form, 70, channels)
    want = Case(form, x, weight, same(form), late=True).run()
    full = plan.blocking(form, 10**6, channels, 70, LATE[form][-1])
    small = plan.Blocking(ROWS, 1, full.scratch_bytes)
    got = Case(form, x, weight, same(form), late=True, blocks=small).run(nt)
    assert np.array_equal(want, got)


@given(out=st.integers(1, 70), inner=st.integers(1, 40), vectors=st.sampled_from([1, 2]))
def test_packed_weights_are_where_they_are_read(out: int, inner: int, vectors: int) -> None:
    weight = data(out, inner, 3, 3).numpy()
    packed = plan.pack_late(weight, vectors)
    assert packed.shape[1:] == (inner, 9, vectors * LANES)
    back = packed.transpose(0, 3, 1, 2).reshape(-1, inner, 3, 3)
    np.testing.assert_array_equal(back[:out], weight)
    assert not back[out:].any()


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_plane_is_made_once(form) -> None:
    *few, many = LATE[form]
    assert many.line is not None
    for late in few:
        assert [j for some in sets(form, late.height) for j in some] == list(range(form.x.n))
    rows = [key for i in range(form.y.n) for key in slots_of(form, i)]
    assert len(rows) == plan.depth(form, LANES) // LANES
    assert max(len(slots_of(form, i)) for i in range(form.y.n)) == len(slots_of(form, 0))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_rows_of_g_are_scaled_powers_of_their_points(form) -> None:
    for axis in form:
        taps = len(axis.phases[0])
        powers = np.power.outer(points.POINTS[axis].all, np.arange(taps))
        made = np.array(scales(axis))[:, None] * [*powers, np.eye(taps)[-1]]
        np.testing.assert_allclose(made, points.matrices(axis).g)


def square(channels: int, size: int, batch: int = 1, stride: int = 1) -> ConvShape:
    """Return a convolution to ``size`` lines."""
    one, two, image = (1, 1), (size, size), (size * stride,) * 2
    return ConvShape(batch, channels, image, 512, (3, 3), (stride,) * 2, one, one, 1, two)


L4, L2 = Algorithm.LATE_4, Algorithm.LATE_PHASES


def test_offered_for_some_tiles_and_whole_vectors_of_channels() -> None:
    for shape in (square(512, 7), square(512, 7, batch=2), square(512, 36)):
        assert L4 in costs(shape, "fp32") and L2 not in costs(shape, "fp32")
        assert L4 not in costs(shape, "strict")
    for shape in (square(512, 7, stride=2), square(512, 7, 4, 2), square(512, 18, stride=2)):
        assert L2 in costs(shape, "fp32") and L4 not in costs(shape, "fp32")
        assert L2 not in costs(shape, "strict")
    others = [square(512, 37), square(512, 32, batch=2), square(512 + LANES // 2, 7)]
    others += [square(512, 19, stride=2), square(512 + LANES // 2, 7, stride=2)]
    assert all({L4, L2}.isdisjoint(costs(shape, "fp32")) for shape in others)


def test_holds_no_more_than_the_weights() -> None:
    for shape in (square(512, 7), square(512, 14)):
        assert held_bytes(shape, L4) == held_bytes(shape, Algorithm.IGEMM)
    shape = square(512, 7, stride=2)
    assert held_bytes(shape, L2) == held_bytes(shape, Algorithm.IGEMM)
    assert held_bytes(shape, L2) < held_bytes(shape, Algorithm.PHASES_2) / 2.7


class Always(dict[str, Answer]):
    """Answers that name one way whatever the question."""

    def __init__(self, way: Algorithm) -> None:
        super().__init__()
        self.way = way

    def get(self, key: str, default: Any = None) -> Answer:
        """Return it."""
        del key, default
        return Answer(self.way.value, "asked for")


def by_late(
    lower: Callable[[Lowering, Function], bool | None], ctx: Lowering, fn: Function,
    way: Algorithm = L4,
):  # fmt: skip
    """Lower a convolution with late weights."""
    ctx.answers = Always(way)
    return lower(ctx, fn)


@given(
    channels=st.integers(1, 5).map(lambda v: v * LANES), out=st.integers(LANES, 70),
    size=st.tuples(st.integers(2, 31), st.integers(2, 31)), nt=st.integers(1, 3),
)  # fmt: skip
@settings(max_examples=15, deadline=None)
def test_a_convolution_of_stride_2_runs_so(channels, out, size, nt) -> None:
    x, w, bias = values(1, channels, *size), values(out, channels, 3, 3), values(out)
    conv = Conv((2, 2), (1, 1), (1, 1), 1)
    late = functools.partial(by_late, lower_contract, way=L2)
    run = Run(function(x, w, bias, conv, Relu()), nt, late)
    (got,) = run(x)
    assert {step.kernel.name for step in run.steps} >= {"winograd"}
    exact = nn.functional.conv2d(x.double(), w.double(), bias.double(), stride=2, padding=1)
    most = bound(Form.square(3, 2, 2)) * float(exact.abs().max())
    assert float((got - exact.relu()).abs().max()) < most


@given(
    channels=st.integers(1, 5).map(lambda v: v * LANES), out=st.integers(LANES, 70),
    half=st.tuples(st.integers(1, 8), st.integers(1, 8)), nt=st.integers(1, 3),
)  # fmt: skip
@settings(max_examples=15, deadline=None)
def test_a_convolution_and_its_pool_run_so(channels, out, half, nt) -> None:
    size = (2 * half[0], 2 * half[1])  # as many tiles with a pool behind
    x, w, bias = values(1, channels, *size), values(out, channels, 3, 3), values(out)
    conv = Conv((1, 1), (1, 1), (1, 1), 1)
    late = functools.partial(by_late, lower_contract)
    (got,) = Run(function(x, w, bias, conv, Relu()), nt, late)(x)
    exact = nn.functional.conv2d(x.double(), w.double(), bias.double(), padding=1)
    assert float((got - exact.relu()).abs().max()) < bound(FORMS[0]) * float(exact.abs().max())
    pooled = Run(
        function(x, w, bias, conv, Relu(), POOL), nt, functools.partial(by_late, lower_peaks)
    )
    names = {step.kernel.name for step in pooled.steps}
    assert "winograd" in names and "pool" not in names
    assert torch.equal(pooled(x)[0], nn.functional.max_pool2d(got, 2))
