"""Weights whose sums int16 holds: proven from their codes, in the order in which kernels sum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import leptonc
from leptonc.backends.numba_cpu.kernels import int8_pairs, int8_plan, int8_strip
from leptonc.backends.numba_cpu.kernels.int8_pairs import GROUP, HEADER, Range
from leptonc.backends.numba_cpu.lower import int8_job
from leptonc.compress.quantize import recipe
from leptonc.compress.quantize.gptq import gptq, hessian
from leptonc.compress.quantize.small_sums import MOST, SIZE, Room, _held, _signs, sums_of
from leptonc.compress.quantize.weights import largest_scale, round_to_nearest
from leptonc.ir.kinds.contract import Conv, Linear

pytestmark = pytest.mark.numba
EVERY = Range()
LINEAR = st.tuples(st.integers(1, 6), st.integers(1, 70))
CONV = st.tuples(
    st.integers(1, 6), st.integers(1, 20), st.integers(1, 3), st.integers(1, 3)
)  # fmt: skip
SHAPES = LINEAR | CONV
KINDS = {"normal": torch.randn, "uniform": lambda *n, generator: torch.rand(*n, generator=generator)
         - 0.5, "one sign": torch.rand}  # fmt: skip


def weight(kind: str, seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    w = (
        KINDS[kind](*shape, generator=g)
        * 10.0 ** torch.randint(-6, 3, (shape[0],), generator=g)[(..., *[None] * (len(shape) - 1))]
    )
    w[0] *= float(torch.rand((), generator=g) > 0.1)  # now and then nothing but zeros
    return w


def kind_of(shape: tuple[int, ...]) -> Conv | Linear:
    return Linear() if len(shape) == 2 else Conv((1, 1), (0, 0), (1, 1), 1)


def panels(codes: torch.Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """Return codes packed as the lowering does; a convolution of few channels in lines."""
    w = codes.reshape(shape).numpy()
    if len(shape) == 2:
        return int8_plan.pack_bytes(w[:, None])
    if shape[1] <= 8 and shape[3] > 1:
        return int8_plan.pack_bytes(w.transpose(0, 2, 3, 1).reshape(len(w), shape[2], -1))
    return int8_plan.pack_bytes(w.reshape(*shape[:2], -1).transpose(0, 2, 1))


def made(method: str, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    matrix, sums = w.reshape(len(w), -1), sums_of(kind_of(tuple(w.shape)), tuple(w.shape))
    assert sums is not None
    if method != "gptq":
        return round_to_nearest(matrix, 8, 1, method == "mse", sums)
    k = matrix.shape[1]
    x = torch.randn(3 * k, k, generator=torch.Generator().manual_seed(1)) + 0.5
    return gptq(matrix, hessian(x[None]), 8, 1, sums)


@given(
    seed=st.integers(0, 2**16), kind=st.sampled_from(sorted(KINDS)), shape=SHAPES,
    method=st.sampled_from(["minmax", "mse", "gptq"]),
)  # fmt: skip
def test_no_pair_and_no_group_leaves_int16(seed, kind, shape, method) -> None:
    packed = panels(made(method, weight(kind, seed, shape))[0], shape)
    assert not int8_pairs.saturating(packed, EVERY).any()
    assert not int8_pairs.saturating_groups(packed, EVERY).any()


@given(codes=st.lists(st.lists(st.integers(-127, 127), min_size=SIZE, max_size=SIZE), min_size=1))
def test_codes_shrink_alike_to_what_int16_holds(codes) -> None:
    """Each falls short of its share by less than one; of what fits, nothing changes."""
    blocks = torch.tensor([codes], dtype=torch.float32)
    for made, drawn in zip(_signs(_held(blocks)), _signs(blocks), strict=True):
        total = drawn.sum(-1, keepdim=True)
        assert bool((made.sum(-1) <= MOST).all())
        assert torch.equal(made, torch.where(total <= MOST, drawn, made))
        share = drawn.double() * (MOST / total.double().clamp_min(MOST))
        slack = share * 2.0**-22  # a quotient and a product of f32
        assert bool(((made <= share + slack) & (made > share - 1 - slack)).all())


def group_sums(matrix: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Return the largest sum of one sign among groups of each row."""
    sums = sums_of(kind_of(shape), shape)
    assert sums is not None
    laid = sums.laid(matrix)
    return torch.maximum(laid.clamp_min(0).sum(-1).amax(1), (-laid).clamp_min(0).sum(-1).amax(1))


