"""Faults that the operator database once showed, each as the smallest model that has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conformance import opinfo

import leptonc
from leptonc import selfcheck
from leptonc.errors import CaptureError


class Fn(torch.nn.Module):
    """A function as a module in evaluation mode."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        super().__init__()
        self.fn = fn
        self.eval()

    def forward(self, *args: Any) -> Any:
        return self.fn(*args)


def test_a_size_comes_back_as_a_size() -> None:
    x = torch.randn(2, 3)
    net = leptonc.compile(Fn(lambda x: {"y": x + 1, "n": (x.shape, 2)}), (x,), cache=False)
    out = net(x)
    assert type(out["n"][0]) is torch.Size
    assert out["n"] == (x.shape, 2)
    assert torch.equal(out["y"], x + 1)


@pytest.mark.parametrize(
    ("fn", "word"),
    [
        (lambda x: x.to_sparse(), "sparse_coo"),
        (lambda x: x.to_sparse().to_dense(), "sparse_coo"),
        (lambda x: x.to(torch.uint16).float(), "uint16"),
        (lambda x: x.to(torch.float8_e4m3fn).float(), "float8_e4m3fn"),
    ],
)
def test_what_leptonc_cannot_store_is_refused_by_name(fn: Callable[..., Any], word: str) -> None:
    with pytest.raises(CaptureError, match=word):
        leptonc.compile(Fn(fn), (torch.rand(4, 4),), cache=False)


@pytest.mark.parametrize("verify", ["final", "unit", "pass"])
def test_a_model_that_draws_random_numbers_compiles(verify: str) -> None:
    x = torch.zeros(64)
    model = Fn(lambda x: torch.rand_like(x) + 1)
    net = leptonc.compile(model, (x,), cache=False, verify=verify)
    y = net(x)
    assert ((y >= 1) & (y < 2)).all()
    assert not torch.equal(y, net(x))
    assert any("random" in r.reason for r in net.specializations[0].remarks)


def test_units_are_checked_one_by_one() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.GELU(), torch.nn.Linear(5, 3))
    x = torch.randn(2, 4)
    net = leptonc.compile(model.eval(), (x,), cache=False, verify="unit")
    with torch.no_grad():
        torch.testing.assert_close(net(x), model(x))
    assert not net.specializations[0].retreat


def test_a_unit_that_computes_wrongly_retreats_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    run = selfcheck.run_marked

    def faulty(program: Any, *args: Any) -> list[torch.Tensor]:
        wrong = any(u.native_ops for u in program.schedule.units)
        return [r + wrong for r in run(program, *args)]

    monkeypatch.setattr(selfcheck, "run_marked", faulty)
    x = torch.rand(4, 4) + 1
    net = leptonc.compile(Fn(lambda x: torch.special.bessel_j0(x).sin() + x), (x,), cache=False)
    assert net.specializations[0].retreat
    assert net.stats["ops_native"] == 0
    torch.testing.assert_close(net(x), torch.special.bessel_j0(x).sin() + x)


def test_sizes_that_depend_on_values_are_explained() -> None:
    x = torch.tensor([3, 1])
    with pytest.raises(CaptureError, match="values of a tensor"):
        leptonc.compile(Fn(lambda x: torch.arange(8).narrow(0, x[0], 2)), (x,), cache=False)


def test_the_harness_tells_rounding_from_faults() -> None:
    x = torch.tensor([1000.0, 1e-3])
    want, model = x + 1e-5, Fn(lambda x: x)
    near, far = want - 1.5e-5, want + 1e-2
    assert not opinfo._further(x, want, model, (x,), "fault")
    assert not opinfo._further(near, want, model, (x,), "fault")
    assert opinfo._further(far, want, model, (x,), "fault")
    assert opinfo._further(want[:1], want, model, (x,), "fault")
