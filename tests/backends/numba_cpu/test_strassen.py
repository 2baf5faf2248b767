"""Products by one level of Strassen's algorithm, against float64; who chooses them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import leptonc
from leptonc import meaning
from leptonc.backends.numba_cpu.kernels import strassen as module
from leptonc.backends.numba_cpu.kernels import strassen_plan as plan
from leptonc.backends.numba_cpu.kernels.activation import Act
from leptonc.backends.numba_cpu.kernels.base import Native, record
from leptonc.backends.numba_cpu.kernels.microkernel import PANEL, ROWS
from leptonc.backends.numba_cpu.kernels.pack import pack_linear
from leptonc.backends.numba_cpu.kernels.strassen_plan import PRODUCTS, Sizes
from leptonc.backends.numba_cpu.kernels.strassen_tile import HEIGHTS
from leptonc.backends.numba_cpu.kernels.tile_finish import (
    ADD_RES,
    FINISH_ROWS,
    MULTIPLY_RES,
    NO_RES,
)
from leptonc.backends.numba_cpu.kernels.vectype import LANES
from leptonc.backends.numba_cpu.lower import product_cost, questions
from leptonc.backends.numba_cpu.lower.choices import Answer
from leptonc.backends.numba_cpu.lower.contract import lower_contract
from leptonc.backends.numba_cpu.lower.conv_choice import costs_fit
from leptonc.backends.numba_cpu.lower.product_cost import strassen_cycles
from leptonc.ir.core import Builder, Function, Kind
from leptonc.ir.kinds import binary, pointwise, unary
from leptonc.ir.kinds.contract import Conv, Linear
from leptonc.ir.kinds.data import Constant
from leptonc.ir.types import DType, TensorType
from tests.backends.numba_cpu.harness import Run, some_cuts

pytestmark = [pytest.mark.numba, pytest.mark.usefixtures("no_tiles")]
ROOM = 64  # floats around what a kernel may write
UNIT = 2.0**-24


def draw(*shape: int, seed: int = 0, whole: bool = False) -> np.ndarray:
    g = np.random.default_rng(seed + sum(shape))
    if whole:
        return g.integers(-4, 5, shape).astype(np.float32)
    return g.normal(size=shape).astype(np.float32)


def product(
    a: np.ndarray, w: np.ndarray, bias: np.ndarray, nt: int = 1, gap: int = 0,
    res: np.ndarray | None = None, late: int = NO_RES, act: Act = Act.NONE, width: int = 0,
    parts: int = 1,
) -> np.ndarray:  # fmt: skip
    """Return ``a @ w.T`` and what follows, by so many parts; rows lie ``gap`` floats apart.

    ``width``: rows of ``a`` to a line, lines lie 7 floats apart; 0: all are one line.
    """
    (m, k), n = a.shape, len(w)
    sizes = Sizes(m, k, n, parts)
    assert sizes.fit

    def rows(x: np.ndarray) -> np.ndarray:
        wide = np.full((m, x.shape[1] + gap), np.nan, np.float32)
        wide[:, : x.shape[1]] = x
        return wide

    step, width = k + gap, width or m
    line = width * step + 7
    wide_a, apart = np.full(-(-m // width) * line, np.nan, np.float32), rows(a)
    for i in range(0, m, width):
        some = apart[i : i + width].reshape(-1)
        wide_a[i // width * line :][: len(some)] = some
    out = np.full(m * (n + gap) + 2 * ROOM, 7, np.float32)
    wide_res = None if res is None else rows(res)
    end, b, table = sizes.scratch()["end"], pack_linear(w), sizes.table()
    scratch = np.full(nt * end // 4, np.nan, np.float32)
    values: dict[str, Any] = {
        name: value.address if isinstance(value, Native) else value
        for name, value in sizes.slots().items()
    }
    values |= {
        "table": table, "a": wide_a, "width": width,
        "a_line": line, "a_row": step, "b": b, "bias": bias,
        "out": out[ROOM:], "out_row": n + gap, "res": 0 if wide_res is None else wide_res,
        "res_row": n + gap, "late": late, "act": int(act), "act_p0": 0.0, "act_p1": 0.0,
        "scratch": scratch, "scratch_bytes": end,
    }  # fmt: skip
    args = record(*(values[name] for name in module.NAMES))
    cuts = some_cuts(nt, m + n)
    module.strassen.run_all(args, nt, cuts)
    made = out[ROOM:-ROOM].reshape(m, n + gap)
    assert (out[:ROOM] == 7).all()
    assert (out[-ROOM:] == 7).all()
    assert (made[:, n:] == 7).all()
    return made[:, :n].copy()


def exact(a: np.ndarray, w: np.ndarray) -> np.ndarray:
    return a.astype(np.float64) @ w.T.astype(np.float64)


def test_seven_products_make_the_four_quadrants():
    a, b = draw(2, 2, whole=True).ravel(), draw(2, 2, seed=9, whole=True).ravel()
    c = np.zeros(4)
    for p in PRODUCTS:
        value = sum(s * a[q] for q, s in p.a.items()) * sum(s * b[q] for q, s in p.b.items())
        for q, s in p.c.items():
            c[q] += s * value
    assert (c.reshape(2, 2) == a.reshape(2, 2) @ b.reshape(2, 2)).all()
    assert len(PRODUCTS) == 7


def test_slots_and_entries_follow_the_record():
    names = {"rows": "M", "panel": "PANEL_AT"}
    for listed in (module.NAMES, plan.ENTRIES):
        for i, name in enumerate(listed):
            assert getattr(module, names.get(name, name.upper())) == i


@st.composite
def sizes_that_fit(draw_from: Callable) -> Sizes:
    rows = st.integers(2 * ROWS + 1, 12 * ROWS)
    depth = st.integers(1, 5).map(lambda v: 2 * LANES * v)
    columns = st.integers(1, 3).map(lambda p: 2 * PANEL * p)
    made = st.builds(Sizes, rows, depth, columns, st.integers(1, 3)).filter(lambda s: s.fit)
    return draw_from(made)


@given(
    sizes=sizes_that_fit(), gap=st.sampled_from([0, 3, LANES]), nt=st.integers(1, 3),
    width=st.integers(0, 40),
)  # fmt: skip
def test_products_of_whole_numbers_are_exact(sizes, gap, nt, width):
    a, w = (draw(n, sizes.depth, seed=n, whole=True) for n in (sizes.rows, sizes.columns))
    bias, res = (draw(*shape, whole=True) for shape in ((sizes.columns,), (len(a), sizes.columns)))
    want, parts = exact(a, w) + bias, sizes.parts
    np.testing.assert_array_equal(product(a, w, bias, nt, gap, width=width, parts=parts), want)
    np.testing.assert_array_equal(product(a, w, bias, nt, gap, res, parts=parts), want + res)
    for late, join in ((ADD_RES, np.add), (MULTIPLY_RES, np.multiply)):
        got = product(a, w, bias, nt, gap, res, late, Act.RELU, parts=parts)
        np.testing.assert_array_equal(got, join(np.maximum(want, 0), res))


@given(sizes=sizes_that_fit(), seed=st.integers(0, 99))
def test_errors_are_within_the_bound(sizes, seed):
    a, w = draw(sizes.rows, sizes.depth, seed=seed), draw(sizes.columns, sizes.depth, seed=seed)
    a *= 2.0 ** np.random.default_rng(seed).integers(-6, 7, (len(a), 1))  # rows of other sizes
    got = product(a, w, np.zeros(sizes.columns, np.float32), parts=sizes.parts)
    error = np.abs(got - exact(a, w))
    assert (error <= plan.error_bound(a, w.T, sizes.parts)).all()


def test_the_bound_of_ones_counts_what_is_added():
    size, half = 4, 2
    bound = plan.error_bound(np.ones((size, size)), np.ones((size, size)))
    r = (half + 5) * UNIT
    # M1: 2 * 2, M2 ... M7: 2 * 1 or 2 * 2 times the halves' depth; C11 and C22 take four of them.
    one, two = 2 * half, 4 * half
    corner, side = two + one + one + two, 2 * one
    want = np.block([[np.full((2, 2), corner), np.full((2, 2), side)],
                     [np.full((2, 2), side), np.full((2, 2), corner)]])  # fmt: skip
    np.testing.assert_allclose(bound, r / (1 - r) * want)


@pytest.mark.parametrize("rows", [FINISH_ROWS + 1, 2 * FINISH_ROWS + 3, 5 * FINISH_ROWS])
def test_every_element_is_activated_once(rows):
    k, n = 4 * LANES, 2 * PANEL
    a, w = draw(rows, k, whole=True), draw(n, k, seed=1, whole=True)
    got = product(a, w, np.zeros(n, np.float32), act=Act.SQUARE)
    np.testing.assert_array_equal(got, exact(a, w) ** 2)


@pytest.mark.parametrize("act", [Act.NONE, Act.RELU, Act.RELU6])
@pytest.mark.parametrize("with_res", [False, True])
def test_tiles_end_within_bounds(act, with_res):
    a, w = draw(4 * ROWS + 3, 4 * LANES, whole=True), draw(2 * PANEL, 4 * LANES, whole=True)
    bias, res = draw(len(w), whole=True), draw(len(a), len(w), seed=3, whole=True)
    want = exact(a, w) + bias + (res if with_res else 0)
    low, high = (-np.inf if act is Act.NONE else 0, 6 if act is Act.RELU6 else np.inf)
    got = product(a, w, bias, 2, res=res if with_res else None, act=act)
    np.testing.assert_array_equal(got, np.clip(want, low, high))
    bias[3] = np.nan  # stays one
    assert np.isnan(product(a, w, bias, act=act)[:, 3]).all()


def test_bits_do_not_depend_on_threads():
    a, w, bias = draw(10 * ROWS + 3, 8 * LANES), draw(10 * PANEL, 8 * LANES), draw(10 * PANEL)
    for parts in (1, 2):
        one = product(a, w, bias, parts=parts)
        for nt in (2, 3, 4, 7):
            np.testing.assert_array_equal(product(a, w, bias, nt, parts=parts), one)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_reaches_two_rows(bad):
    rows, n, parts = 10 * ROWS, 2 * PANEL, 2
    a, w, bias = draw(rows, 4 * LANES), draw(n, 4 * LANES), draw(n)
    clean = product(a, w, bias, parts=parts)
    a[3, 5] = bad
    got = product(a, w, bias, parts=parts)
    others = [i for i in range(rows) if i not in (3, 3 + -(-rows // 2 // parts))]
    np.testing.assert_array_equal(got[others], clean[others])
    assert not np.isfinite(got[3]).any()


def test_tiles_of_all_that_fits_exist():
    for rows, parts in itertools.product(range(1, 400), (1, 2, 3)):
        sizes = Sizes(rows, 2 * LANES, 2 * PANEL, parts)
        heights = {sizes.half // sizes.tiles, -(-sizes.half // sizes.tiles)}
        assert not sizes.fit or heights <= set(HEIGHTS)
        assert sizes.fit or rows < parts * (4 * ROWS + 3)


# --- in a network --------------------------------------------------------------------------------


def layer(rows: tuple[int, ...], k: int, n: int, *steps: Kind, bias: bool) -> Function:
    """Return a linear layer of constant weights followed by ``steps``."""
    b = Builder("unit")
    x = b.param(TensorType(DType.F32, (*rows, k)), "x")
    g = torch.Generator().manual_seed(k)
    consts = [torch.randn(n, k, generator=g), torch.randn(n, generator=g)]
    v = b(Linear(), x, *(b(Constant(meaning.const_of(t))) for t in consts[: 1 + bias]))
    for step in steps:
        if isinstance(step, (binary.Add, binary.Mul)):
            v = b(step, v, b.param(TensorType(DType.F32, (*rows, n)), "r"))
        else:
            v = b(step, v)
    return b.finish(v)


EPILOGUES: dict[str, tuple[Kind, ...]] = {
    "none": (), "gelu": (pointwise.Gelu(),), "add": (binary.Add(),),
    "add-relu": (binary.Add(), unary.Relu()), "relu-add": (unary.Relu(), binary.Add()),
    "sigmoid-mul": (unary.Sigmoid(), binary.Mul()),
}  # fmt: skip


def ways(fn: Function, precision: str = "fp32") -> list[questions.Question]:
    asked = questions.asked(fn, precision, questions.FAR)
    return [q for q in asked if questions.STRASSEN in q.costs]


def lowered(fn: Function, threads: int = 1, way: str = questions.STRASSEN) -> Run:
    """Return ``fn`` lowered with Strassen's algorithm, or another way, wherever that is asked."""
    answers = {q.key: Answer(way, "test") for q in ways(fn)}

    def lower(ctx, body):
        ctx.answers = answers
        return lower_contract(ctx, body)

    return Run(fn, threads, lower)


