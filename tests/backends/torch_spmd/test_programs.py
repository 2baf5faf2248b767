"""Programs of ranks: their torch text, their native units, against lock step and the model."""

from __future__ import annotations

import pytest
import torch
from strategies.planned import HERE, block, convs, planned, read_payload, run_programs

from leptonc import meaning
from leptonc.backends.torch_spmd.preview import preview
from leptonc.backends.torch_spmd.runtime import rank_program
from leptonc.backends.torch_spmd.schedule import MeetStep, schedule
from leptonc.backends.torch_spmd.units import How
from leptonc.backends.torch_spmd.weights import Part, Stored, parted, placed
from leptonc.errors import ClaimError, TargetError
from leptonc.ir.kinds.collective import Collective
from leptonc.ir.kinds.data import Constant
from leptonc.ir.verify import verify
from leptonc.meaning.lockstep import run_ranks

NETS = {"convs": convs, "block": block}


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("net", NETS)
def test_text_gives_the_bits_of_lock_step(net: str, ranks: int) -> None:
    model, x = NETS[net]()
    p = planned(model, x, ranks)
    together = run_ranks(p.program.function, p.program.tables, x)
    for rank, got in enumerate(run_programs(p, x, "torch")):
        assert all(map(torch.equal, got, together[rank]))


@pytest.mark.numba
@pytest.mark.parametrize("objective", ["latency", "memory"])
@pytest.mark.parametrize("net", NETS)
def test_native_units_are_the_model(net: str, objective: str) -> None:
    model, x = NETS[net]()
    p = planned(model, x, 2, objective)
    want = model(*x).detach()
    for (got,) in run_programs(p, x, "native"):
        assert float((got - want).abs().max()) <= 1e-5 * float(want.abs().max())


def test_uneven_speeds_give_uneven_parts_and_the_same_result() -> None:
    model, x = block()
    p = planned(model, x, 3, speeds=(3.0, 1.0, 2.0))
    want = model(*x).detach()
    for (got,) in run_programs(p, x, "torch"):
        assert float((got - want).abs().max()) <= 1e-5 * float(want.abs().max())
    sizes = {values for name, values in p.program.tables.items() if name.startswith("len")}
    assert any(len(set(values)) > 1 for values in sizes)


# ----- steps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", NETS)
def test_units_cover_the_function_between_collectives(net: str) -> None:
    model, x = NETS[net]()
    p = planned(model, x, 2)
    fn = parted(p.program.local(1))
    plan = schedule(fn, 1, 2)
    meets = [s.op for s in plan.steps if isinstance(s, MeetStep)]
    assert meets == [op for op in fn.ops if isinstance(op.kind, Collective)]
    inside = [op for s in plan.units for op in s.body.ops if not isinstance(op.kind, Constant)]
    rest = [op for op in fn.ops if not isinstance(op.kind, (Collective, Constant))]
    assert len(inside) == len(rest) and set(inside) == set(rest)
    known = set(fn.params)
    for step in plan.steps:
        assert known.issuperset(step.inputs)
        known.update(step.outputs)
    for step in plan.units:
        verify(step.body)
    # no unit hands a constant to another
    weights = {op.result for op in fn.ops if isinstance(op.kind, Constant)}
    assert not any(weights.intersection(s.inputs) for s in plan.steps)


def test_what_is_read_for_the_last_time_is_let_go() -> None:
    model, x = convs()
    plan = schedule(parted(planned(model, x, 2).program.local(0)), 0, 2)
    gone = [v for last in plan.last for v in last]
    assert len(gone) == len(set(gone))
    assert not set(gone) & set(plan.function.returns)


# ----- weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", NETS)
def test_a_rank_reads_its_own_part_and_no_more(net: str) -> None:
    model, x = NETS[net]()
    p = planned(model, x, 2)
    whole = sum(t.numel() for t in {id(t): t for t in model.parameters()}.values())
    for rank in range(2):
        read = []

        def counted(const, index, read=read):
            part = read_payload(const, index)
            read.append(part.numel())
            return part

        fn = placed(parted(p.program.local(rank)), Stored(counted, counted, lambda: None))
        verify(fn)
        assert not read  # to know where they lie costs nothing
        held = [op.kind.const for op in fn.ops if isinstance(op.kind, Constant)]
        assert not any(isinstance(c.payload, Part) for c in held)
        for const in held:
            assert meaning.type_of(meaning.tensor_of(const)).shape == const.type.shape
        # biases that are added once are whole on rank 0
        assert sum(read) <= 0.62 * whole


# ----- text ---------------------------------------------------------------------------------------


def test_a_preview_reads_no_weight_and_names_sources() -> None:
    model, x = block()
    p = planned(model, x, 2)
    for op in p.program.function.ops:
        if isinstance(op.kind, Constant):
            op.kind.const.release("nothing")
    text = preview(p.program, 1)
    compile(text, "preview", "exec")
    assert "rank 1 of 2" in text and "comm." in text and "F.linear(" in text
    assert "planned.py:" in text  # the user's line


def test_names_of_python_are_not_shadowed() -> None:
    class Taken(torch.nn.Module):
        def forward(self, lambda_, torch):
            return lambda_ + torch

    x = (torch.ones(4, 4), torch.ones(4, 4))
    p = planned(Taken().eval(), x, 2, "latency")
    for (got,) in run_programs(p, x, "torch"):
        assert torch.equal(got, torch.full((4, 4), 2.0))


# ----- refusals -----------------------------------------------------------------------------------


def test_random_ops_are_refused() -> None:
    class Noise(torch.nn.Module):
        def forward(self, x):
            return x + torch.rand_like(x)

    p = planned(Noise().eval(), (torch.ones(4),), 2, "latency")
    with pytest.raises(ClaimError, match=r"rand.*not deterministic.*one device"):
        rank_program(p.program, 0, None, HERE, How())


def test_an_unknown_engine_is_refused() -> None:
    model, x = convs()
    with pytest.raises(TargetError, match=r"unknown engine 'warp'.*native, torch, inductor"):
        run_programs(planned(model, x, 1), x, "warp")
