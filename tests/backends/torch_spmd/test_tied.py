"""Tables that are looked up and multiplied by: a rank holds the panels alone."""

from __future__ import annotations

import pytest
import torch
from strategies.planned import HERE, planned, run_programs
from torch import Tensor, nn

from leptonc.backends.torch_spmd.schedule import UnitStep, schedule
from leptonc.backends.torch_spmd.tied import placed_apart, tied
from leptonc.backends.torch_spmd.weights import parted
from leptonc.ir.core import Function, Value
from leptonc.ir.kinds.data import Constant, Embedding
from leptonc.ir.verify import verify
from leptonc.shard.plan import Plan


class Tied(nn.Module):
    """Logits by the table that tokens were looked up in."""

    def __init__(self, tie: bool = True) -> None:
        super().__init__()
        self.table = nn.Embedding(37, 16)
        self.mix = nn.Linear(16, 16)
        self.head = nn.Linear(16, 37, bias=False)
        if tie:
            self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Return f32[n,t,37] for ids i64[n,t]."""
        return self.head(torch.relu(self.mix(self.table(ids))))


def made(ranks: int, tie: bool = True) -> tuple[nn.Module, tuple[Tensor, ...], Plan]:
    torch.manual_seed(0)
    model, x = Tied(tie).eval(), (torch.randint(0, 37, (2, 5)),)
    return model, x, planned(model, x, ranks)


def units(p: Plan, rank: int) -> list[UnitStep]:
    return list(schedule(parted(p.program.local(rank)), rank, p.program.world).units)


@pytest.mark.numba
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_native_ranks_give_the_model_s_result(ranks: int) -> None:
    model, x, p = made(ranks)
    want = model(*x).detach()
    for (got,) in run_programs(p, x, "native"):
        assert float((got - want).abs().max()) <= 1e-5 * float(want.abs().max())


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_look_up_reads_the_constant_where_it_lies(ranks: int) -> None:
    model, _, p = made(ranks)
    whole = model.table.weight
    first, end = whole.data_ptr(), whole.data_ptr() + whole.nbytes
    bodies = [u.body for u in units(p, 0)]
    keys = tied(bodies)
    assert len(keys) == 1
    apart = [placed_apart(body, HERE, keys) for body in bodies]
    for body, (fn, tables) in zip(bodies, apart, strict=True):
        verify(fn)
        assert len(fn.params) == len(body.params) + len(tables)
        assert all(first <= t.data_ptr() < end and t.is_contiguous() for t in tables)
        whole_tables = {v for v in fn.params if v not in body.params}
        assert all(v.type.shape == tuple(whole.shape) for v in whole_tables)
    looked = [(fn, op) for fn, _ in apart for op in fn.ops if isinstance(op.kind, Embedding)]
    assert len(looked) == 1
    assert not any(_is_constant(fn, op.operands[0]) for fn, op in looked)


def _is_constant(fn: Function, v: Value) -> bool:
    producer = fn.producer.get(v)
    return producer is not None and isinstance(producer.kind, Constant)


def test_a_table_that_is_only_looked_up_stays_a_constant() -> None:
    bodies: list[Function] = [u.body for u in units(made(2, tie=False)[2], 0)]
    assert not tied(bodies)
    assert all(not placed_apart(b, HERE, tied(bodies))[1] for b in bodies)