def weight_of(fn: Function) -> np.ndarray:
    """Return the weight of a layer."""
    first = next(op.kind for op in fn.ops if isinstance(op.kind, Constant))
    return meaning.array_of(first.const)


def parts_of(rows: int, k: int, n: int, threads: int) -> int:
    """Return how many parts of the rows so many threads make."""
    sizes = product_cost.strassen_sizes(rows, k, n, threads)
    assert sizes is not None
    return sizes.parts


def allowed(
    flat: np.ndarray, weight: np.ndarray, others: Sequence[torch.Tensor], threads: int
) -> np.ndarray:
    """Return how far a layer's results may be from the exact ones; ``others``: residuals."""
    # The activations are 1.2-Lipschitz and a few ulps wrong; what follows has a rounding each.
    parts = parts_of(*flat.shape, len(weight), threads)
    most = plan.error_bound(flat, weight.T, parts) + 16 * UNIT * (1 + np.abs(exact(flat, weight)))
    return 1.2 * most * max(1.0, *(float(r.abs().max()) for r in others), 1.0)


@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize("bias", [False, True])
def test_epilogues(epilogue, bias):
    fn = layer((3, 33), 512, 512, *EPILOGUES[epilogue], bias=bias)
    made = lowered(fn, threads=2)
    assert [s.kernel.name for s in made.steps] == ["strassen"]
    g = torch.Generator().manual_seed(1)
    args = [torch.randn(*map(int, p.type.shape), generator=g) for p in fn.params]
    made.bind(*args)
    made.run()
    (want,) = meaning.run(fn, *args, precision="f64")
    most = allowed(args[0].reshape(99, 512).numpy(), weight_of(fn), args[1:], 2)
    error = (made.results()[0].double() - want).abs().reshape(99, 512).numpy()
    assert (error <= most).all()


