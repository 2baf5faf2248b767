"""Winograd on codes: the bits of the meaning and the direct kernel; its bound; who chooses it."""

from __future__ import annotations

import dataclasses
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import leptonc
from leptonc import meaning
from leptonc.backends.numba_cpu.kernels import int8_winograd_plan as plan
from leptonc.backends.numba_cpu.kernels.int8_winograd_forms import FORMS, LARGEST_CODE
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL
from leptonc.backends.numba_cpu.kernels.vectype import LANES
from leptonc.backends.numba_cpu.lower import int8_choice, questions
from leptonc.backends.numba_cpu.lower.choices import MARGIN, Answer
from leptonc.backends.numba_cpu.lower.conv_choice import Algorithm, ConvShape
from leptonc.backends.numba_cpu.lower.int8_choice import int_costs
from leptonc.backends.numba_cpu.lower.quantized import lower_int_unit
from leptonc.ir.core import Builder, Function, Kind, Value
from leptonc.ir.kinds import binary, pointwise, unary
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.quantize import Dequantize, IntConv, Quantize
from leptonc.ir.types import DType, TensorType
from leptonc.passes.fusing.policy import FEW_CHANNELS
from tests.backends.numba_cpu.harness import Run
from tests.backends.numba_cpu.test_int8 import CODES, Case, check, codes, const, number

pytestmark = pytest.mark.numba
FEWEST = max(LANES, FEW_CHANNELS + 1)  # channels from which on it is offered
WAYS = {"winograd2": FORMS[2], "winograd4": FORMS[4]}
BOTH = pytest.mark.parametrize("way", list(WAYS))
#: The matrices of Lavin & Gray, ``A`` with what the rows of ``G`` leave of ``root``.
BT = {
    2: np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]),
    4: np.array([[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
                 [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]),
}  # fmt: skip
AT = {
    2: np.array([[1, 1, 1, 0], [0, 1, -1, -1]]),
    4: np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0],
                 [0, 1, -1, 8, -8, 2]]),
}  # fmt: skip


def answers(fn: Function, way: str = "winograd2") -> dict[str, Answer]:
    """Return the answers that take ``way``, which every question must offer."""
    found = list(questions.asked(fn, "fp32", questions.FAR))
    assert found and all(way in q.costs for q in found)
    return {q.key: Answer(way, "test") for q in found}


class WinogradCase(Case):
    """A unit whose root is a 3x3 convolution with stride 1, computed by Winograd's algorithm."""

    def __init__(self, data: st.DataObject, way: str) -> None:
        super().__init__(data, "conv")
        self.answers = answers(self.fn, way)

    def conv(self) -> Value:
        """Return a convolution of any size, 1x1 images included."""
        c, n = (self.pick(st.integers(FEWEST, most)) for most in (FEWEST + 40, FEWEST + 60))
        size = [self.pick(st.integers(1, 9)) for _ in range(2)]
        pads = [self.pick(st.integers(1 if s < 3 else 0, 2)) for s in (*size, *size)]
        layout = self.pick(st.sampled_from([None, (0, 2, 3, 1)]))
        dtype = self.pick(st.sampled_from(list(CODES)))
        x, zero = self.image(dtype, (self.pick(st.integers(1, 2)), c, *size), layout)
        kind = IntConv((1, 1), tuple(pads[:2]), (1, 1), 1, tuple(pads[2:]), zero)
        w = const(self.b, codes(self.g, DType.I8, n, c, 3, 3))
        return self.b(kind, x, w, *self.scale(n))


@BOTH
@given(data=st.data(), threads=st.integers(1, 3))
def test_units_give_the_bits_of_their_meaning(
    way: str, data: st.DataObject, threads: int
) -> None:  # fmt: skip
    check(WinogradCase(data, way), threads, ("int8_winograd",))


def unit(act: Kind | None, late: str, codes_out: bool) -> tuple[Function, list[torch.Tensor]]:
    """Return a unit on an image of many tiles with an epilogue, and what it reads."""
    g, c, n, size = torch.Generator().manual_seed(5), FEWEST + 7, PANEL + LANES + 3, 17
    b, last = Builder("unit"), (0, 2, 3, 1)
    args = [codes(g, DType.U8, 2, c, size, size)]
    x = b.param(TensorType(DType.U8, tuple(args[0].shape), last))
    w = const(b, codes(g, DType.I8, n, c, 3, 3))
    v = b(IntConv((1, 1), (1, 1), (1, 1), 1, (), 31), x, w, const(b, torch.full((n,), 1e-5)))
    v = v if act is None else b(act, v)
    shape = tuple(int(d) for d in v.type.shape)
    if late == "float":
        args.append(torch.randn(shape, generator=g))
        v = b(binary.Mul(), v, b.param(TensorType(DType.F32, shape, last)))
    elif late == "codes":
        args.append(codes(g, DType.I8, *shape))
        held = b.param(TensorType(DType.I8, shape, last))
        v = b(binary.Add(), v, b(Dequantize(), held, number(b, 0.02)))
    if codes_out:
        v = b(Quantize(0, 255, DType.U8), v, number(b, 0.05), number(b, 9, torch.int32))
    return b.finish(v), args


