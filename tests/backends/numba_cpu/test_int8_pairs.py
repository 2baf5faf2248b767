"""The proof that pairs of products stay inside int16, and what is taken apart where they do not."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leptonc import meaning
from leptonc.backends.numba_cpu.kernels import int8_pairs, int8_plan
from leptonc.backends.numba_cpu.kernels.int8_dot import DOT
from leptonc.backends.numba_cpu.kernels.int8_pairs import ENTRY, GROUP, HEADER, PLACE, Range
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL
from leptonc.backends.numba_cpu.kernels.vectype import LANES
from leptonc.backends.numba_cpu.lower import int8_job
from leptonc.backends.numba_cpu.lower.code_ranges import codes_of, ranges_of
from leptonc.backends.numba_cpu.lower.core import ConstPool
from leptonc.backends.numba_cpu.scheduler import Options, schedule
from leptonc.check import isolate
from leptonc.ir.core import Builder, Function, Value
from leptonc.ir.kinds import reduce, shape
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.quantize import IntConv, Quantize
from leptonc.ir.kinds.region import Unit
from leptonc.ir.types import DType, TensorType
from leptonc.settings import child_environ
from tests.backends.numba_cpu.test_int8 import dot_kernel

pytestmark = pytest.mark.numba
WEIGHTS = st.integers(-128, 127) | st.sampled_from([-128, -127, -64, 1, 2, 64, 65, 127])
CODES = st.tuples(st.integers(0, 255), st.integers(0, 255)).map(lambda t: Range(*sorted(t)))
needs_pairs = pytest.mark.skipif(DOT == "plain", reason="no vpmaddubsw here")


# ----- the proof ----------------------------------------------------------------------------------


@given(w=st.tuples(WEIGHTS, WEIGHTS), codes=CODES | st.just(Range()) | st.just(Range(0, 127)))
def test_a_pair_is_marked_exactly_where_some_codes_leave_int16(
    w: tuple[int, int], codes: Range
) -> None:
    some = np.arange(codes.low, codes.high + 1)
    sums = w[0] * some[:, None] + w[1] * some  # all codes, not only the extreme ones
    leaves = bool(((sums < -(1 << 15)) | (sums >= 1 << 15)).any())
    assert bool(int8_pairs.saturating(np.array(w, np.int8), codes)[0]) == leaves


def test_codes_of_seven_bits_leave_int16_with_no_weights() -> None:
    every = np.array([*itertools.product(range(-128, 128), repeat=2)], np.int8)
    assert not int8_pairs.saturating(every, Range(0, 128)).any()
    assert int8_pairs.saturating(every, Range(0, 129)).any()


@needs_pairs
@given(seed=st.integers(0, 1 << 16), codes=CODES)
def test_the_form_is_exact_where_that_is_proven_and_only_there(seed: int, codes: Range) -> None:
    rng = np.random.default_rng(seed)
    y = rng.integers(-128, 128, 4 * LANES).astype(np.int8)
    # the codes that take each weight to its largest, or to its least
    ends = np.array([codes.low, codes.high])
    up = rng.integers(0, 2, 4 * LANES // 2).repeat(2)
    x = ends[(y > 0).astype(int) ^ up].astype(np.uint8)
    acc, out = rng.integers(-9, 9, LANES, dtype=np.int32), np.zeros(LANES, np.int32)
    dot_kernel("pairs")(np.array([a.ctypes.data for a in (acc, x, y, out)], np.int64))
    products = x.astype(np.int32) * y
    want = acc + products.reshape(LANES, 4).sum(1)
    bad = int8_pairs.saturating(y, codes).reshape(LANES, 2).any(1)
    assert (out[~bad] == want[~bad]).all()
    pairs = products.reshape(-1, 2).sum(1)
    clipped = (pairs != np.clip(pairs, -(1 << 15), (1 << 15) - 1)).reshape(LANES, 2)
    once = clipped.sum(1) == 1  # two that saturate may undo each other
    assert (out[once] != want[once]).all() and not (once & ~bad).any()


# ----- what is taken apart ------------------------------------------------------------------------


def weights_of(rng: np.random.Generator, shape: tuple[int, ...], most: int) -> np.ndarray:
    """Return weights of which half are at most ``most``, the others at the ends of their type."""
    small = rng.integers(-most, most + 1, shape)
    large = rng.choice([-128, -127, 127], shape)
    return np.where(rng.random(shape) < 0.5 / most, large, small).astype(np.int8)


def group_sums(panel: np.ndarray, codes: Range) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and largest sums of each half of two steps: ``i64[taps,groups,PANEL,2]``."""
    taps, steps = panel.shape[:2]
    products = panel.astype(np.int64)[..., None] * np.array([codes.low, codes.high])
    ends = [products.min(-1), products.max(-1)]
    cut = [e[:, : steps // 2 * 2].reshape(taps, -1, 2, PANEL, 2, 2).sum((2, 5)) for e in ends]
    return cut[0], cut[1]


@given(
    seed=st.integers(0, 1 << 16), codes=CODES | st.just(Range()), groups=st.integers(1, 3),
    columns=st.integers(1, 40), taps=st.integers(1, 4), depth=st.integers(1, 21),
    most=st.sampled_from([1, 20, 32, 64, 127]),
)  # fmt: skip
def test_panels_and_entries_are_the_weights_and_none_saturates(
    seed: int, codes: Range, groups: int, columns: int, taps: int, depth: int, most: int
) -> None:
    weight = weights_of(np.random.default_rng(seed), (groups * columns, taps, depth), most)
    panels = int8_plan.pack_bytes(weight, groups)
    found = int8_pairs.taken_apart(panels, codes)
    assert not int8_pairs.saturating(found.panels, codes).any()
    total, entries = found.panels.copy().reshape(-1, *panels.shape[2:]), 0
    for p, panel in enumerate(total):
        header = found.extra[HEADER * p :][:HEADER].view(np.int64)
        start, count, together = (int(v) for v in header)
        assert together in (1, GROUP)
        least, largest = group_sums(panel, codes)
        fits = (least >= -(1 << 15)).all() and (largest < 1 << 15).all()
        assert fits or together == 1
        for i in range(count):
            entry = found.extra[HEADER * p + start + ENTRY * i :][:ENTRY]
            tap, byte = (int(v) for v in entry[:PLACE].view(np.int64))
            more = entry[PLACE:].view(np.int8).reshape(PANEL, 4)
            assert not int8_pairs.saturating(more, codes).any()
            panel[tap, byte // 4] += more
        entries += count
    assert (total == panels.reshape(total.shape)).all()
    assert entries == int8_pairs.entries_in(found.extra.nbytes, len(total))


def entries_of(weight: int, high: int) -> tuple[int, int]:
    """Return the steps added in int16 and the entries of a panel of equal weights, 10 steps."""
    panels = np.full((1, 1, 1, 10, PANEL, 4), weight, np.int8)
    extra = int8_pairs.taken_apart(panels, Range(0, high)).extra
    _, count, together = (int(v) for v in extra[:HEADER].view(np.int64))
    return together, count


def test_a_panel_is_multiplied_in_groups_where_that_takes_nothing_more_apart() -> None:
    assert entries_of(32, 255) == (GROUP, 0)  # 4 * 32 * 255 = 32640
    assert entries_of(33, 255) == (1, 0)  # a group too large, no pair
    assert entries_of(65, 255) == (1, 10)
    assert entries_of(65, 126) == (GROUP, 0)
    assert entries_of(-32, 256) == (GROUP, 0) and entries_of(32, 256) == (1, 0)


# ----- codes known from their makers --------------------------------------------------------------


def quantized(b: Builder, x: Value, high: int) -> Value:
    scale, zero = (b(Constant(meaning.const_of(t))) for t in (
        torch.tensor(0.1), torch.tensor(3, dtype=torch.int32),
    ))  # fmt: skip
    return b(Quantize(0, high, DType.U8), x, scale, zero)


def test_ranges_follow_codes_through_what_moves_them() -> None:
    b = Builder("moves")
    x = b.param(TensorType(DType.F32, (1, 4, 6, 6)))
    other = b.param(TensorType(DType.U8, (1, 4, 6, 6)))
    low, high = quantized(b, x, 127), quantized(b, x, 200)
    pooled = b(reduce.MaxPool((3, 3), (1, 1), (1, 1)), low)
    both = b(shape.Concat(1), pooled, high)
    outside = b(shape.Concat(1), low, other)
    fn = b.finish(both, outside)
    found = ranges_of(fn.ops, {})
    want = [(pooled, Range(0, 127)), (both, Range(0, 200)), (outside, Range(0, 255))]
    assert [(v, codes_of(v, found)) for v, _ in want] == want
    assert codes_of(b.param(TensorType(DType.I8, (1,))), {}) == Range(-128, 127)


def two_units(high: int) -> Function:
    """Return a unit that quantizes and one that convolves its codes with large weights."""
    one = Builder("q")
    x = one.param(TensorType(DType.F32, (1, 8, 6, 6), (0, 2, 3, 1)))
    body = one.finish(quantized(one, x, high))
    two = Builder("conv")
    codes = two.param(body.returns[0].type)
    w = two(Constant(meaning.const_of(torch.full((8, 8, 3, 3), 100, dtype=torch.int8))))
    scale = two(Constant(meaning.const_of(torch.full((8,), 0.01))))
    y = two(IntConv((1, 1), (1, 1), (1, 1), 1, (), 3), codes, w, scale)
    b = Builder("net")
    (mid,) = b.emit(Unit(body, "q"), b.param(x.type))
    (out,) = b.emit(Unit(two.finish(y), "conv", "int8"), mid)
    return b.finish(out)


@pytest.mark.parametrize(("high", "share"), [(127, "proven exact"), (255, "100 %")])
def test_a_unit_knows_the_codes_that_another_makes(monkeypatch, high: int, share: str) -> None:
    monkeypatch.setattr(int8_job, "PROVEN", "pairs")
    plan = schedule(two_units(high), ConstPool(), Options())
    (reason,) = [d.answer.why for u in plan.units for d in u.decisions if "exact" in d.answer.why]
    assert share in reason


def test_a_unit_alone_is_packed_as_in_its_network(monkeypatch) -> None:
    """What times or checks a unit alone hands on the ranges of the network's values."""
    monkeypatch.setattr(int8_job, "PROVEN", "pairs")
    fn, pool = two_units(127), ConstPool()
    schedule(fn, pool, Options())
    held = len(pool.arrays)
    for ranges in (ranges_of(fn.ops, {}), {}):
        schedule(isolate(fn.ops[1]), pool, Options(ranges=ranges))
        assert (len(pool.arrays) == held) == bool(ranges)


# ----- the kernel ---------------------------------------------------------------------------------


@pytest.mark.skipif(DOT != "vnni" or LANES < 16, reason="the tests of this process show it")
def test_a_processor_without_vnni_gives_the_same_bits() -> None:
    """Run the units' tests as a narrower machine, where the form ``pairs`` is what runs."""
    folder = Path(__file__).parent
    names = [f"{folder / file}::test_units_give_the_bits_of_their_meaning"
             for file in ("test_int8.py", "test_int8_winograd.py")]  # fmt: skip
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-x", *names]
    env = child_environ({"LEPTONC_LANES": "8"})
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:]
