"""Winograd on codes: the bits of the meaning and the direct kernel; its bound; who chooses it."""

from __future__ import annotations

import dataclasses
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leptonc import meaning
from leptonc.backends.numba_cpu.kernels import int8_winograd_plan as plan
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL
from leptonc.backends.numba_cpu.kernels.vectype import LANES
from leptonc.backends.numba_cpu.lower import conv_choice, questions
from leptonc.backends.numba_cpu.lower.choices import MARGIN, Answer
from leptonc.backends.numba_cpu.lower.conv_choice import Algorithm, ConvShape, int_costs
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
BT = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
AT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])


def answers(fn: Function, way: str = "winograd2") -> dict[str, Answer]:
    """Return the answers that take ``way``; there must be a question."""
    found = {q.key: Answer(way, "test") for q in questions.asked(fn, "fp32", questions.FAR)}
    assert found
    return found


class WinogradCase(Case):
    """A unit whose root is a 3x3 convolution with stride 1, computed by Winograd's algorithm."""

    def __init__(self, data: st.DataObject) -> None:
        super().__init__(data, "conv")
        self.answers = answers(self.fn)

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


@given(data=st.data(), threads=st.integers(1, 3))
def test_units_give_the_bits_of_their_meaning(data: st.DataObject, threads: int) -> None:
    check(WinogradCase(data), threads, ("int8_winograd",))


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
    assert ("int8_winograd" in {s.kernel.name for s in run.steps}) == (way == "winograd2")
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
    assert torch.equal(result(fn, args, "winograd2", 2), want)
    with patch.object(plan, "V_BYTES", 1):  # many small blocks
        assert torch.equal(result(fn, args, "winograd2", 3), want)


# ----- exactness ----------------------------------------------------------------------------------


@given(seed=st.integers(0, 1 << 16), c=st.integers(1, 9), n=st.integers(1, 2 * PANEL))
def test_sums_of_the_planes_are_four_times_those_of_the_convolution(
    seed: int, c: int, n: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.choice(np.array([-128, -127, -1, 0, 3, 127], np.int8), (n, c, 3, 3))
    d = rng.choice(np.array([0, 1, 128, 255]), (c, 4, 4))
    packed = plan.transform_weights(weight).astype(np.int64)
    columns = packed.transpose(0, 3, 1, 2, 4).reshape(-1, 16, 2 * plan.pairs(c))
    assert not columns[n:].any() and not columns[:, :, c:].any()
    v = np.einsum("ia,cab,jb->cij", BT, d, BT)
    assert np.abs(v).max() <= 4 * 255 and np.abs(packed).max() <= 9 * 128  # of int16
    sums = np.einsum("npc,cp->np", columns[:n, :, :c], v.reshape(c, 16)).reshape(n, 4, 4)
    got = np.einsum("ia,nab,jb->nij", AT, sums, AT)
    windows = np.lib.stride_tricks.sliding_window_view(d, (3, 3), (1, 2))
    want = np.einsum("cyxij,ncij->nyx", windows, weight.astype(np.int64))
    assert (got == 4 * want).all()


def test_the_bound_of_channels_is_that_of_int32() -> None:
    most = plan.MOST_CHANNELS
    assert plan.fits(most) and not plan.fits(most + 1)
    # the plane of all nine weights, and four times a sum, reach equally far
    assert 4 * (9 * 255 * 128) == (4 * 255) * (9 * 128)
    assert most * 4 * 9 * 255 * 128 < 2**31 <= (most + 1) * 4 * 9 * 255 * 128


@pytest.mark.parametrize("weight", [-128, 127])
def test_the_largest_sums_are_exact(weight: int) -> None:
    c = plan.MOST_CHANNELS
    b = Builder("long")
    x = b.param(TensorType(DType.U8, (1, c, 4, 4), (0, 2, 3, 1)))
    w = const(b, torch.full((LANES, c, 3, 3), weight, dtype=torch.int8))
    kind = IntConv((1, 1), (0, 0), (1, 1))
    fn = b.finish(b(kind, x, w, const(b, torch.ones(LANES))))
    args = [torch.full((1, c, 4, 4), 255, dtype=torch.uint8)]
    assert torch.equal(result(fn, args, "winograd2", 1), meaning.run(fn, *args)[0])


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
        {"channels": plan.MOST_CHANNELS + 1},
    ],
)
def test_what_it_cannot_do_is_not_offered(changes: dict) -> None:
    assert set(int_costs(shape())) == {Algorithm.IGEMM, Algorithm.WINOGRAD_2}
    assert set(int_costs(shape(**changes))) == {Algorithm.IGEMM}


@pytest.mark.parametrize(
    ("form", "best"), [("vnni", Algorithm.IGEMM), ("split", Algorithm.WINOGRAD_2)]
)
@given(c=st.integers(64, 512), n=st.integers(64, 512), size=st.integers(14, 56))
def test_it_is_for_machines_without_vnni(
    form: str, best: Algorithm, c: int, n: int, size: int
) -> None:
    with patch.object(conv_choice, "DOT", form):
        found = int_costs(shape(c, size, n))
    assert min(found.values()) >= MARGIN * found[best]


def test_no_question_where_there_is_one_way() -> None:
    b = Builder("point")
    x = b.param(TensorType(DType.U8, (1, 64, 8, 8)))
    w = b(Constant(meaning.const_of(torch.ones(64, 64, 1, 1, dtype=torch.int8))))
    fn = b.finish(b(IntConv((1, 1), (0, 0), (1, 1)), x, w, const(b, torch.ones(64))))
    assert not [*questions.asked(fn, "fp32", questions.FAR)]
