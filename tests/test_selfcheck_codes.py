"""The self-check of programs on codes: what lies between two codes is decided by rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import leptonc
from leptonc import check
from leptonc.capture.frontend import capture

SEEDS = (3, 14, 27)  # where one scale in the place of two decides otherwise
CODES: dict[str, Any] = {"low": -127, "high": 127, "dtype": torch.int8}


class Between(nn.Module):
    """A product of two codes, rounded to a code that its value lies ``off`` of a half from."""

    def __init__(self, seed: int, off: float = 0.0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.a, self.b = 0.5 + torch.rand(2, generator=g)
        # a * x times b * w, both odd, in steps of 18 a b: a half where x w / 9 is odd
        self.step = 18 * (1 + off) * self.a * self.b
        self.w = 2 * torch.randint(60, (1, 1), generator=g).to(torch.int8) + 1
        self.x = torch.full((1, 1), 2.0 * (seed % 9) + 3) * self.a

    def forward(self, x: Tensor) -> Tensor:
        ops = torch.ops.leptonc
        x = ops.dequantize(ops.quantize(x, self.a, **CODES), self.a)
        y = nn.functional.linear(x, ops.dequantize(self.w, self.b))
        return ops.dequantize(ops.quantize(y, self.step, **CODES), self.step)


@pytest.mark.numba
@pytest.mark.parametrize("seed", SEEDS)
def test_a_value_between_two_codes_may_become_either(seed: int) -> None:
    net = Between(seed).eval()
    made = leptonc.compile(net, net.x, threads=1, cache=False, tune=False)
    assert abs(float(made(net.x) - net(net.x))) == pytest.approx(float(net.step))
    assert not [r for r in made.specializations[0].remarks if r.pass_ == "check"]


@pytest.mark.parametrize("off", [1e-4, -1e-4])
def test_a_value_off_the_middle_has_one_code(off: float) -> None:
    for seed in SEEDS:
        net = Between(seed, off).eval()
        fn = capture(net, net.x).function
        ref = check.conditioned(check.reference(fn, (net.x,), "fp32"), fn)
        right = net(net.x)
        assert ref.worst((right,)) is None
        assert ref.worst((right + net.step,)) is not None
        assert ref.worst((right - net.step,)) is not None
