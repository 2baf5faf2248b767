"""What goes wrong only where it stands in the schedule is named: unit, part, culprit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from mutation.models import MODELS
from torch import Tensor, nn
from torch.export import Dim

import leptonc
from leptonc import compiler, inplace
from leptonc.backends.numba_cpu import arena, memory, scheduler, sliceable
from leptonc.errors import CheckError
from leptonc.ir.kinds.norm import Softmax
from leptonc.runtime.caches import Caches

pytestmark = pytest.mark.numba


@pytest.fixture(autouse=True)
def same_caches_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every machine cut the batch alike."""
    monkeypatch.setattr(scheduler, "read_caches", lambda: Caches(2 * 2**20, 32 * 2**20))


def compiled(model: nn.Module, args: Sequence[Any], **options: Any) -> leptonc.CompiledModel:
    options = {"cache": False, "threads": 1, "tune": False, **options}
    with torch.no_grad():
        return leptonc.compile(model.eval(), tuple(args), **options)


@pytest.mark.parametrize(
    "name", ["large_batch", "residual_around", "concat_of_convs", "conv_rotated", "three_linears"]
)
@pytest.mark.parametrize("threads", [1, 2])
def test_nobody_is_accused_where_nothing_is_wrong(
    monkeypatch: pytest.MonkeyPatch, name: str, threads: int
) -> None:
    net, args = MODELS[name].build()
    monkeypatch.setattr(compiler, "release", lambda *_: None)  # the reference reads the weights
    (spec,) = compiled(net, args, threads=threads, verify="off").specializations
    at, why = inplace.search(spec.bind({}).schedule, spec.function, args, "fp32")
    assert at is None and "every unit is right" in why


def test_a_unit_that_must_not_be_cut_retreats(monkeypatch: pytest.MonkeyPatch) -> None:
    net, args = MODELS["large_batch_softmax"].build()
    monkeypatch.setitem(sliceable.RULES, Softmax, sliceable._all)  # over the batch, too
    wrong = compiled(net, args, verify="off")
    assert [u.parts for u in wrong.schedule.units] == [4, 4, 4]
    assert not torch.allclose(wrong(*args), net(*args), atol=1e-3)
    made = compiled(net, args, verify="unit")
    (reason,) = (u.reason for u in made.schedule.units if u.reason)
    assert "cannot run in 4 parts of the batch" in reason and "pattern softmax" in reason
    torch.testing.assert_close(made(*args), net(*args), rtol=1e-4, atol=1e-5)


def test_a_part_that_lies_elsewhere_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    net, args = MODELS["large_batch"].build()
    real = scheduler._slice_of
    monkeypatch.setattr(scheduler, "_slice_of", lambda view, i, n: real(view, max(i - 1, 0), n))
    says = r"unit guilty\.one at guilty\.one .*, part 2 of 4, does not find what .* reads another"
    with pytest.raises(CheckError, match=says):
        compiled(net, args)


class Three(nn.Module):
    """Two layers and a sum that reads the first one's result after the second ran."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = (nn.Linear(32, 32) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum."""
        a = self.one(x)
        b = self.two(torch.softmax(a, -1))
        return torch.softmax(b, -1) + self.three(a)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dynamic", [None, {"x": {0: Dim("rows", min=2, max=64)}}])
def test_who_overwrites_and_who_reads_it_are_named(
    monkeypatch: pytest.MonkeyPatch, threads: int, dynamic: Any
) -> None:
    real = arena.Arena.planned

    def everything_at_zero(self: arena.Arena, *args: int) -> memory.Plan:
        plan = real(self, *args)
        # Scratch lies apart: it holds addresses.
        offsets = tuple(
            plan.total + at if b.note == arena.SCRATCH else 0
            for b, at in zip(self.lives, plan.offsets, strict=True)
        )
        return replace(plan, total=2 * plan.total, offsets=offsets)

    net, args = Three(), (torch.randn(40, 32),)
    options = {"threads": threads, "dynamic": dynamic}
    assert len(compiled(net, args, **options).schedule.offsets) > 1
    monkeypatch.setattr(arena.Arena, "planned", everything_at_zero)
    monkeypatch.setattr(arena, "settled", lambda claims, offsets, *_: offsets)
    says = r"unit three\S* at three .* does not find what one wrote for it: unit softmax\S* .*over"
    with pytest.raises(CheckError, match=says):
        compiled(net, args, **options)


def test_an_output_that_is_spoilt_behind_its_unit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    net, args = Three(), (torch.randn(40, 32),)
    monkeypatch.setattr(compiler, "release", lambda *_: None)
    (spec,) = compiled(net, args, verify="off").specializations
    plan = spec.bind({}).schedule
    seen = inplace.InPlace(plan, spec.function, args, "fp32")
    seen.outputs[0][3, 4] += 1.0
    last = len(plan.units) - 1
    assert seen.first_wrong() == (last, f"output 0 is not what {plan.units[last].name} wrote")


@pytest.mark.parametrize("dynamic", [None, {"input": {1: Dim("rows", min=2, max=99)}}])
def test_a_part_of_an_input_that_lies_elsewhere_is_named(
    monkeypatch: pytest.MonkeyPatch, dynamic: Any
) -> None:
    net = nn.Sequential(nn.Linear(512, 1024), nn.Softmax(-1), nn.Linear(1024, 256))
    real = scheduler._slice_of

    def shifted(view: Any, index: int, parts: int) -> Any:
        return real(view, max(index - (view.buffer.space == "input"), 0), parts)

    monkeypatch.setattr(scheduler, "_slice_of", shifted)
    x = torch.randn(8, 64, 512)
    made = compiled(net, (x,), dynamic=dynamic)
    (reason,) = (u.reason for u in made.schedule.units if u.reason)
    assert "unit 0 at 0, part 2 of 4, does not find what the caller wrote for it" in reason
    torch.testing.assert_close(made(x), net(x), rtol=1e-4, atol=1e-5)
