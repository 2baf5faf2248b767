"""Attention against torch: masks, causal, grouped heads, odd sizes, any rank and thread count."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from leptonc.backends.numba_cpu.kernels.attention import BLOCK, SHARES, SPARE
from leptonc.ir.kinds.contract import Attention
from tests.backends.numba_cpu.harness import check_op

pytestmark = pytest.mark.numba


def _mask(form: str, shape: tuple[int, ...], g: torch.Generator) -> list[Tensor]:
    """Return no mask, or one of ``shape``: bool, float, or with whole rows masked out."""
    if form == "none":
        return []
    keep = torch.rand(shape, generator=g) > 0.3
    if form == "float":
        return [torch.where(keep, torch.randn(shape, generator=g), float("-inf"))]
    if form == "rows":
        keep[..., 0, :] = False
    return [keep]


def _case(
    lead: tuple[int, ...], sizes: tuple[int, int, int, int], form: str, groups: int, seed: int
) -> list[Tensor]:
    """Return q, k, v and mask; ``sizes``: queries, keys, depth, width."""
    g = torch.Generator().manual_seed(seed)
    queries, keys, depth, width = sizes
    fewer = (*lead[:-1], lead[-1] // groups) if lead else lead
    q = torch.randn(*lead, queries, depth, generator=g)
    k = torch.randn(*fewer, keys, depth, generator=g)
    v = torch.randn(*fewer, keys, width, generator=g)
    shape = (queries, keys) if seed % 2 else (*lead[:-1], *(1 for _ in lead[-1:]), queries, keys)
    if form in ("bool", "float") and seed % 3 == 0:
        shape = (*shape[:-2], 1, keys)
    return [q, k, v, *_mask(form, shape, g)]


_LEADS = st.sampled_from([(), (1,), (4,), (2, 4), (1, 6), (2, 3, 4), (2, 1, 2, 2)])
_SIZES = st.tuples(st.integers(1, 40), st.integers(1, 70), st.integers(1, 40), st.integers(1, 40))


@example(lead=(2, 4), sizes=(1, 33, 16, 16), form="bool", causal=False, groups=2, seed=1)
@example(lead=(2, 4), sizes=(13, 13, 32, 32), form="none", causal=True, groups=1, seed=1)
@example(lead=(2, 4), sizes=(9, 17, 5, 7), form="rows", causal=False, groups=4, seed=1)
@given(
    lead=_LEADS,
    sizes=_SIZES,
    form=st.sampled_from(["none", "bool", "float", "rows"]),
    causal=st.booleans(),
    groups=st.sampled_from([1, 1, 2]),
    seed=st.integers(0, 9),
)
def test_matches_torch(
    lead: tuple[int, ...],
    sizes: tuple[int, int, int, int],
    form: str,
    causal: bool,
    groups: int,
    seed: int,
) -> None:
    causal = causal and form == "none"  # torch takes one or the other
    groups = groups if lead and lead[-1] % groups == 0 and len(lead) == 2 else 1
    operands = _case(lead, sizes, form, groups, seed)
    kind = Attention(sizes[2] ** -0.5, causal, groups > 1)
    check_op(kind, *operands, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("queries", [BLOCK + SPARE, BLOCK + SPARE + 1, 2 * BLOCK + 1])
@pytest.mark.parametrize("heads", [1, 2 * SHARES])
@pytest.mark.parametrize("causal", [False, True])
def test_the_last_block_takes_what_is_left(queries: int, heads: int, causal: bool) -> None:
    q, k, v = (torch.randn(1, heads, n, 8) for n in (queries, 37, 37))
    check_op(Attention(0.3, causal=causal), q, k, v, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("queries", [1, 4, 5, 30])
@pytest.mark.parametrize("form", ["bool", "float"])
@pytest.mark.parametrize("nan_rows", [False, True])
def test_rows_masked_out_wholly(form: str, queries: int, nan_rows: bool) -> None:
    q, k, v = (torch.randn(2, 3, n, 8) for n in (queries, 19, 19))
    keep = torch.rand(2, 1, queries, 19) > 0.5
    keep[0, 0, 0] = False
    mask = keep if form == "bool" else torch.zeros(keep.shape).masked_fill(~keep, float("-inf"))
    kind = Attention(0.3, nan_rows=nan_rows)
    check_op(kind, q, k, v, mask, rtol=2e-5, atol=2e-6)


def test_a_lost_row_does_not_see_what_comes_later() -> None:
    """Causal, and masked out wholly: its later keys lie in the same vector, untouched."""
    q, k, v = (torch.randn(1, 2, 9, 8) for _ in range(3))
    keep = torch.ones(9, 9, dtype=torch.bool)
    keep[0] = False
    check_op(Attention(0.3, causal=True), q, k, v, keep, rtol=2e-5, atol=2e-6)


def test_nan_stays_in_its_row() -> None:
    q, k, v = (torch.randn(1, 2, 20, 8) for _ in range(3))
    q[0, 1, 7, 3] = float("nan")
    check_op(Attention(0.5), q, k, v, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("queries", [2, 20])
def test_nan_among_lost_scores_is_not_forgotten(queries: int) -> None:
    """The rest of the row is -inf: only the NaN tells it from a row that is masked out."""
    q, k, v = (torch.randn(1, 2, n, 8) for n in (queries, 37, 37))
    mask = torch.full((queries, 37), float("-inf"))
    mask[1, 5] = float("nan")
    check_op(Attention(0.5), q, k, v, mask, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("scale", [-0.7, 0.0])
@pytest.mark.parametrize("form", ["none", "bool"])
def test_scale_that_is_not_positive(scale: float, form: str) -> None:
    check_op(Attention(scale), *_case((2, 3), (17, 45, 19, 33), form, 1, 5), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("dropped", [0, 1, 40])
def test_padding_of_keys(dropped: int) -> None:
    """One bool row for all queries of a batch, the form in which tokenizers pad."""
    q, k, v = (torch.randn(2, 3, 41, 32) for _ in range(3))
    keep = torch.ones(2, 1, 1, 41, dtype=torch.bool)
    keep[1, ..., 41 - dropped :] = False
    check_op(Attention(0.2), q, k, v, keep.expand(2, 1, 41, 41), rtol=2e-5, atol=2e-6)


def test_scores_far_apart() -> None:
    """Weights that underflow are 0 and large scores do not overflow."""
    q, k, v = (torch.randn(1, 2, 30, 16) for _ in range(3))
    check_op(Attention(30.0), q, k, v, rtol=2e-4, atol=2e-5)


def test_heads_that_lie_interleaved() -> None:
    """The layout that ``[b,t,h*d]`` projections give: no copy, strides only."""
    layout = (0, 2, 1, 3)
    q, k, v = (torch.randn(2, 4, n, 8) for n in (15, 22, 22))
    check_op(
        Attention(0.35), q, k, v, rtol=2e-5, atol=2e-6,
        layouts=[layout] * 3, result_layouts=[layout],
    )  # fmt: skip


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (1, 2, 0, 4)])
def test_nothing_to_do(shape: tuple[int, ...]) -> None:
    q = torch.randn(shape)
    k = torch.randn(shape[0], 2, 5, 4)
    check_op(Attention(0.5), q, k, k.clone())


def test_no_keys_give_zeros() -> None:
    q, k = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 0, 4)
    check_op(Attention(0.5), q, k, k.clone())