@given(
    seed=st.integers(0, 2**16), kind=st.sampled_from(sorted(KINDS)), shape=SHAPES,
    method=st.sampled_from(["minmax", "mse"]),
)  # fmt: skip
def test_errors_are_no_larger_than_of_the_step_that_no_sum_exceeds(
    seed, kind, shape, method
) -> None:
    """At that step each weight is off by half of it at most; a row's squares are no more."""
    w = weight(kind, seed, shape).reshape(shape[0], -1)
    codes, scale = made(method, w.reshape(shape))
    step = torch.maximum(group_sums(w, shape) / (MOST - 2), largest_scale(w, 8))
    assert bool((scale[:, 0] <= step * (1 + 2.0**-20)).all())
    nearest = (w / step[:, None]).round() * step[:, None]
    error, off = ((v.double() - w).norm(dim=1) for v in (codes * scale, nearest))
    # codes of up to 127 steps, rounded by f32 on a handful of occasions
    rounding = w.shape[1] ** 0.5 * step * 2.0**7 * 2.0**-21
    assert bool((error <= off + rounding).all())
    assert bool((off <= w.shape[1] ** 0.5 * step / 2 + rounding).all())


def test_a_step_grows_only_as_far_as_sums_ask() -> None:
    """Of one large weight a group nothing need be taken: it keeps its eight bits."""
    w = torch.full((2, 64), 0.001)
    w[:, ::8] = 1.0
    assert int(made("minmax", w)[0].max()) == 127
    w[0] = 1.0
    assert made("minmax", w)[0].amax(1).tolist() == [MOST // 4, 127]


@pytest.mark.parametrize("tails", [3.0, 5.0, 1e6])
def test_less_is_lost_than_by_halving_all_weights(tails: float) -> None:
    """As other compilers do for such processors; most is gained where tails are long."""
    torch.manual_seed(0)
    w = torch.distributions.StudentT(tails).sample((64, 512))
    half = largest_scale(w, 8)[:, None] * 127 / 63
    codes, scale = made("minmax", w)
    errors = [(v - w).norm() for v in (codes * scale, (w / half).round() * half)]
    assert errors[0] < errors[1]


@given(seed=st.integers(0, 2**16), shape=SHAPES, sets=st.integers(1, 2))
def test_codes_in_any_order_take_what_room_is_left(seed, shape, sets) -> None:
    """A code is cut off only where its group is full, and no further than to fill it."""
    sums, g = sums_of(kind_of(shape), shape), torch.Generator().manual_seed(seed)
    assert sums is not None
    rows, k = shape[0], len(sums.group)
    drawn = torch.randint(-127, 128, (sets, rows, k), generator=g).double()
    order = torch.stack([torch.randperm(k, generator=g) for _ in range(sets)])
    room, kept = Room(sums, order, rows), torch.empty_like(drawn)
    for place in range(k):
        columns = order[:, place, None, None].expand(sets, rows, 1)
        kept.scatter_(2, columns, room.taken(drawn.gather(2, columns)[..., 0], place)[..., None])
    assert bool(((kept == drawn) | (kept.sign() * drawn.sign() >= 0)).all())
    for sign in (1.0, -1.0):
        wanted, took = (
            sums.laid((sign * c).clamp_min(0).reshape(-1, k)).sum(-1) for c in (drawn, kept)
        )
        assert torch.equal(took, wanted.clamp(max=MOST))


@given(shape=SHAPES)
def test_what_is_laid_in_groups_comes_back(shape) -> None:
    sums = sums_of(kind_of(shape), shape)
    assert sums is not None
    matrix = torch.randn(shape[0], len(sums.group))
    assert torch.equal(sums.flat(sums.laid(matrix)), matrix)


def test_other_products_sum_otherwise() -> None:
    assert sums_of(Conv((1, 1), (1, 1), (1, 1), 8), (8, 1, 3, 3)) is None


# ----- the recipe ---------------------------------------------------------------------------------


def net() -> torch.nn.Module:
    torch.manual_seed(0)
    made = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(16, 24, 1),
        torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(24 * 16, 10),
    ).eval()  # fmt: skip
    for p in made.parameters():  # most of trained weights are far from the largest, too
        torch.nn.init.normal_(p, std=0.1)
    return made


