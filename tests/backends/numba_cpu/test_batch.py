"""Stretches that run part by part of the batch: each part is right, and the choice makes sense."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies.arrays import arrays
from strategies.kinds import applications
from torch import nn

from leptonc import meaning
from leptonc.backends.numba_cpu import batch, sliceable
from leptonc.backends.numba_cpu.lower.core import ConstPool
from leptonc.backends.numba_cpu.runtime import Executable, load
from leptonc.backends.numba_cpu.scheduler import Options, schedule
from leptonc.backends.numba_cpu.sliceable import part_of
from leptonc.capture import capture
from leptonc.compiler import optimize
from leptonc.ir.core import Builder, Function, Op
from leptonc.ir.kinds import binary, norm, pointwise, reduce, shape, unary
from leptonc.ir.kinds.contract import Linear
from leptonc.ir.kinds.data import Embedding
from leptonc.ir.kinds.region import Unit
from leptonc.ir.types import DType, TensorType
from leptonc.passes.fusing.units import make_unit
from leptonc.runtime.caches import SHARE, SMALL, Caches, read_caches
from leptonc.runtime.governor import affinity_cores
from leptonc.specialization import output_types, run_program

KINDS = (
    *sliceable.RULES, unary.Relu, binary.Add, binary.Mul, pointwise.Clamp, pointwise.Where,
    reduce.Sum, reduce.Amax, reduce.ArgMax, norm.Softmax, reduce.CumSum, shape.Flip,
)  # fmt: skip


def unit_of(kind, types) -> Op:
    """Return a unit whose body is one op."""
    b = Builder("one")
    values = [b.param(t, f"x{i}") for i, t in enumerate(types)]
    b.emit(kind, *values)
    (op,) = b.ops
    return make_unit([op], op.results, {}, (), "test")


def run(op: Op, args: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    assert isinstance(op.kind, Unit)
    return meaning.run(op.kind.body, *args, precision="f64")


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.NAME)
@given(data=st.data(), parts=st.sampled_from([2, 3]))
def test_parts_together_are_the_whole(kind, data, parts) -> None:
    made, types = data.draw(applications(kind))
    whole = unit_of(made, types)
    part = part_of(whole, parts)
    assume(part is not None)
    args = [data.draw(arrays(t, special=False)) for t in types]
    if kind is Embedding:
        args[1] = args[1] % args[0].shape[0]  # rows that exist
    want = run(whole, args)
    got: list[list[torch.Tensor]] = [[] for _ in want]
    for i in range(parts):
        mine = [
            a.chunk(parts)[i].contiguous() if s else a
            for a, s in zip(args, part.sliced, strict=True)
        ]
        for place, r in zip(got, run(part.op, mine), strict=True):
            place.append(r)
    for w, pieces in zip(want, got, strict=True):
        torch.testing.assert_close(torch.cat(pieces), w, rtol=1e-9, atol=1e-9, equal_nan=True)


def typed(*size: int) -> TensorType:
    return TensorType(DType.F32, size)


@pytest.mark.parametrize(
    ("kind", "types"),
    [
        (shape.Flip((0,)), (typed(4, 3),)),
        (norm.Softmax(0), (typed(4, 3),)),
        (reduce.CumSum(0), (typed(4, 3),)),
        (reduce.Sum((0,)), (typed(4, 3),)),
        (shape.Concat(0), (typed(2, 3), typed(2, 3))),
        (shape.Transpose((1, 0)), (typed(4, 4),)),
        (shape.Pad((1, 0), (1, 0)), (typed(4, 3),)),
        (Linear(), (typed(4), typed(2, 4))),
        (unary.Relu(), (typed(5, 3),)),
        (unary.Relu(), (typed(),)),
    ],
)
def test_what_mixes_the_leading_axis_is_never_cut(kind, types) -> None:
    assert part_of(unit_of(kind, types), 2) is None


def test_what_is_broadcast_along_the_leading_axis_is_read_whole() -> None:
    add = binary.Add()
    for types, sliced in (
        ((typed(4, 3), typed(3)), (True, False)),
        ((typed(4, 3), typed(1, 3)), (True, False)),
        ((typed(4, 4), typed(4)), (True, False)),
        ((typed(4, 3), typed(4, 1)), (True, True)),
    ):
        part = part_of(unit_of(add, types), 2)
        assert part is not None and part.sliced == sliced


def test_a_value_is_not_read_in_slices_and_whole_at_once() -> None:
    b = Builder("both")
    x = b.param(typed(4, 4))
    y = b(unary.Relu(), x)
    b(Linear(), y, y)  # the rows of the left operand are cut, the right one is needed whole
    unit = make_unit(b.ops, b.ops[-1].results, {}, (), "test")
    assert part_of(unit, 2) is None


class Net(nn.Module):
    """Convolutions with a residual, a squeeze-excite, then a large linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 24, 3, padding=1)
        self.wide = nn.Conv2d(24, 48, 1)
        self.deep = nn.Conv2d(48, 48, 3, padding=1, groups=48)
        self.back = nn.Conv2d(48, 24, 1)
        self.gate = nn.Conv2d(24, 24, 1)
        self.head = nn.Linear(24 * 64, 300)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scores and a map."""
        x = torch.relu(self.first(x))
        y = x + self.back(torch.nn.functional.silu(self.deep(torch.relu(self.wide(x)))))
        y = y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))
        z = nn.functional.max_pool2d(y, 2)
        return self.head(z.flatten(1)), y.amax(1)


class Mixing(nn.Module):
    """An encoder layer whose result is normalised over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(32, 4, 128, batch_first=True, activation="gelu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a softmax over the batch."""
        return torch.softmax(self.layer(torch.tanh(x)), 0)


TIGHT = Caches(l2=2**17, l3=2**18)


def program(model: nn.Module, x: torch.Tensor, caches: Caches, threads: int = 1) -> Executable:
    fn = optimize(capture(model.eval(), (x,)).function, "O2")
    return load(schedule(fn, ConstPool(), Options(threads=threads, caches=caches)))


@pytest.mark.numba
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("model", "size"), [(Net, (8, 3, 16, 16)), (Mixing, (6, 40, 32))], ids=["cnn", "encoder"]
)
def test_a_net_in_parts_gives_the_same_results(model, size, threads) -> None:
    """Only a product whose part is one row may add up in another order."""
    torch.manual_seed(0)
    net, x = model(), torch.randn(size)
    plain = program(net, x, Caches(2**30, 2**30), threads)
    cut = program(net, x, TIGHT, threads)
    assert {u.parts for u in plain.schedule.units} == {1}
    assert max(u.parts for u in cut.schedule.units) > 1
    assert len(cut.schedule.units) == len(plain.schedule.units)
    a, b = (run_program(p, [x], output_types(p)) for p in (plain, cut))
    # gamma_n of two orders of n = 24 * 64 terms (Higham 2002, 4.2, statistical: square root of n)
    bound = 4 * torch.finfo(torch.float32).eps * (24 * 64) ** 0.5
    for want, got in zip(a, b, strict=True):
        assert torch.equal(want, got) or model is Net
        assert float((want - got).abs().max()) <= bound * float(want.abs().max())
    with torch.no_grad():
        eager = net(x)
    for want, got in zip(eager if isinstance(eager, tuple) else (eager,), b, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.numba
def test_a_result_of_another_layout_than_the_callers_is_stored_whole(monkeypatch) -> None:
    """Only a map of one pixel is returned channels-last: its bytes lie the same way."""
    torch.manual_seed(0)
    monkeypatch.setattr(batch, "_cost", lambda op, parts, *rest: -float(parts))
    net = nn.Sequential(
        nn.Conv2d(1, 2, 2, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Conv2d(2, 3, 1)
    ).eval()
    x = torch.randn(2, 1, 3, 3)
    cut = program(net, x, Caches(2**8, 2**12))
    assert {u.parts for u in cut.schedule.units} == {2}
    (got,) = run_program(cut, [x], output_types(cut))
    with torch.no_grad():
        torch.testing.assert_close(got, net(x), rtol=1e-5, atol=1e-6)


@pytest.mark.numba
def test_parts_need_less_memory() -> None:
    torch.manual_seed(0)
    net, x = Net(), torch.randn(16, 3, 16, 16)
    arenas = [program(net, x, c).schedule.arena_bytes for c in (Caches(2**30, 2**30), TIGHT)]
    assert arenas[1] < 0.8 * arenas[0]


def static(model: nn.Module, x: torch.Tensor) -> Function:
    return optimize(capture(model.eval(), (x,)).function, "O2")


def units(fn: Function) -> list[Op]:
    return [op for op in fn.ops if isinstance(op.kind, Unit)]


def test_stretches_follow_one_another_and_hold_every_unit_once() -> None:
    fn = static(Net(), torch.randn(12, 3, 16, 16))
    found = batch.plan(units(fn), fn.returns, TIGHT)
    assert [s.first for s in found[1:]] == [s.stop for s in found[:-1]]
    assert (found[0].first, found[-1].stop) == (0, len(units(fn)))
    assert all(12 % s.parts == 0 for s in found)
    for s in found:
        made = {r for op in units(fn)[s.first : s.stop] for r in op.results}
        reads = [
            (v, cut)
            for part in s.units
            for v, cut in zip(part.whole.operands, part.sliced, strict=True)
        ]
        assert all(cut for v, cut in reads if v in made)


def test_one_image_or_a_small_net_is_never_cut() -> None:
    for size, caches in (((1, 3, 16, 16), TIGHT), ((8, 3, 16, 16), Caches(2**30, 2**30))):
        fn = static(Net(), torch.randn(size))
        assert [s.parts for s in batch.plan(units(fn), fn.returns, caches)] == [1]


def test_a_layer_whose_weights_leave_every_cache_is_not_cut() -> None:
    class Heavy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(64, 4096), nn.Linear(4096, 512)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.relu(self.a(x)))

    fn = static(Heavy(), torch.randn(8, 64))
    assert {s.parts for s in batch.plan(units(fn), fn.returns, TIGHT)} == {1}


def test_units_that_must_stay_whole_do() -> None:
    fn = static(Net(), torch.randn(8, 3, 16, 16))
    names = {op.kind.name for op in units(fn)}
    assert {s.parts for s in batch.plan(units(fn), fn.returns, TIGHT, names)} == {1}


def test_cache_sizes_come_from_the_system_or_are_assumed_small(tmp_path) -> None:
    for i, (level, kind, size) in enumerate(
        [("1", "Instruction", "32K"), ("2", "Unified", "1024K"), ("3", "Unified", "16M")]
    ):
        folder = tmp_path / f"index{i}"
        folder.mkdir()
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(text + "\n")
    assert read_caches(tmp_path) == Caches(2**20, 16 * 2**20)
    assert read_caches(tmp_path / "nowhere") == SMALL
    read_caches.cache_clear()
    (tmp_path / "index2" / "size").write_text("260M\n")
    assert read_caches(tmp_path).l3 == min(260 * 2**20, SHARE * affinity_cores())
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "index1").rename(other / "index1")
    assert read_caches(other) == Caches(2**20, 2**20)  # no third level: the second is the largest