def result(fn: Function, args: list[torch.Tensor], way: str, threads: int) -> torch.Tensor:
    """Return what the kernel of ``way`` makes of a unit."""

    def lower(ctx, body):
        ctx.answers = answers(body, way)
        return lower_int_unit(ctx, body)

    run = Run(fn, threads, lower)
    assert ("int8_winograd" in {s.kernel.name for s in run.steps}) == (way in WAYS)
    run.bind(*args)
    run.run()
    return run.results()[0]


@pytest.mark.parametrize("act", [None, unary.Silu(), pointwise.Clamp(0.5, 2.0), unary.HardSwish()])
@pytest.mark.parametrize("codes_out", [True, False])
@pytest.mark.parametrize("late", ["none", "float", "codes"])
def test_every_epilogue_gives_the_bits_of_the_direct_kernel(
    act: Kind | None, codes_out: bool, late: str
) -> None:
    fn, args = unit(act, late, codes_out)
    want = result(fn, args, "igemm", 1)
    for way in WAYS:
        assert torch.equal(result(fn, args, way, 2), want)
        with patch.object(plan, "V_BYTES", 1):  # many small blocks
            assert torch.equal(result(fn, args, way, 3), want)


# ----- exactness ----------------------------------------------------------------------------------


def convolution(
    x: torch.Tensor, w: torch.Tensor, padding: int = 0
) -> tuple[Function, list[torch.Tensor]]:
    """Return a convolution of channels-last codes that ends as the sums themselves."""
    b = Builder("sums")
    at = b.param(TensorType(DType.U8, tuple(x.shape), (0, 2, 3, 1)))
    kind = IntConv((1, 1), (padding, padding), (1, 1))
    return b.finish(b(kind, at, const(b, w), const(b, torch.ones(len(w))))), [x]


def multiplied(v: np.ndarray, packed: np.ndarray, columns: int) -> np.ndarray:
    """Return the sums ``int64[columns, side, side]`` of the planes of ``v: [c, side, side]``."""
    side, pairs = v.shape[1], packed.shape[2]
    flat = packed.astype(np.int64).transpose(0, 3, 1, 2, 4).reshape(-1, side**2, 2 * pairs)
    assert not flat[columns:].any() and not flat[:, :, len(v) :].any()
    sums = np.einsum("npc,cp->np", flat[:columns, :, : len(v)], v.reshape(len(v), -1))
    return sums.reshape(columns, side, side)


@BOTH
@given(seed=st.integers(0, 1 << 16), c=st.integers(1, 9), n=st.integers(1, 2 * PANEL))
def test_sums_of_the_planes_are_multiples_of_those_of_the_convolution(
    way: str, seed: int, c: int, n: int
) -> None:
    rng, form = np.random.default_rng(seed), WAYS[way]
    weight = rng.choice(np.array([-128, -127, -1, 0, 3, 127], np.int8), (n, c, 3, 3))
    d = rng.choice(np.array([0, 1, 128, 255]), (c, form.side, form.side))
    v = np.einsum("ia,cab,jb->cij", BT[form.m], d, BT[form.m])
    sums = multiplied(v, plan.transform_weights(form, weight), n)
    got = np.einsum("ia,nab,jb->nij", AT[form.m], sums, AT[form.m])
    windows = np.lib.stride_tricks.sliding_window_view(d, (3, 3), (1, 2))
    want = np.einsum("cyxij,ncij->nyx", windows, weight.astype(np.int64))
    assert (got == form.root**2 * want).all()
    # What the kernel does with them, whatever they wrapped to.
    ring = (got * form.inverse).astype(np.uint32).view(np.int32) >> form.shift
    assert (ring == want).all()


