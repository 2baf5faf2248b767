"""The indirect matrix product against float64: geometry, epilogues, special values, threads."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from leptonc.backends.numba_cpu.kernels import igemm_plan, microkernel, pack
from leptonc.backends.numba_cpu.kernels import igemm_record as module
from leptonc.backends.numba_cpu.kernels.activation import Act
from leptonc.backends.numba_cpu.kernels.base import record
from leptonc.backends.numba_cpu.kernels.igemm import COPY_PANELS, grid, igemm
from leptonc.backends.numba_cpu.kernels.igemm_record import (
    FEWEST_WAYS,
    LINE,
    SET_BYTES,
    IGemm,
    Res,
    copy_pitch,
    scratch_bytes,
)
from leptonc.backends.numba_cpu.kernels.microkernel import (
    HALF_HEIGHTS,
    HALF_ROWS,
    HEIGHTS,
    PAIR_HEIGHTS,
    PANEL,
    ROWS,
    equal_pairs,
    equal_tiles,
    pair_rows,
    tile_rows,
)
from leptonc.backends.numba_cpu.kernels.tile_finish import FINISH_ROWS
from leptonc.backends.numba_cpu.kernels.vectype import LANES
from tests.backends.numba_cpu.harness import some_cuts

pytestmark = pytest.mark.numba

CONVS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
THREADS = 3


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + sum(shape)).normal(size=shape).astype(np.float32)


def address(array: np.ndarray | None) -> int:
    return 0 if array is None else array.ctypes.data


def launch(call: IGemm, nt: int = 1, **arrays: np.ndarray | None) -> None:
    """Run ``call`` with the given address fields on ``nt`` threads, one after another."""
    scratch = np.zeros(nt * call.scratch_bytes, np.uint8)
    arrays["scratch"] = scratch
    bound = replace(call, **{name: address(array) for name, array in arrays.items()})
    igemm.run_all(bound.record(), nt, some_cuts(nt, call.columns))


def assert_close(out: np.ndarray, exact: np.ndarray, depth: int) -> None:
    """Compare with a bound that follows from the length of the sums."""
    scale = max(1.0, float(np.abs(exact).max(initial=0.0)))
    np.testing.assert_allclose(out, exact, rtol=0, atol=3e-7 * scale * max(4.0, depth**0.5))


def channels_last(x: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(x.movedim(1, -1).numpy())


@pytest.mark.parametrize("rows", [FINISH_ROWS, FINISH_ROWS + 1, 11 * ROWS + 3])
@pytest.mark.parametrize("mode", [Res.AFTER, Res.TIMES])
def test_tiles_are_finished_once_each_in_any_number(rows, mode):
    depth, columns = 9, PANEL + 3
    a, weight, res = draw(rows, depth), draw(columns, depth), draw(rows, columns, seed=1)
    out = np.full((rows, columns), np.nan, np.float32)
    call = replace(igemm_plan.linear(rows, depth, columns), act=Act.SQUARE, res_mode=mode)
    call = replace(call, row_block=-(-rows // ROWS) * ROWS)
    call = replace(call, scratch_bytes=scratch_bytes(call.row_block, 1))
    launch(call, a=a, b=pack.pack_linear(weight), out=out, res=res)
    squares = (a.astype(np.float64) @ weight.T.astype(np.float64)) ** 2
    assert_close(out, squares * res if mode is Res.TIMES else squares + res, depth)


def test_slots_follow_the_record():
    for i, field in enumerate(fields(IGemm)):
        assert getattr(module, field.name.upper()) == i


@given(
    m=st.integers(0, 3 * ROWS), k=st.integers(0, 70), n=st.integers(0, 3 * PANEL),
    bias=st.booleans(), gap=st.integers(0, 3),
)  # fmt: skip
def test_linear(m, k, n, bias, gap):
    a, w, b = draw(m, k + gap), draw(n, k, seed=1), draw(n, seed=2)
    out = np.full((m, n + gap), 7, np.float32)
    call = igemm_plan.linear(m, k, n, a_row=k + gap, out_row=n + gap)
    launch(call, a=a, b=pack.pack_linear(w), bias=b if bias else None, out=out)
    exact = a[:, :k].astype(np.float64) @ w.T + (b if bias else 0)
    assert_close(out[:, :n], exact, k)
    assert (out[:, n:] == 7).all()


@pytest.mark.parametrize(("m", "k", "n"), [(1, 2100, 70), (130, 2100, 40), (4, 1030, 200)])
def test_long_sums_are_blocked_and_do_not_depend_on_threads(m, k, n):
    a, w, res = draw(m, k), draw(n, k, seed=1), draw(m, n, seed=2)
    call = igemm_plan.linear(m, k, n)
    assert call.depth_block < k
    outs = []
    for nt in (1, 2, 3, 5, 8):
        out = np.empty((m, n), np.float32)
        launch(replace(call, act=Act.RELU), nt, a=a, b=pack.pack_linear(w), out=out, res=res)
        outs.append(out)
    assert_close(outs[0], np.maximum(a.astype(np.float64) @ w.T + res, 0), k)
    for out in outs[1:]:
        np.testing.assert_array_equal(out, outs[0])


@pytest.mark.parametrize("size", [2.0**-20, 1.0, 2.0**20])
@pytest.mark.parametrize(("m", "k", "n"), [(1, 40, 70), (1, 2100, 40), (33, 40, 70), (33, 2100, 9)])
def test_a_residual_of_any_size_is_added_to_the_finished_sums(m, k, n, size):
    a, w, b, res = draw(m, k), draw(n, k, seed=1), draw(n, seed=2), size * draw(m, n, seed=3)
    alone, both = np.empty((2, m, n), np.float32)
    given = {"a": a, "b": pack.pack_linear(w), "bias": b}
    launch(igemm_plan.linear(m, k, n), 2, **given, out=alone)
    launch(igemm_plan.linear(m, k, n), 2, **given, out=both, res=res.astype(np.float32))
    np.testing.assert_array_equal(both, alone + res.astype(np.float32))


@st.composite
def convs(draw_from):
    """Return ``(size, kernel, stride, padding, dilation, groups, inner, outer, batch)``."""
    nd = draw_from(st.integers(1, 3))
    small = st.integers(1, 3)
    lists = [draw_from(st.lists(small, min_size=nd, max_size=nd)) for _ in range(3)]
    kernel, stride, dilation = lists
    padding = [draw_from(st.integers(0, 2)) for _ in range(nd)]
    top = {1: 40, 2: 11, 3: 6}[nd]
    size = [draw_from(st.integers(d * (k - 1) + 1, d * (k - 1) + top))
            for k, d in zip(kernel, dilation, strict=True)]  # fmt: skip
    groups, batch = draw_from(st.sampled_from([1, 1, 2, 3])), draw_from(st.integers(1, 2))
    inner, outer = draw_from(st.integers(1, 9)), draw_from(st.integers(1, PANEL + 3))
    return size, kernel, stride, padding, dilation, groups, inner * groups, outer * groups, batch


@given(convs(), st.sampled_from([Act.NONE, Act.RELU, Act.SILU]), st.sampled_from([None, *Res]))
def test_conv(case, act, res_mode):
    size, kernel, stride, padding, dilation, groups, inner, outer, batch = case
    x, w = draw(batch, inner, *size), draw(outer, inner // groups, *kernel, seed=1)
    b = draw(outer, seed=2)
    plan = igemm_plan.conv(
        batch, inner, size, outer, kernel, stride=stride, padding=[(p, p) for p in padding],
        dilation=dilation, groups=groups,
    )  # fmt: skip
    exact = CONVS[len(size)](
        torch.from_numpy(x).double(), torch.from_numpy(w).double(), torch.from_numpy(b).double(),
        stride=stride, padding=padding, dilation=dilation, groups=groups,
    )  # fmt: skip
    out = np.full(channels_last(exact).shape, 7, np.float32)
    res = draw(*out.shape, seed=3)
    call = replace(plan.call, act=act, res_mode=res_mode or Res.BEFORE)
    launch(
        call, THREADS, a=channels_last(torch.from_numpy(x)), b=pack.pack_conv(w, groups), bias=b,
        out=out, res=None if res_mode is None else res, tap_table=plan.tap_table,
        zero_row=np.zeros(max(plan.zero_floats, 1), np.float32),
    )  # fmt: skip
    assert_close(out, finish(exact, res, act, res_mode), inner * np.prod(kernel))


def finish(exact: torch.Tensor, res: np.ndarray, act: Act, res_mode: Res | None) -> np.ndarray:
    """Return the float64 epilogue of a channels-first result, channels-last."""
    y, r = exact.movedim(1, -1), torch.from_numpy(res).double()
    y = y + r if res_mode is Res.BEFORE else y
    y = {Act.NONE: lambda v: v, Act.RELU: F.relu, Act.SILU: F.silu}[act](y)
    y = y + r if res_mode is Res.AFTER else y
    y = y * r if res_mode is Res.TIMES else y
    return y.numpy()


@given(convs(), st.data())
def test_transposed_conv(case, data):
    size, kernel, stride, padding, dilation, groups, inner, outer, batch = case
    extra = [
        data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
    ]
    padding = [min(p, d * (k - 1) // 2) for p, k, d in zip(padding, kernel, dilation, strict=True)]
    x, w = draw(batch, inner, *size), draw(inner, outer // groups, *kernel, seed=1)
    b = draw(outer, seed=2)
    exact = TRANSPOSED[len(size)](
        torch.from_numpy(x).double(), torch.from_numpy(w).double(), torch.from_numpy(b).double(),
        stride=stride, padding=padding, output_padding=extra, groups=groups, dilation=dilation,
    )  # fmt: skip
    exact = channels_last(exact)
    out = np.full(exact.shape, 7, np.float32)
    plans = igemm_plan.transposed_conv(
        batch, inner, size, outer, kernel, stride=stride, padding=padding, dilation=dilation,
        output_padding=extra, groups=groups,
    )  # fmt: skip
    for plan in plans:
        launch(
            replace(plan.call), a=channels_last(torch.from_numpy(x)), bias=b,
            b=pack.pack_conv_taps(w, plan.kernel_taps, groups), out=out.ravel()[plan.out_offset :],
            tap_table=plan.tap_table, zero_row=np.zeros(max(plan.zero_floats, 1), np.float32),
        )  # fmt: skip
    assert_close(out, exact, inner * np.prod(kernel))


@pytest.mark.parametrize("channels_first", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "pad"), [(7, 2, 3), (3, 1, 1), (3, 2, 0), (1, 1, 0)])
def test_first_layer_with_merged_taps(kernel, stride, pad, channels_first):
    batch, c, h, w, out_c = 2, 3, 19, 37, 20
    x, weight = draw(batch, c, h, w), draw(out_c, c, kernel, kernel, seed=1)
    plan = igemm_plan.conv(
        batch, c, (h, w), out_c, (kernel, kernel), stride=(stride,) * 2, padding=[(pad, pad)] * 2,
        dilation=(1, 1),
    )  # fmt: skip
    width = w + 2 * pad
    plan = igemm_plan.merged_conv(plan, kernel, width, pad)
    lines = np.full((batch, h, width, c), np.nan, np.float32)
    source = x if channels_first else channels_last(torch.from_numpy(x))
    n, y, xx, ch = np.array(source.strides)[[0, 2, 3, 1] if channels_first else [0, 1, 2, 3]] // 4
    pack.pad_image.run_all(
        record(batch * h, w, c, source, n, y, h, xx, ch, lines, pad, width), THREADS
    )
    exact = F.conv2d(
        torch.from_numpy(x).double(), torch.from_numpy(weight).double(), None, stride, pad
    )
    out = np.empty(channels_last(exact).shape, np.float32)
    launch(
        plan.call, THREADS, a=lines, b=pack.pack_conv(weight), out=out, tap_table=plan.tap_table,
        zero_row=np.zeros(plan.zero_floats, np.float32),
    )  # fmt: skip
    assert_close(out, channels_last(exact), c * kernel**2)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    "size", [(5, 7, 3), (17, 64, 2 * PANEL), (33, 20, PANEL + 5), (15, 37, 2 * PANEL)]
)
def test_batched_matmul_packs_b_at_run_time(size, transposed):
    m, k, n = size
    batch, heads, scale = 2, 3, 0.25
    a = draw(batch, m, heads, k)
    b = draw(batch, n, heads, k, seed=1) if transposed else draw(batch, k, heads, n, seed=1)
    row, col = (1, heads * k) if transposed else (heads * n, 1)
    floats = igemm_plan.packed_matmul_b(n, k)
    packed = np.full(batch * heads * floats, np.nan, np.float32)
    inner = k if transposed else n
    pack.pack_b.run_all(
        record(batch, heads, k, n, b, b[0].size, inner, row, col, packed, heads * floats, floats,
        scale), THREADS,
    )  # fmt: skip
    out = np.empty((batch, heads, m, n), np.float32)
    call = replace(
        igemm_plan.linear(m, k, n, a_row=heads * k), outer0=batch, outer1=heads,
        a_o0=a[0].size, a_o1=k, b_o0=heads * floats, b_o1=floats,
        out_o0=heads * m * n, out_o1=m * n,
    )  # fmt: skip
    launch(call, THREADS, a=a, b=packed, out=out)
    spec = "bmhk,bnhk->bhmn" if transposed else "bmhk,bkhn->bhmn"
    assert_close(out, np.einsum(spec, a.astype(np.float64), b) * scale, k)


@given(
    m=st.integers(1, 3 * ROWS), k=st.integers(0, 40), depth_block=st.integers(1, 40),
    panels=st.integers(1, COPY_PANELS + 1),
)  # fmt: skip
def test_a_copied_block_of_rows_gives_the_same_bits(m, k, depth_block, panels):
    n, stride = panels * PANEL - 3, max(k, 1) + 2
    a, w = draw(m, stride), draw(n, k, seed=1)
    call = replace(igemm_plan.linear(m, k, n, a_row=stride), depth_block=depth_block)
    pitch = copy_pitch(1024, depth_block) or 16 * -(-depth_block // 16)
    copied = replace(
        call, pitch=pitch, scratch_bytes=scratch_bytes(call.row_block, call.tap_block, pitch)
    )
    outs = [np.full((m, n), np.nan, np.float32) for _ in range(2)]
    for one, out in zip((call, copied), outs, strict=True):
        launch(one, 2, a=a, b=pack.pack_linear(w), out=out)
    np.testing.assert_array_equal(outs[0], outs[1])
    assert_close(outs[1], a[:, :k].astype(np.float64) @ w.T, k)


def test_copied_rows_of_a_convolution_include_the_zero_row():
    channels, out_c = 9, (COPY_PANELS + 1) * PANEL
    plan = igemm_plan.conv(
        1, channels, (5, 6), out_c, (3, 3), stride=(1, 1), padding=[(1, 1)] * 2, dilation=(1, 1)
    )
    x, w = draw(1, 5, 6, channels), draw(out_c, channels, 3, 3, seed=1)
    size = scratch_bytes(plan.call.row_block, 2, 16)
    outs = []
    for changes in ({}, {"tap_block": 2, "pitch": 16, "scratch_bytes": size}):
        out = np.empty((30, out_c), np.float32)
        launch(replace(plan.call, **changes), 2, a=x, b=pack.pack_conv(w), out=out,
               tap_table=plan.tap_table, zero_row=np.zeros(channels, np.float32))  # fmt: skip
        outs.append(out)
    np.testing.assert_array_equal(outs[0], outs[1])


@pytest.mark.parametrize("floats", [1024, 2048, 3072])
def test_rows_a_page_apart_are_copied_where_a_tile_outgrows_the_ways(floats):
    call = igemm_plan.spread_rows(igemm_plan.linear(100, floats, 100))
    assert (call.pitch > 0) == (ROWS > FEWEST_WAYS)
    if call.pitch:
        sets = {4 * call.pitch * i % SET_BYTES // LINE for i in range(ROWS)}
        assert len(sets) == ROWS
        assert call.pitch >= call.depth_block
    for other in (floats - 1, floats + 512, 0):
        assert igemm_plan.spread_rows(replace(call, a_x=other)).pitch == 0


@pytest.mark.parametrize(
    ("rows", "panels", "parts"),
    [
        (1225, 2, (1, 2, 1)),  # 35 x 35 pixels: half a row is not worth reading all of them
        (289, 6, (1, 2, 1)),
        (196, 8, (1, 2, 1)),
        (49, 64, (1, 1, 2)),  # few rows of many columns
        (16, 24, (1, 1, 2)),
        (1, 64, (1, 1, 2)),
    ],
)
def test_two_threads_share_what_costs_least_to_read(rows, panels, parts):
    assert cast(Any, grid).py_func(2, 1, rows, panels) == parts


@pytest.mark.parametrize("width", [1, LANES, LANES + 1, PANEL])
@pytest.mark.parametrize("rows", range(1, 5 * ROWS + 2))
def test_high_tiles_then_three_that_share_what_is_left(rows, width):
    heights = HEIGHTS if width > LANES else HALF_HEIGHTS
    plain = cast(Any, tile_rows).py_func
    top = ROWS if width > LANES else HALF_ROWS
    left, work, taken = rows, 0, []
    while left:
        some = plain(left, width)
        assert some in heights or some == left
        assert some <= top
        work += min(h for h in heights if h >= some)
        left -= some
        taken.append(some)
    assert all(some == top for some in taken[:-3])
    assert len(taken) == -(-rows // top)
    if heights == HEIGHTS and rows > ROWS + 1:
        assert work <= 1.1 * rows


@pytest.mark.parametrize("nt", [1, 2, 3, 5])
@pytest.mark.parametrize("k", [0, 1, 7, 8, 9, 31, 1500])
@pytest.mark.parametrize("n", [1, LANES, LANES + 1, 3 * PANEL + 2])
def test_one_row(n, k, nt):
    a, w, b = draw(1, k), draw(n, k, seed=1), draw(n, seed=2)
    res, out = draw(1, n, seed=3), np.full((1, n + 1), 7, np.float32)
    call = replace(igemm_plan.linear(1, k, n, out_row=n + 1), act=Act.RELU)
    launch(call, nt, a=a, b=pack.pack_linear(w), bias=b, res=res, out=out)
    assert_close(out[:, :n], np.maximum(a.astype(np.float64) @ w.T + b + res, 0), k)
    assert (out[:, n:] == 7).all()
    alone = np.empty((1, n), np.float32)
    launch(igemm_plan.linear(1, k, n), 1, a=a, b=pack.pack_linear(w), bias=b, res=res, out=alone)
    np.testing.assert_array_equal(out[:, :n], np.maximum(alone, 0))


def test_special_values_spread_as_in_ieee():
    m, k, n = 20, 9, PANEL + 5
    a, w = draw(m, k), draw(n, k, seed=1)
    a[3, 2], a[5, 1], w[7, 4] = np.nan, np.inf, np.inf
    for act, function in ((Act.NONE, lambda v: v), (Act.RELU, lambda v: np.where(v < 0, 0, v))):
        out = np.empty((m, n), np.float32)
        call = replace(igemm_plan.linear(m, k, n), act=act)
        launch(call, a=a, b=pack.pack_linear(w), out=out)
        exact = function(a.astype(np.float64) @ w.T.astype(np.float64)).astype(np.float32)
        np.testing.assert_allclose(out, exact, rtol=1e-4, atol=1e-5)


def test_residual_may_be_the_output():
    a, w, out = draw(40, 70), draw(50, 70, seed=1), draw(40, 50, seed=2)
    exact = a.astype(np.float64) @ w.T + out
    launch(igemm_plan.linear(40, 70, 50), 2, a=a, b=pack.pack_linear(w), out=out, res=out)
    assert_close(out, exact, 70)


def test_blocks_of_rows_and_taps_give_the_same_bits():
    plan = igemm_plan.conv(
        1, 5, (9, 9), 40, (3, 3), stride=(1, 1), padding=[(1, 1)] * 2, dilation=(1, 1)
    )
    x, w = draw(1, 9, 9, 5), draw(40, 5, 3, 3, seed=1)
    outs = []
    for rows, taps in ((ROWS, 1), (2 * ROWS, 4), (16 * ROWS, 9)):
        call = replace(
            plan.call, row_block=rows, tap_block=taps, scratch_bytes=scratch_bytes(rows, taps)
        )
        out = np.empty((81, 40), np.float32)
        launch(call, 2, a=x, b=pack.pack_conv(w), out=out, tap_table=plan.tap_table,
               zero_row=np.zeros(5, np.float32))  # fmt: skip
        outs.append(out)
    for out in outs[1:]:
        np.testing.assert_array_equal(out, outs[0])


@pytest.mark.parametrize("width", [1, LANES, LANES + 1, PANEL])
def test_tiles_of_one_call_are_those_of_single_calls(width, monkeypatch):
    rows, many = cast(Any, tile_rows).py_func, cast(Any, equal_tiles).py_func
    monkeypatch.setattr(microkernel, "tile_rows", rows)
    for count in range(1, 12 * ROWS):
        left, single, grouped = count, [], []
        while left > 0:
            single.append(rows(left, width))
            left -= single[-1]
        left = count
        while left > 0:
            some = rows(left, width)
            grouped += [some] * many(left, some, width)
            left = count - sum(grouped)
        assert grouped == single


@pytest.mark.skipif(not PAIR_HEIGHTS, reason="no tile takes two panels")
@pytest.mark.parametrize("rows", range(1, 60))
def test_rows_of_two_panels_are_high_tiles_then_three_that_share_what_is_left(rows):
    height, many = cast(Any, pair_rows).py_func, cast(Any, equal_pairs).py_func
    top, left, single, grouped = PAIR_HEIGHTS[0], rows, [], []
    while left > 0:
        single.append(height(left))
        left -= single[-1]
    while (left := rows - sum(grouped)) > 0:
        grouped += [height(left)] * many(left, height(left))
    assert grouped == single
    assert all(some == top for some in single[:-3])
    assert len(single) == -(-rows // top)
    assert rows < top or min(single) >= top // 2


@pytest.mark.parametrize("act", [Act.NONE, Act.RELU, Act.SILU])
@pytest.mark.parametrize("rows", [6, 7, 13, 24, 90])
@pytest.mark.parametrize("columns", [2 * PANEL, 2 * PANEL + 1, 4 * PANEL - 1])
def test_panels_side_by_side_have_the_bits_of_each_alone(columns, rows, act):
    k, given = 70, {"a": draw(rows, 70), "bias": draw(columns, seed=2)}
    w, res = draw(columns, k, seed=1), draw(rows, columns, seed=3)
    call = replace(igemm_plan.linear(rows, k, columns), act=act, res_mode=Res.AFTER)
    out = np.full((rows, columns), np.nan, np.float32)
    launch(call, **given, b=pack.pack_linear(w), out=out, res=res)
    for begin in range(0, columns, PANEL):
        some = slice(begin, min(begin + PANEL, columns))
        width = some.stop - begin
        one = replace(igemm_plan.linear(rows, k, width), act=act, res_mode=Res.AFTER)
        alone = np.full((rows, width), np.nan, np.float32)
        launch(one, a=given["a"], bias=given["bias"][some].copy(), b=pack.pack_linear(w[some]),
               out=alone, res=res[:, some].copy())  # fmt: skip
        np.testing.assert_array_equal(out[:, some], alone)


@given(rows=st.integers(1, 20_000), depth=st.integers(1, 4096), columns=st.integers(1, 4096))
def test_blocks_are_even_and_larger_only_where_sums_are_short(rows, depth, columns):
    block = igemm_plan.linear(rows, depth, columns).row_block
    blocks, tiles, all_tiles = -(-rows // block), block // ROWS, -(-rows // ROWS)
    assert tiles == -(-all_tiles // blocks)
    if depth * columns <= igemm_plan.B_BLOCK and tiles > igemm_plan.TILES_BESIDE_B:
        assert tiles * depth <= igemm_plan.BLOCK_PRODUCTS
