"""Rounding of weights: half a step, least squares, packing; GPTQ against its definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leptonc import meaning
from leptonc.compress.quantize import ranges
from leptonc.compress.quantize.gptq import gptq, hessian, patches
from leptonc.compress.quantize.weights import RANGES, packed, round_to_nearest
from leptonc.ir.kinds.contract import Conv
from leptonc.ir.kinds.quantize import UnpackInt4

SHAPES = st.tuples(st.integers(1, 6), st.sampled_from([4, 8, 16]), st.sampled_from([1, 2, 4]))


def matrix(seed: int, n: int, k: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(n, k, generator=g) * torch.rand(n, 1, generator=g)
    return w * (torch.rand(n, 1, generator=g) > 0.1)  # some rows are zero


def restored(codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (codes.reshape(*scale.shape, -1) * scale[..., None]).reshape(codes.shape)


@given(seed=st.integers(0, 2**16), shape=SHAPES, bits=st.sampled_from([4, 8]))
def test_nothing_is_clipped_and_the_error_is_half_a_step(seed, shape, bits) -> None:
    n, k, groups = shape
    w = matrix(seed, n, k)
    codes, scale = round_to_nearest(w, bits, groups, clip=False)
    assert codes.dtype is torch.int8 and scale.shape == (n, groups)
    assert int(codes.min()) >= RANGES[bits][0] and int(codes.max()) <= RANGES[bits][1]
    steps = scale.repeat_interleave(k // groups, 1)
    assert bool(((restored(codes, scale) - w).abs() <= steps * (0.5 + 2.0**-15)).all())


@given(seed=st.integers(0, 2**16), shape=SHAPES, bits=st.sampled_from([4, 8]))
def test_clipping_never_costs_more(seed, shape, bits) -> None:
    n, k, groups = shape
    w = matrix(seed, n, k)
    plain, clipped = (restored(*round_to_nearest(w, bits, groups, clip=c)) for c in (False, True))
    errors = [(r - w).reshape(n, groups, -1).square().sum(-1) for r in (plain, clipped)]
    assert bool((errors[1] <= errors[0] * (1 + 1e-6)).all())


@given(seed=st.integers(0, 2**16), n=st.integers(1, 5), k=st.integers(1, 9))
def test_packed_codes_unpack(seed: int, n: int, k: int) -> None:
    g = torch.Generator().manual_seed(seed)
    codes = torch.randint(-8, 8, (n, k), generator=g).to(torch.int8)
    (back,) = meaning.apply(UnpackInt4(), packed(codes))
    assert back.shape[1] - k in (0, 1) and torch.equal(back[:, :k], codes)


@given(seed=st.integers(0, 2**16), groups=st.sampled_from([1, 2]), bits=st.sampled_from([4, 8]))
def test_gptq_loses_less_on_its_inputs(seed: int, groups: int, bits: int) -> None:
    """On inputs that hang together the outputs are nearer than with the nearest codes."""
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(8, 16, generator=g)
    x = torch.randn(256, 4, generator=g) @ torch.randn(4, 16, generator=g)
    x += 0.1 * torch.randn(256, 16, generator=g)
    nearest = restored(*round_to_nearest(w, bits, groups, clip=True))
    made = restored(*gptq(w, hessian(x[None]), bits, groups))
    errors = [float(((r - w) @ x.T).square().sum()) for r in (nearest, made)]
    assert errors[1] < errors[0]


def test_gptq_of_independent_inputs_is_rounding_to_nearest() -> None:
    w = torch.randn(6, 300, generator=torch.Generator().manual_seed(0))
    codes, scale = gptq(w, torch.eye(300)[None], 4, 3)
    want, scales = round_to_nearest(w, 4, 3, clip=True)
    torch.testing.assert_close(scale, scales)
    assert torch.equal(codes, want)


def test_gptq_in_blocks_is_gptq(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks only put off what the columns behind them take over."""
    g = torch.Generator().manual_seed(0)
    w = torch.randn(4, 300, generator=g)
    h = hessian(torch.randn(1, 400, 30, generator=g) @ torch.randn(30, 300, generator=g))
    codes, scale = gptq(w, h, 4, 3)
    monkeypatch.setattr("leptonc.compress.quantize.gptq.BLOCK", 300)
    whole, scales = gptq(w, h, 4, 3)
    assert torch.equal(scale, scales)
    assert float((codes != whole).float().mean()) < 0.01  # sums in another order: ties may flip


def test_gptq_takes_inputs_that_are_always_zero() -> None:
    codes, scale = gptq(torch.randn(3, 8), torch.zeros(1, 8, 8), 8, 1)
    assert bool(torch.isfinite(scale).all()) and codes.dtype is torch.int8


@pytest.mark.parametrize(
    ("kind", "shape", "kernel"),
    [
        (Conv((2, 1), (1, 0), (1, 2), 2, (2, 1)), (2, 4, 9, 8), (3, 2)),
        (Conv((1,), (2,), (3,), 1), (2, 3, 11), (3,)),
        (Conv((1, 2, 1), (0, 1, 1), (1, 1, 1), 4), (1, 4, 3, 5, 4), (2, 2, 2)),
    ],
)
def test_a_convolution_is_the_product_of_its_patches(kind, shape, kernel) -> None:
    x, n = torch.randn(shape), 4
    w = torch.randn(n, shape[1] // kind.groups, *kernel)
    (want,) = meaning.apply(kind, x, w)
    rows = patches(x, kind, kernel)
    got = rows @ w.reshape(kind.groups, n // kind.groups, -1).transpose(1, 2)
    got = got.permute(1, 0, 2).reshape(shape[0], -1, n).transpose(1, 2).reshape(want.shape)
    torch.testing.assert_close(got, want)


@given(
    seed=st.integers(0, 2**16), key=st.sampled_from(sorted(ranges.CODES)),
    method=st.sampled_from(sorted(ranges.METHODS)), shift=st.sampled_from([0.0, 3.0, -9.0]),
)  # fmt: skip
def test_scales_of_activations_hold_zero(seed, key, method, shift) -> None:
    """Zero has a code of its own; min-max clips nothing; least squares are no worse."""
    codes, g = ranges.CODES[key], torch.Generator().manual_seed(seed)
    seen = ranges.Seen(0)
    x = torch.randn(500, generator=g) + shift
    assert seen.add(x) and not seen.add(torch.tensor([float("nan")]))
    scale, zero = ranges.METHODS[method](seen, codes)
    assert codes.low <= zero <= codes.high and scale > 0

    def error(scale: float, zero: int) -> tuple[float, float]:
        q = (torch.round(x / scale) + zero).clamp(codes.low, codes.high)
        off = (q - zero) * scale - x
        return float(off.abs().max()), float(off.double().square().sum())

    plain = error(*ranges.minmax(seen, codes))
    step = ranges.minmax(seen, codes)[0]
    assert plain[0] <= step * 1.01 + 1e-5  # rounding of the zero point may cost half a step more
    if method == "mse":
        assert error(scale, zero)[1] <= plain[1] * (1 + 1e-3) + 1e-9


def test_nothing_but_zeros_has_a_scale() -> None:
    seen = ranges.Seen(0)
    seen.add(torch.zeros(5))
    assert all(m(seen, c)[0] == 1.0 for m in ranges.METHODS.values() for c in ranges.CODES.values())