def extremes(rows: np.ndarray, low: int, high: int) -> np.ndarray:
    """Return for every plane the two tiles that ``rows d rowsT`` is largest and smallest for."""
    signs = np.einsum("ia,jb->ijab", rows, rows).reshape(-1, rows.shape[1], rows.shape[1])
    return np.stack([np.where(s * signs > 0, high, low) for s in (1, -1)], 1)


@BOTH
def test_every_plane_fits_int16(way: str) -> None:
    form = WAYS[way]
    bt, g = BT[form.m], form.g
    tiles, kernels = extremes(bt, 0, LARGEST_CODE), extremes(g, -128, 127)
    for rows, all_ in ((bt, tiles), (g, kernels)):
        made = np.einsum("ia,pkab,jb->pkij", rows, all_, rows).reshape(form.planes, 2, -1)
        planes = made[np.arange(form.planes), :, np.arange(form.planes)]
        assert np.abs(planes).max() < 2**15
    packed = plan.transform_weights(form, kernels.reshape(-1, 1, 3, 3).astype(np.int8))
    assert np.abs(packed.astype(np.int64)).max() == 128 * max(np.abs(g).sum(1)) ** 2


@BOTH
def test_a_kernel_on_the_extremes_of_every_plane_is_exact(way: str) -> None:
    """A channel each: largest and smallest codes and weights of a plane meet in one product."""
    form = WAYS[way]
    tiles = extremes(BT[form.m], 0, LARGEST_CODE).reshape(1, -1, form.side, form.side)
    kernels = extremes(form.g, -128, 127).reshape(-1, 3, 3)
    turned = np.stack([np.roll(kernels, k, 0) for k in range(LANES + 3)])
    x, w = (torch.from_numpy(a) for a in (tiles.astype(np.uint8), turned.astype(np.int8)))
    fn, args = convolution(x, w)
    assert torch.equal(result(fn, args, way, 1), meaning.run(fn, *args)[0])


def test_sums_of_the_planes_may_wrap() -> None:
    c, form = FEWEST + 20, FORMS[4]
    x = torch.full((1, c, 6, 6), 255, dtype=torch.uint8)
    w = torch.full((LANES, c, 3, 3), 127, dtype=torch.int8)
    v = np.einsum("ia,cab,jb->cij", BT[4], x[0].numpy().astype(np.int64), BT[4])
    sums = multiplied(v, plan.transform_weights(form, w.numpy()), LANES)
    assert np.abs(sums).max() > 2**31
    fn, args = convolution(x, w, padding=1)
    assert torch.equal(result(fn, args, "winograd4", 1), meaning.run(fn, *args)[0])


def most_channels(way: str) -> int:
    """Return up to how many channels any weights fit."""
    return ((1 << (31 - WAYS[way].shift)) - 1) // (9 * 255 * 128)


@BOTH
@pytest.mark.parametrize("weight", [-128, 127])
def test_the_largest_sums_are_exact(way: str, weight: int) -> None:
    c = most_channels(way)
    w = torch.full((LANES, c, 3, 3), weight, dtype=torch.int8)
    fn, args = convolution(torch.full((1, c, 4, 4), 255, dtype=torch.uint8), w)
    assert torch.equal(result(fn, args, way, 1), meaning.run(fn, *args)[0])


@BOTH
@pytest.mark.parametrize(
    ("weights", "offered"), [((-128,), False), ((-128, 127), True), ((-60,), True)]
)
def test_it_is_offered_where_no_sum_is_too_large(
    way: str, weights: tuple[int, ...], offered: bool
) -> None:
    """The real weights count: a sum is largest where all codes are with weights of one sign."""
    c = most_channels(way) + 1
    drawn = torch.tensor(weights, dtype=torch.int8).repeat(c)[:c]
    w = torch.zeros(FEWEST, c, 3, 3, dtype=torch.int8)
    w[FEWEST // 2] = drawn[:, None, None]
    fn, _ = convolution(torch.zeros(1, c, 8, 8, dtype=torch.uint8), w)
    found = [*questions.asked(fn, "fp32", questions.FAR)]
    assert any(way in q.costs for q in found) == offered


@given(seed=st.integers(0, 1 << 16), n=st.integers(1, 4), k=st.integers(1, 40))
def test_the_reach_of_a_weight_is_that_of_its_worst_row(seed: int, n: int, k: int) -> None:
    w = codes(torch.Generator().manual_seed(seed), DType.I8, n, k, 1, 1)
    rows = w.reshape(n, k).tolist()
    sums = [abs(sum(v for v in row if (v > 0) == up)) for row in rows for up in (True, False)]
    found = meaning.const_of(w)
    assert meaning.row_reach(found) == max(sums)
    meaning.set_row_reach(found, 5)  # as of a constant whose bytes were let go
    assert meaning.row_reach(found) == 5


def test_a_weight_of_no_rows_reaches_nothing() -> None:
    assert meaning.row_reach(meaning.const_of(torch.zeros(0, 3, 3, 3, dtype=torch.int8))) == 0


# ----- who chooses it -----------------------------------------------------------------------------


def shape(c: int = 128, size: int = 28, n: int = 128, **changes) -> ConvShape:
    plain = ConvShape(1, c, (size, size), n, (3, 3), (1, 1), (1, 1), (1, 1), 1, (size, size))
    return dataclasses.replace(plain, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"stride": (2, 2), "out": (14, 14)},
        {"dilation": (2, 2), "padding": (2, 2)},
        {"groups": 2},
        {"kernel": (1, 3), "padding": (0, 1)},
        {"channels": FEWEST - 1},
    ],
)
def test_what_it_cannot_do_is_not_offered(changes: dict) -> None:
    every = {Algorithm.IGEMM, Algorithm.WINOGRAD_2, Algorithm.WINOGRAD_4}
    assert set(int_costs(shape(), 1, "fp32")) == every
    assert set(int_costs(shape(**changes), 1, "fp32")) == {Algorithm.IGEMM}


