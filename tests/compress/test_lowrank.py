"""LowRank: factors within their budget, the network they make, and what is left alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import leptonc
from leptonc.capture.frontend import capture
from leptonc.compress.factors import moment_of, spectra
from leptonc.compress.recipe import CompressError
from leptonc.ir.kinds.contract import Conv, Linear
from leptonc.ir.text import dump

DAMPING = 1e-4


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(2, 12), st.integers(2, 12), st.floats(0.02, 0.9), st.integers(0, 99))
def test_the_error_of_outputs_keeps_to_the_budget(n: int, k: int, error: float, seed: int) -> None:
    """The bound is that of the damped moment: damping adds to the norm that it is relative to."""
    w, x = _normal(n, k, seed=seed), _normal(40, k, seed=seed + 1) @ _normal(k, k, seed=seed + 2)
    moment = moment_of(Linear(), x, (n, k))
    found = spectra(w, moment, DAMPING)
    ranks = found.ranks_of_error(error)
    first, last = found.factors(ranks).weights
    off = x.double() @ (w.double() - last.double() @ first.double()).T
    whole = float(found.whitened.square().sum())
    # Factors are rounded to f32: each product of a sum of r terms is off by r + 2 units at most.
    rounding = (ranks[0] + 2) * 2**-24 * float((last.abs() @ first.abs()).double().norm())
    spread = float(moment.diagonal().sum().sqrt())
    assert float(off.norm()) <= error * math.sqrt(whole) + rounding * spread
    assert found.error(ranks) <= error + 1e-7  # the root of what cancels in f64


@given(st.sampled_from([(8, 6, 3), (5, 7, 2), (4, 4, 1)]), st.floats(0.05, 0.9))
def test_kernels_keep_to_the_budget_too(sizes: tuple[int, int, int], error: float) -> None:
    n, k, side = sizes
    found = spectra(_normal(n, k, side, side), None, DAMPING)
    assert found.error(found.ranks_of_error(error)) <= error + 1e-7


@given(st.integers(2, 40), st.integers(2, 40), st.sampled_from([1, 3]), st.floats(0.2, 0.9))
def test_ratio_bounds_the_number_of_weights(n: int, k: int, side: int, kept: float) -> None:
    found = spectra(_normal(n, k, side, side), None, DAMPING)
    ranks = found.ranks_of_size(kept * n * k * side * side)
    assert found.size(ranks) <= kept * n * k * side * side or min(ranks) == 1
    assert found.factors(ranks).numel == found.size(ranks)


def test_whitening_beats_plain_svd_on_inputs_that_depend_on_each_other() -> None:
    w, x = _normal(16, 16), _normal(200, 16, seed=1) * torch.logspace(0, -3, 16)
    moment = moment_of(Linear(), x, (16, 16))

    def error(moment: torch.Tensor | None) -> float:
        first, last = spectra(w, moment, DAMPING).factors((4,)).weights
        return float((x @ (w - last @ first).T).norm())

    assert error(moment) < 0.5 * error(None)


class Net(nn.Module):
    """Weights of rank 4, and noise that is not worth keeping."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.point = nn.Conv2d(32, 32, 1, stride=2)
        self.fc = nn.Linear(32, 64)
        with torch.no_grad():
            for i, m in enumerate((self.conv, self.point, self.fc)):
                n, k = m.weight.shape[:2]
                core = _normal(4, 4, *m.weight.shape[2:], seed=i)
                low = torch.einsum("na,ab...,bk->nk...", _normal(n, 4), core, _normal(4, k, seed=9))
                m.weight.copy_(low / low.norm() * 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.point(torch.relu(self.conv(x)))).mean((2, 3)))


X = _normal(2, 16, 12, 12)


