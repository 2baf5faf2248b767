"""Schedules: the sparsity follows its curve in a training loop, and regrowth keeps it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import leptonc
from leptonc.capture.frontend import capture
from leptonc.compress import CompressError
from leptonc.compress.prune import KeepZeros, PruneSchedule
from leptonc.compress.raised import Raised, raise_

G = torch.Generator().manual_seed(0)
X = torch.randn(64, 16, generator=G)
Y = (X @ torch.randn(16, 4, generator=G)).argmax(1)


def raised() -> Raised:
    torch.manual_seed(0)
    return raise_(capture(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).eval(), X))


def _train(model: nn.Module, schedule: PruneSchedule | KeepZeros, steps: int) -> list[float]:
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)  # its momentum moves masked weights, too
    losses: list[float] = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(X), Y)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses


def _zeros(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach() == 0 for n, p in model.named_parameters() if p.dim() > 1}


def test_gradual_follows_the_cubic_and_what_is_gone_stays_gone() -> None:
    model = raised()
    schedule = PruneSchedule(model, sparsity=0.8, steps=40, begin=10, every=3)
    gone = _zeros(model)
    assert not any(z.any() for z in gone.values())
    for step in range(1, 61):
        _train(model, schedule, 1)
        now = _zeros(model)
        done = min(1.0, max(0, step - 10) / 30)
        due = step > 10 and ((step - 10) % 3 == 0 or step == 40) and step <= 40
        if due:
            wanted = 0.8 * (1 - (1 - done) ** 3)  # Zhu & Gupta, equation 1, from 0
            for z in now.values():
                assert int(z.sum()) == round(wanted * z.numel())
        for name, z in now.items():
            assert not (gone[name] & ~z).any()
        gone = now
    assert schedule.reached == pytest.approx(0.8, abs=2 / 128)


def test_what_is_gone_stays_gone_however_far_a_step_moves_it() -> None:
    model = raised()
    schedule = PruneSchedule(model, sparsity=0.8, steps=20, every=10)
    for _ in range(10):
        schedule.step()
    gone = _zeros(model)
    assert all(z.any() for z in gone.values())
    for _ in range(10):
        with torch.no_grad():
            for name, target in schedule.targets.items():
                target.parameter.masked_fill_(gone[name], 100.0)
        schedule.step()
    for name, z in _zeros(model).items():
        assert z[gone[name]].all() and not z.all()


def test_training_under_a_schedule_learns_and_compiles() -> None:
    model = raised()
    losses = _train(model, PruneSchedule(model, sparsity=0.5, steps=60, every=5), 120)
    assert losses[-1] < losses[0] / 2
    with torch.no_grad():
        torch.testing.assert_close(leptonc.compile(model, X, cache=False)(X), model(X))


def test_regrowth_keeps_the_sparsity_and_moves_the_mask() -> None:
    model = raised()
    schedule = PruneSchedule(model, sparsity=0.75, steps=50, every=10, method="regrow")
    first = {n: m.clone() for n, m in schedule.masks.items()}
    for step in range(1, 61):
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        masks = {n: m.clone() for n, m in schedule.masks.items()}
        _train(model, schedule, 1)
        for name, mask in schedule.masks.items():
            assert int((~mask).sum()) == round(0.75 * mask.numel())
            assert not dict(model.named_parameters())[name].detach()[~mask].any()
            grown = mask & ~masks[name]
            due = step % 10 == 0 and step < 50
            part = 0.3 / 2 * (1 + math.cos(math.pi * step / 50))  # Evci et al., section 3
            assert int(grown.sum()) == (int(part * int(mask.sum())) if due else 0)
            assert not before[name][grown].any(), "what comes back starts at zero"
    assert any(not torch.equal(first[n], m) for n, m in schedule.masks.items())


def test_regrowth_takes_the_largest_gradients_and_drops_the_smallest_weights() -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 4, bias=False)
    schedule = PruneSchedule(model, sparsity=0.5, steps=100, method="regrow", regrow=0.5)
    (mask,) = (m.clone() for m in schedule.masks.values())
    model.weight.grad = torch.rand(4, 8)
    weight = model.weight.detach().clone()
    schedule.step()
    (after,) = schedule.masks.values()
    grown, dropped = after & ~mask, mask & ~after
    count = int(grown.sum())
    assert count == int(dropped.sum()) > 0
    assert model.weight.grad[grown].min() >= model.weight.grad[~mask & ~grown].max()
    assert weight[dropped].abs().max() <= weight[mask & after].abs().min()


def test_blocks_under_a_schedule() -> None:
    model = raised()
    schedule = PruneSchedule(model, sparsity=0.5, steps=10, pattern="4x1")
    _train(model, schedule, 10)
    for z in _zeros(model).values():
        share = z.reshape(-1, 4, z.shape[1]).float().mean(1)
        assert set(share.unique().tolist()) == {0.0, 1.0} and float(share.mean()) == 0.5


def test_a_schedule_goes_on_from_a_checkpoint() -> None:
    model = raised()
    schedule = PruneSchedule(model, sparsity=0.8, steps=20)
    _train(model, schedule, 7)
    other = raised()
    other.load_state_dict(model.state_dict())
    again = PruneSchedule(other, sparsity=0.8, steps=20)
    again.load_state_dict(schedule.state_dict())
    assert again.at == 7 and again.reached == schedule.reached
    with pytest.raises(CompressError, match="of other weights"):
        PruneSchedule(nn.Linear(2, 2), sparsity=0.5, steps=2).load_state_dict(schedule.state_dict())


@pytest.mark.parametrize("recipe", [leptonc.Prune(sparsity=0.7), leptonc.Prune(pattern="2:4")])
def test_zeros_of_one_shot_stay_while_the_rest_trains(recipe: leptonc.Prune) -> None:
    model = leptonc.compress(raised(), X, recipe)
    before, keep = _zeros(model), KeepZeros(model)
    losses = _train(model, keep, 100)
    assert losses[-1] < losses[0] / 2
    for name, zeros in _zeros(model).items():
        assert torch.equal(zeros, before[name]) and zeros.any()
    with pytest.raises(CompressError, match="no weight is zero"):
        KeepZeros(raised())


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "sparsity": ({"sparsity": 0.0}, "sparsity=0.0"),
    "steps": ({"steps": 0}, "begin < steps"),
    "begin": ({"begin": 10}, "begin < steps"),
    "every": ({"every": 0}, "every=0"),
    "method": ({"method": "dynamic"}, "one of gradual, regrow"),
    "regrow": ({"regrow": 1.0}, "regrow=1.0"),
    "N:M": ({"pattern": "2:4"}, "N:M has no schedule"),
    "does not fit": ({"pattern": "5x1"}, "no weight that"),
    "skip": ({"skip": ["conv"]}, "matches none of the 2 units"),
    "all skipped": ({"skip": ["*"]}, "no weight to train"),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_asks_are_errors(name: str) -> None:
    options, message = BAD[name]
    with pytest.raises(CompressError, match=message):
        PruneSchedule(raised(), **{"sparsity": 0.5, "steps": 10, **options})