@pytest.mark.parametrize(
    ("method", "reduce"), [("minmax", True), ("mse", True), ("gptq", True), ("minmax", False)]
)
def test_kernels_find_all_sums_of_such_a_network_proven(monkeypatch, method, reduce) -> None:
    monkeypatch.setattr(int8_job, "PROVEN", "pairs")
    monkeypatch.setattr(int8_strip, "STRIPS", False)  # as on a processor without VNNI
    apart = []

    def spied(panels, codes):
        apart.append(int8_pairs.taken_apart(panels, codes))
        return apart[-1]

    monkeypatch.setattr(int8_job, "taken_apart", spied)
    model, x = net(), torch.randn(2, 3, 4, 4)
    recipe_ = leptonc.Quantize(method=method, reduce_range=reduce)
    small = leptonc.compress(model, x, recipe_, data=[torch.randn(2, 3, 4, 4)])
    leptonc.compile(small, x, verify="off", cache=False, tune=False)
    headers = [a.extra[:HEADER].view(np.int64) for a in apart]
    assert len(headers) == 3
    assert all(h[1] == 0 and h[2] == GROUP for h in headers) == reduce


def test_results_stay_near(monkeypatch) -> None:
    """The reduced weights cost less than twice the error; the step grows less than that."""
    model, x = net(), torch.randn(2, 3, 4, 4)
    data = [torch.randn(2, 3, 4, 4) for _ in range(8)]
    with torch.no_grad():
        want = model(x)
        off = [
            float((leptonc.compress(model, x, leptonc.Quantize(reduce_range=r), data=data)(x)
                   - want).norm() / want.norm())
            for r in (False, True)
        ]  # fmt: skip
    assert off[1] < 2 * off[0]


@pytest.mark.parametrize(("proven", "small"), [("pairs", True), ("vnni", False), ("plain", False)])
def test_left_open_the_machine_decides(monkeypatch, proven: str, small: bool) -> None:
    monkeypatch.setattr(recipe, "PROVEN", proven)
    assert leptonc.Quantize().sums_in_int16 == small
    assert leptonc.Quantize(reduce_range=not small).sums_in_int16 != small


def test_only_products_of_codes_have_small_weights() -> None:
    """Weights alone of 8 bits keep them all, also beside a form that reduces them."""
    model, x = torch.nn.Linear(64, 8).eval(), torch.randn(4, 64)
    with torch.no_grad():
        model.weight.fill_(0.1)
    for options, largest in (
        ({"activations": None}, 127), ({"scheme": "dynamic"}, MOST // 4), ({}, MOST // 4),
    ):  # fmt: skip
        small = leptonc.compress(model, x, leptonc.Quantize(reduce_range=True, **options), data=[x])
        (codes,) = [t for t in small.state_dict().values() if t.dtype is torch.int8]
        assert int(codes.max()) == largest


def test_what_is_no_choice_is_named() -> None:
    with pytest.raises(leptonc.compress.CompressError, match="reduce_range"):
        leptonc.Quantize(reduce_range="yes")  # type: ignore[arg-type]
