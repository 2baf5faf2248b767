"""A program assembled from a schedule is the one its emitted text builds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import leptonc
from leptonc.backends.numba_cpu.context import Step, TorchStep
from leptonc.backends.numba_cpu.emit import emit
from leptonc.backends.numba_cpu.kernels.base import slot_bits
from leptonc.backends.numba_cpu.runtime import load

pytestmark = pytest.mark.numba


class Mixed(nn.Module):
    """Index checks, an op that runs through torch, scratch, a float in a record."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.lin = nn.Embedding(10, 8), nn.Linear(8, 8)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)

    def forward(self, i: Tensor) -> tuple[Tensor, Tensor]:
        x = self.lin(self.table(i))
        x = nn.functional.scaled_dot_product_attention(x, x, x)
        y = torch.linalg.matrix_exp(x @ x.transpose(1, 2) * 0.1).sum(-1, True)
        return self.conv((x + y).transpose(1, 2)).clamp(-0.25, float("inf")), y


def plain(steps: list[Any]) -> list[Any]:
    """Return steps without what differs by identity; words of a record as their bits."""

    def bits(slot: Any) -> Any:
        return slot_bits(slot) if isinstance(slot, (int, float)) else slot

    return [
        (s.inputs, s.outputs)
        if isinstance(s, TorchStep)
        else Step(s.kernel, tuple(map(bits, s.slots)), s.flags)
        for s in steps
    ]


@pytest.mark.parametrize("threads", [1, 2])
def test_text_and_schedule_give_the_same_steps(threads: int) -> None:
    torch.manual_seed(0)
    net = Mixed().eval()
    compiled = leptonc.compile(net, torch.tensor([[1, 2, 3]]), threads=threads, cache=False)
    schedule = compiled.schedule
    by_text, straight = load(schedule, emit(schedule)).program, load(schedule).program
    assert any(isinstance(s, TorchStep) for s in by_text.steps)
    assert plain(by_text.steps) == plain(straight.steps)