@given(
    behind=st.integers(1, meaning.PAIRED - 1), epilogue=st.sampled_from([*EPILOGUES]),
    bias=st.booleans(), threads=st.integers(1, 2), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_columns_behind_whole_pairs_of_panels(behind, epilogue, bias, threads, seed):
    n, made = 256 + behind, list[torch.Tensor]()
    fn = layer((99,), 512, n, *EPILOGUES[epilogue], bias=bias)
    g = torch.Generator().manual_seed(seed)
    args = [torch.randn(*map(int, p.type.shape), generator=g) for p in fn.params]
    by_strassen, plain = lowered(fn, threads), lowered(fn, threads, questions.PLAIN)
    assert [s.kernel.name for s in by_strassen.steps] == ["strassen", "igemm"]
    assert [s.kernel.name for s in plain.steps] == ["igemm"]
    for run in (by_strassen, plain):
        run.bind(*args)
        run.run()
        made += run.results()
    (want,) = meaning.run(fn, *args, precision="f64")
    # Those behind are the plain product's; the others as near to the exact ones as that allows.
    assert torch.equal(made[0][:, 256:], made[1][:, 256:])
    most = allowed(args[0].numpy(), weight_of(fn)[:256], args[1:], threads)
    assert ((made[0].double() - want).abs().numpy()[:, :256] <= most).all()


@pytest.mark.parametrize(
    ("shape", "order", "steps"),
    [
        ((48, 2), (1, 0, 2), ["strassen"]),
        ((6, 4, 4), (2, 1, 0, 3), ["igemm"]),
    ],
)
def test_rows_of_more_than_two_axes_are_multiplied_as_they_lie(shape, order, steps):
    b = Builder("unit")
    x = b.param(TensorType(DType.F32, (*shape, 512), order), "x")
    w = torch.randn(512, 512)
    fn = b.finish(b(Linear(), x, b(Constant(meaning.const_of(w)))))
    assert ways(fn)
    made, image = lowered(fn), torch.randn(*shape, 512)
    assert [s.kernel.name for s in made.steps] == steps
    flat, weight = image.reshape(-1, 512).numpy(), w.numpy()
    error = np.abs(made(image)[0].reshape(-1, 512).numpy() - exact(flat, weight))
    assert (error <= plan.error_bound(flat, weight.T)).all()


def test_who_is_asked():
    def names(rows: int, k: int, n: int, precision: str = "fp32") -> list[str]:
        return [way for q in ways(layer((rows,), k, n, bias=True), precision) for way in q.ranked]

    assert names(128, 768, 3072) == [questions.STRASSEN, questions.PLAIN]
    assert not names(128, 768, 3072, "strict")
    assert not names(64, 768, 3072)
    assert not names(128, 768, PANEL)
    assert not names(128, 768 + 1, 3072)
    assert names(128, 768, 512 + 1)  # of which one column is a plain product
    assert not names(128, 768, 256 - 1)


@st.composite
def one_by_one(draw_from: Callable) -> dict[str, Any]:
    """Draw a 1x1 convolution that fits and what its image is like."""
    batch, stride = draw_from(st.integers(1, 2)), draw_from(st.integers(1, 2))
    size = draw_from(st.tuples(st.integers(10, 21), st.integers(10, 21)))
    return {
        "x": (batch, 256, *(n * stride - draw_from(st.integers(0, stride - 1)) for n in size)),
        "kind": Conv((stride, stride), (0, 0), (1, 1), 1),
        "order": draw_from(st.sampled_from([(0, 2, 3, 1), (0, 1, 2, 3)])),
        "res": draw_from(st.booleans()), "relu": draw_from(st.booleans()),
        "threads": draw_from(st.integers(1, 2)),
    }  # fmt: skip


@given(case=one_by_one(), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_one_by_one_convolutions(case, seed):
    g = torch.Generator().manual_seed(seed)
    w, bias = torch.randn(256, 256, 1, 1, generator=g), torch.randn(256, generator=g)
    b, last = Builder("unit"), (0, 2, 3, 1)
    x = b.param(TensorType(DType.F32, case["x"], case["order"]), "x")
    v = b(case["kind"], x, *(b(Constant(meaning.const_of(t))) for t in (w, bias)))
    if case["res"]:
        v = b(binary.Add(), v, b.param(TensorType(DType.F32, v.type.shape, last), "r"))
    fn = b.finish(b(unary.Relu(), v) if case["relu"] else v)
    rows = math.prod((case["x"][0], *v.type.shape[2:]))
    if not Sizes(rows, 256, 256).fit:
        return
    made = lowered(fn, case["threads"])
    steps = {s.kernel.name for s in made.steps}
    # Lines of an odd number, every other one, and images behind each other: no two axes walk them.
    odd = case["kind"].stride[0] == 2 and case["x"][0] == 2 and case["x"][2] % 2 == 1
    assert "strassen" in steps or (odd and "igemm" in steps)
    args = [torch.randn(*map(int, p.type.shape), generator=g) for p in fn.params]
    (got,) = made(*args)
    (want,) = meaning.run(fn, *args, precision="f64")
    step = case["kind"].stride[0]
    flat = args[0][:, :, ::step, ::step].permute(0, 2, 3, 1).reshape(rows, 256).numpy()
    weight = w.reshape(256, 256).numpy()
    # Bias and residual have a rounding each, of sums below 128.
    most = plan.error_bound(flat, weight.T, parts_of(rows, 256, 256, case["threads"])) + 256 * UNIT
    error = (got.double() - want).abs().permute(0, 2, 3, 1).reshape(rows, 256).numpy()
    assert (error <= most).all()


def test_who_is_asked_of_convolutions():
    def names(size: int, k: int, n: int, precision: str = "fp32", **rest: Any) -> list[str]:
        plain = {"stride": (1, 1), "padding": (0, 0), "groups": 1, "kernel": (1, 1)} | rest
        weight = meaning.const_of(torch.ones(n, k // plain["groups"], *plain["kernel"]))
        b = Builder("unit")
        x = b.param(TensorType(DType.F32, (1, k, size, size), (0, 2, 3, 1)), "x")
        kind = Conv(plain["stride"], plain["padding"], (1, 1), plain["groups"])
        fn = b.finish(b(kind, x, b(Constant(weight))))
        return [way for q in ways(fn, precision) for way in q.ranked]

    assert names(14, 1024, 256) == [questions.STRASSEN, "igemm"]
    assert names(28, 512, 1024, stride=(2, 2))
    assert not names(14, 1024, 256, "strict")
    assert not names(7, 2048, 512)
    assert not names(28, 128, 512)
    assert not names(14, 1024, 256, padding=(1, 1))
    assert not names(14, 1024, 512, groups=2)
    assert not names(14, 1024, 256, kernel=(3, 1))


def test_columns_behind_whole_pairs_of_panels_cost_as_much_as_alone():
    whole, behind = strassen_cycles(512, 512, 512, 1), strassen_cycles(512, 512, 513, 1)
    assert behind == pytest.approx(whole + product_cost.igemm_cycles(512, 512, 1))


def test_threads_that_have_no_pair_of_panels_count():
    sides = (196, 1024, 256)
    one, two, many = (strassen_cycles(*sides, n) for n in (1, 2, 2 * Sizes(*sides).pairs))
    assert one < two < many == math.inf


def test_each_thread_has_a_part_of_the_rows_that_fits():
    def parts(rows: int, threads: int) -> int:
        return parts_of(rows, 512, 512, threads)

    few = 4 * ROWS + 3  # of a part, lest a quadrant have less than two tiles
    assert [parts(6 * few, n) for n in (1, 2, 3, 4, 6)] == [1, 2, 3, 4, 6]
    assert parts(2 * few, 4) == 2  # with two threads to a part
    assert parts(2 * few, 5) == 1


def test_operands_of_many_threads_are_near_with_the_panels_that_they_meet():
    deep, wide = (128, 2048, 384), (128, 384, 2048)
    near = product_cost.strassen_is_near
    assert near(*deep, 1) and near(*wide, 1) and near(*wide, 2)
    sizes = product_cost.strassen_sizes(*deep, 2)
    assert sizes is not None and 4 * sizes.sums_floats < product_cost.NEAR_OF_MANY
    assert not near(*deep, 2)


def test_operands_that_no_near_cache_holds_are_timed_or_not_taken(monkeypatch):
    monkeypatch.setattr(product_cost, "FROM_FAR", 0.0)  # lest any lanes refuse them for their cost

    def closeness(rows: int, k: int, n: int) -> float | None:
        (question,) = ways(layer((rows,), k, n, bias=False))
        return question.close

    assert closeness(128, 768, 768) == (questions.STRASSEN_CLOSE if costs_fit() else None)
    assert closeness(1024, 768, 3072) is None
    assert not ways(layer((6272,), 512, 256, bias=False))


def test_operands_from_far_take_longer(monkeypatch):
    near, far = (256, 768, 768), (1024, 768, 3072)
    assert product_cost.strassen_is_near(*near, 1) and not product_cost.strassen_is_near(*far, 1)
    before = [strassen_cycles(*near, 1), strassen_cycles(*far, 1)]
    monkeypatch.setattr(product_cost, "FROM_FAR", 0.0)
    after = [strassen_cycles(*near, 1), strassen_cycles(*far, 1)]
    assert before[0] == after[0] and before[1] > after[1]


@pytest.mark.parametrize("size", [5.0, 7.0])
def test_columns_of_other_sizes_are_not_paired(size):
    w = torch.ones(512, 512)
    w[3, 5] = size
    b = Builder("unit")
    x = b.param(TensorType(DType.F32, (96, 512)), "x")
    fn = b.finish(b(Linear(), x, b(Constant(meaning.const_of(w)))))
    assert bool(ways(fn)) == (size < questions.MOST_UNEVEN)


class Encoder(nn.Module):
    """Two wide layers as encoders have them."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(512, 1024), nn.Linear(1024, 512)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(nn.functional.gelu(self.up(x)))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_network_takes_it_and_is_right(threads):
    torch.manual_seed(0)
    net, x = Encoder().eval(), torch.randn(2, 65, 512)
    made = leptonc.compile(net, x, threads=threads, cache=False, tune=False)
    with torch.no_grad():
        want = net.double()(x.double())
    error = float((made(x).double() - want).abs().max() / want.abs().max())
    assert error <= 1e-5  # what the self-check allows
    used = [u.algorithm for u in made.profile(x).units]
    assert used.count("strassen") == 2
    strict = leptonc.compile(net.float(), x, threads=1, cache=False, precision="strict")
    assert "strassen" not in [u.algorithm for u in strict.profile(x).units]
