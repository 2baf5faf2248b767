"""Attention on codes against its meaning: exact but for the weights that lie between two codes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from leptonc import meaning
from leptonc.backends.numba_cpu.kernels.int8_attention import MOST_KEYS
from leptonc.backends.numba_cpu.legal import No, Yes
from leptonc.backends.numba_cpu.lower.attention import LOWER
from leptonc.ir.core import Builder
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.quantize import IntAttention
from leptonc.ir.types import DType, TensorType
from tests.backends.numba_cpu.harness import Run

pytestmark = pytest.mark.numba


def codes(g: torch.Generator, *shape: int) -> Tensor:
    """Draw codes, some of them extreme."""
    drawn = torch.randint(-128, 128, shape, generator=g)
    extreme = torch.randint(0, 12, shape, generator=g)
    return torch.where(extreme == 0, -128, torch.where(extreme == 1, 127, drawn)).to(torch.int8)


def result(
    kind: IntAttention, operands: list[Tensor], slope: float, v_scale: float, threads: int,
    layout: tuple[int, ...] | None = None,
) -> Tensor:  # fmt: skip
    b = Builder("attention")
    q, k, v, *mask = (
        b.param(TensorType(meaning.type_of(t).dtype, tuple(t.shape), layout if i < 3 else None))
        for i, t in enumerate(operands)
    )
    scales = (b(Constant(meaning.const_of(torch.tensor(s)))) for s in (slope, v_scale))
    run = Run(b.finish(b(kind, q, k, v, *scales, *mask)), threads)
    run.bind(*operands)
    run.run()
    return run.results()[0]


def check(
    kind: IntAttention, operands: list[Tensor], slope: float, v_scale: float, got: Tensor
) -> None:
    """Hold a result to the meaning, computed here once more from the formula of the docstring.

    A weight is off by the rounding of ``exp`` and of its argument. Where 255 times it lies that
    near the middle of two codes, either may be taken: of ``n`` such weights with codes that sum to
    ``s``, each moves the result by at most ``(|v| + |result|) / (s - n)``.
    """  # fmt: skip
    q, k, v, *mask = operands
    if kind.gqa:
        k, v = (t.repeat_interleave(q.shape[-3] // t.shape[-3], -3) for t in (k, v))
    scores = (q.double() @ k.double().mT) * float(torch.tensor(slope))
    most = scores.abs().amax() + (mask[0].nan_to_num(0, 0, 0).abs().max() if mask and
                                  mask[0].is_floating_point() else 0)  # fmt: skip
    if kind.causal:
        keep = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        scores = scores.masked_fill(~keep, -math.inf)
    if mask:
        given_ = mask[0]
        scores = (
            scores.masked_fill(~given_, -math.inf)
            if given_.dtype is torch.bool
            else scores + given_
        )
    weights = 255 * torch.exp(scores - scores.amax(-1, keepdim=True)).nan_to_num(0.0)
    slack = weights * (8 * float(most) + 16) * 2.0**-24  # roundings of scores, 8; of exp, 16
    low, high = (torch.round(weights + s).clamp(0, 255) for s in (-slack, slack))
    unsure, p = (low != high), torch.round(weights)
    want = (p @ v.double()) * v_scale / p.sum(-1, keepdim=True).clamp_min(1.0)
    count, sums = unsure.sum(-1, keepdim=True), p.sum(-1, keepdim=True)
    reach = (unsure.double() @ v.double().abs()) * v_scale + count * want.abs()
    bound = reach / (sums - count).clamp_min(1.0) + 4 * 2.0**-24 * want.abs()
    if kind.nan_rows and mask:
        lost = (sums == 0).expand_as(want)
        assert bool(got[lost].isnan().all())
        got, want, bound = got[~lost], want[~lost], bound[~lost]
    assert bool(((got.double() - want).abs() <= bound).all())


def mask_of(form: str, shape: tuple[int, ...], g: torch.Generator) -> list[Tensor]:
    if form == "none":
        return []
    keep = torch.rand(shape, generator=g) > 0.3
    if form == "float":
        return [torch.where(keep, torch.randn(shape, generator=g), -math.inf)]
    if form == "rows":
        keep[..., 0, :] = False
    if form == "padding":
        keep = torch.ones(shape, dtype=torch.bool)
        keep[..., shape[-1] // 2 :] = False
    return [keep]


_SIZES = st.tuples(
    st.integers(1, 40), st.integers(1, 140), st.sampled_from([4, 32, 36]), st.integers(1, 70)
)


@example(lead=(2, 4), sizes=(1, 33, 64, 64), form="bool", causal=False, nan=False, groups=2, seed=1)
@example(lead=(2, 4), sizes=(33, 33, 32, 32), form="none", causal=True, nan=True, groups=1, seed=1)
@example(lead=(2, 4), sizes=(9, 67, 128, 128), form="rows", causal=True, nan=True, groups=1, seed=2)
@given(
    lead=st.sampled_from([(), (4,), (2, 4), (2, 3, 4)]), sizes=_SIZES,
    form=st.sampled_from(["none", "bool", "float", "rows", "padding"]), causal=st.booleans(),
    nan=st.booleans(), groups=st.sampled_from([1, 2]), seed=st.integers(0, 99),
)  # fmt: skip
def test_matches_its_meaning(lead, sizes, form, causal, nan, groups, seed) -> None:
    queries, keys, depth, width = sizes
    groups = groups if len(lead) == 2 else 1
    g = torch.Generator().manual_seed(seed)
    fewer = (*lead[:-1], lead[-1] // groups) if lead else lead
    shape = (queries, keys) if seed % 2 else (*lead[:-1], *(1 for _ in lead[-1:]), queries, keys)
    operands = [
        codes(g, *lead, queries, depth), codes(g, *fewer, keys, depth),
        codes(g, *fewer, keys, width), *mask_of(form, shape, g),
    ]  # fmt: skip
    kind = IntAttention(causal, groups > 1, nan)
    slope = [1e-5, 3e-4, 2e-2][seed % 3]  # nearly even weights, usual ones, one of a row
    got = result(kind, operands, slope, 0.013, 1 + seed % 2 * 2)
    check(kind, operands, slope, 0.013, got)
    b = meaning.apply(kind, *operands[:3], torch.tensor(slope), torch.tensor(0.013), *operands[3:])
    check(kind, operands, slope, 0.013, b[0])


@pytest.mark.parametrize("nan", [False, True])
def test_a_lost_row_does_not_see_what_comes_later(nan: bool) -> None:
    """Its later keys lie in the same vector, with positive scores that no mask has touched."""
    g = torch.Generator().manual_seed(0)
    q, k, v = (codes(g, 1, 2, 9, 32) for _ in range(3))
    keep = torch.ones(9, 9, dtype=torch.bool)
    keep[0] = False
    operands = [q.clamp_min(1), k.clamp_min(1), v, keep]
    got = result(IntAttention(True, False, nan), operands, 3e-4, 0.01, 1)
    check(IntAttention(True, False, nan), operands, 3e-4, 0.01, got)


def test_threads_do_not_change_a_bit() -> None:
    g = torch.Generator().manual_seed(0)
    operands = [codes(g, 1, 3, 50, 32) for _ in range(3)]
    one, three = (result(IntAttention(), operands, 3e-4, 0.01, n) for n in (1, 3))
    assert torch.equal(one, three)


def test_heads_that_lie_interleaved() -> None:
    """The layout that ``[b,t,h*d]`` projections give."""
    g = torch.Generator().manual_seed(0)
    operands = [codes(g, 2, 4, n, 32) for n in (15, 22, 22)]
    got = result(IntAttention(), operands, 3e-4, 0.01, 2, (0, 2, 1, 3))
    assert torch.equal(got, result(IntAttention(), operands, 3e-4, 0.01, 1))


@pytest.mark.parametrize(("depth", "keys"), [(32, MOST_KEYS), (32, MOST_KEYS + 1), (30, 8)])
def test_claims(depth: int, keys: int) -> None:
    b = Builder("attention")
    q, k, v = (b.param(TensorType(DType.I8, (n, depth))) for n in (4, keys, keys))
    one = b(Constant(meaning.const_of(torch.tensor(1.0))))
    op = b.finish(b(IntAttention(), q, k, v, one, one)).ops[-1]
    fits = depth % 4 == 0 and keys <= MOST_KEYS
    assert isinstance(LOWER[IntAttention][0](op), Yes if fits else No)
    assert MOST_KEYS * 255 * 128 < 2**31