def test_the_least_memory_never_takes_eight_times_the_weights() -> None:
    found = set(int_costs(shape(), 1, "strict"))
    assert found == {Algorithm.IGEMM, Algorithm.WINOGRAD_2}
    b = Builder("net")
    x = b.param(TensorType(DType.U8, (1, 128, 28, 28), (0, 2, 3, 1)))
    w = const(b, torch.ones(128, 128, 3, 3, dtype=torch.int8))
    fn = b.finish(b(IntConv((1, 1), (1, 1), (1, 1)), x, w, const(b, torch.ones(128))))
    (question,) = questions.asked(fn, "strict", questions.FAR)
    assert set(question.costs) == {a.value for a in found}


@pytest.mark.parametrize("form", ["vnni", "split"])
@given(c=st.integers(64, 256), n=st.integers(64, 256), size=st.sampled_from([28, 32, 56, 64]))
def test_large_images_take_the_larger_tiles(form: str, c: int, n: int, size: int) -> None:
    with patch.object(int8_choice, "DOT", form):
        found = int_costs(shape(c, size, n), 1, "fp32")
    assert min(found, key=lambda a: found[a]) is Algorithm.WINOGRAD_4


def test_with_vnni_one_tile_of_many_channels_runs_directly() -> None:
    with patch.object(int8_choice, "DOT", "vnni"):
        found = int_costs(shape(512, 4, 512), 1, "fp32")
    assert found[Algorithm.IGEMM] < MARGIN * min(
        cost for a, cost in found.items() if a is not Algorithm.IGEMM
    )


def test_no_question_where_there_is_one_way() -> None:
    b = Builder("point")
    x = b.param(TensorType(DType.U8, (1, 64, 8, 8)))
    w = b(Constant(meaning.const_of(torch.ones(64, 64, 1, 1, dtype=torch.int8))))
    fn = b.finish(b(IntConv((1, 1), (0, 0), (1, 1)), x, w, const(b, torch.ones(64))))
    assert not [*questions.asked(fn, "fp32", questions.FAR)]


@pytest.mark.parametrize("fits", [True, False])
def test_a_stored_program_asks_what_it_was_compiled_with(fits: bool, tmp_path, monkeypatch) -> None:
    """The bytes of a weight are not stored: its reach is."""
    monkeypatch.setenv("LEPTONC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(int8_choice, "CODES_STEP", dict.fromkeys(int8_choice.CODES_STEP, 99.0))
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(128, 64, 3, padding=1).eval()
    with torch.no_grad():  # of one sign, all weights are the largest code
        conv.weight.copy_(torch.where(torch.rand(64, 128, 3, 3) < 0.5 * fits, -0.1, 0.1))
    x = torch.randn(1, 128, 16, 16)
    small = leptonc.compress(conv, x, leptonc.Quantize(reduce_range=False), data=[x])
    first, again = (leptonc.compile(small, x, tune=False) for _ in range(2))
    assert again.stats["cached"] and not first.stats["cached"]
    for net in (first, again):
        found = [d.question for u in net.schedule.units for d in u.decisions]
        assert [("winograd4" in q.costs) == fits for q in found if "igemm" in q.costs] == [True]
    assert torch.equal(again(x), first(x))
