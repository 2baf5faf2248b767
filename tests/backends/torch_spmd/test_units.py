"""Units in kernels: what torch runs among them has constants of its own."""

from __future__ import annotations

import pytest
import torch
from strategies.planned import HERE, planned, run_programs
from strategies.ranks import comms
from torch import nn

from leptonc import meaning
from leptonc.backends.numba_cpu.release import read_by_torch
from leptonc.backends.torch_spmd.runtime import rank_program
from leptonc.backends.torch_spmd.units import How

pytestmark = pytest.mark.numba


def test_what_runs_through_torch_holds_its_part_without_gaps() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double().eval()
    x = (torch.randn(3, 6, dtype=torch.float64),)
    p = planned(model, x, 2)
    (want,) = (model(*x).detach(),)
    for (got,) in run_programs(p, x, "native"):
        torch.testing.assert_close(got, want)
    wholes = [(w.data_ptr(), w.data_ptr() + w.nbytes) for w in model.parameters()]
    bound = rank_program(p.program, 0, comms(2)[0], HERE, How("native")).bind([(3, 6)])
    programs = [u.program for u in vars(bound.units).values() if hasattr(u, "program")]
    held = [meaning.tensor_of(c) for q in programs for c in read_by_torch(q.schedule.steps)]
    assert held and all(t.is_contiguous() for t in held)
    assert not any(a <= t.data_ptr() < b for t in held for a, b in wholes)