@pytest.mark.parametrize("data", [None, [X]], ids=["plain", "whitened"])
def test_weights_of_low_rank_are_found_exactly(data: list[torch.Tensor] | None) -> None:
    net = Net().eval()
    small = leptonc.compress(net, X, leptonc.LowRank(error=0.01, round_to=1), data=data)
    # What is cut is less than 1 % of each of three layers; ReLU and mean make nothing larger.
    assert small.ledger[-1].error < 0.031
    names = dict(small.named_parameters())
    assert {"conv.first.weight", "conv.core.weight", "conv.last.weight", "conv.bias"} <= set(names)
    assert {"fc.first.weight", "fc.last.weight", "point.first.weight"} <= set(names)
    # The data of a batch of 2 span no more than 2 directions: fewer ranks may do.
    assert names["fc.first.weight"].shape == (4 if data is None else 2, 32)
    assert small.ledger[-1].bytes_after < small.ledger[0].bytes_before / 3
    assert dump(capture(small, X).function) == dump(small.function)
    small(X).square().sum().backward()
    assert all(p.grad is not None for p in small.parameters())


def test_without_data_a_remark_says_so() -> None:
    small = leptonc.compress(Net().eval(), X, leptonc.LowRank(error=0.01))
    assert any("plain SVD" in r.reason for r in small.remarks)


def test_undo_restores_the_layer() -> None:
    net = Net().eval()
    small = leptonc.compress(net, X, leptonc.LowRank(error=0.01))
    undone = small.ledger.undo(1)
    assert torch.equal(undone.state_dict()["point.weight"], net.point.weight)
    assert len(undone.ledger) == 2


@pytest.mark.numba
def test_by_time_keeps_only_what_is_faster() -> None:
    net = nn.Sequential(nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 4)).eval()
    with torch.no_grad():
        net[0].weight.copy_(_normal(1024, 8) @ _normal(8, 1024, seed=1))
    x = _normal(64, 1024)
    small = leptonc.compress(net, x, leptonc.LowRank(by="time"))
    assert [e.where for e in small.ledger] == ["0"]
    assert any("does not pay" in r.reason for r in small.remarks)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: leptonc.LowRank(error=1.5), "between 0 and 1"),
        (lambda: leptonc.LowRank(ratio=0.0), "between 0 and 1"),
        (lambda: leptonc.LowRank(error=0.1, ratio=0.5), "not both"),
        (lambda: leptonc.LowRank(by="luck"), "size or time"),
    ],
)
def test_options_out_of_range(make, text) -> None:
    with pytest.raises(CompressError, match=text):
        make()


def test_nothing_that_pays_is_an_error() -> None:
    net = nn.Linear(16, 16).eval()
    with pytest.raises(CompressError, match="pays"):
        leptonc.compress(net, _normal(1, 16), leptonc.LowRank(error=0.01))
    with pytest.raises(CompressError, match="no linear layer"):
        leptonc.compress(nn.ReLU().eval(), _normal(1, 16), leptonc.LowRank())


def test_a_pattern_that_matches_nothing_lists_close_names() -> None:
    with pytest.raises(CompressError, match="'conv'"):
        leptonc.compress(Net().eval(), X, leptonc.LowRank(skip="convv"))


def test_ratio_keeps_the_part_of_every_layer() -> None:
    small = leptonc.compress(Net().eval(), X, leptonc.LowRank(ratio=0.5, round_to=1))
    for name in ("conv", "point", "fc"):
        before = getattr(Net(), name).weight.numel()
        after = sum(p.numel() for n, p in small.named_parameters()
                    if n.startswith(name) and "weight" in n)  # fmt: skip
        assert after <= before / 2


def test_moment_reads_what_a_strided_point_reads() -> None:
    x = _normal(1, 3, 4, 4)
    seen = x[..., ::2, ::2].movedim(1, -1).reshape(-1, 3).double()
    kind = Conv((2, 2), (0, 0), (1, 1))
    assert torch.equal(moment_of(kind, x, (5, 3, 1, 1)), seen.T @ seen)
