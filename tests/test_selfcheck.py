"""The self-check finds seeded faults, names who made them, and repairs the guilty unit alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import leptonc
from leptonc import check, meaning, selfcheck
from leptonc.backends.numba_cpu import scheduler
from leptonc.errors import CheckError
from leptonc.ir.core import Builder, Function, Kind, Op
from leptonc.ir.kinds.binary import Gt
from leptonc.ir.kinds.data import Constant, Full
from leptonc.ir.kinds.pointwise import Where
from leptonc.ir.kinds.region import Unit
from leptonc.ir.kinds.unary import Abs, Relu, Tanh
from leptonc.ir.types import DType, TensorType
from leptonc.passes.dce import Dce
from leptonc.pipeline import Pass, PassManager
from leptonc.rewrite.trace import Trace
from leptonc.runtime.behind import BEHIND
from leptonc.runtime.cache import CompileCache

pytestmark = pytest.mark.numba
Seed = Callable[..., None]


class Net(nn.Module):
    """A linear layer with its relu, a softmax, and a chain: three kinds of unit."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(12, 37)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.softmax(torch.relu(self.fc(x)), -1)
        return torch.tanh(y * 3.0) + y


def example(positive: bool = False) -> Tensor:
    x = torch.randn(5, 12, generator=torch.Generator().manual_seed(1))
    return x.abs() if positive else x


def compiled(model: nn.Module, x: Any, **options: Any) -> leptonc.CompiledModel:
    with torch.no_grad():
        return leptonc.compile(
            model.eval(), x, **{"cache": False, "threads": 1, "tune": False, **options}
        )


def ways(net: leptonc.CompiledModel) -> dict[str, str]:
    """Return the unit names with why they run through torch, "" where they do not."""
    return {u.name: u.reason for u in net.schedule.units}


def remarks(net: leptonc.CompiledModel, by: str = "check") -> list[Any]:
    return [r for r in net.specializations[0].remarks if getattr(r, "pass_", "") == by]


@pytest.fixture
def lower(monkeypatch: pytest.MonkeyPatch) -> Seed:
    """Return what replaces the body of units before they are lowered: a wrong lowering."""

    def seed(
        change: Callable[[Op], Kind | None], steps: Callable[[Any], Any] | None = None
    ) -> None:
        real = scheduler._lower_body

        def wrong(ctx: Any, unit: Unit) -> None:
            body = unit.body
            ops = tuple(replace(op, kind=change(op) or op.kind) for op in body.ops)
            changed = Function("u", body.params, ops, body.returns, body.dims)
            mark, ctx.makers = len(ctx.steps), {**ctx.data, **changed.producer}
            real(ctx, replace(unit, body=changed))
            if steps is not None:
                ctx.steps[mark:] = [steps(s) for s in ctx.steps[mark:]]

        monkeypatch.setattr(scheduler, "_lower_body", wrong)

    return seed


def no_bias(op: Op) -> Kind | None:
    """Return a bias of zeros for the bias of ``Net.fc``."""
    if isinstance(op.kind, Constant) and op.result.type.rank == 1:
        return Constant(meaning.const_of(torch.zeros(int(op.result.type.numel))))
    return None


def tanh_as_abs(op: Op) -> Kind | None:
    return Abs() if isinstance(op.kind, Tanh) else None


def relu_as_abs(op: Op) -> Kind | None:
    return Abs() if isinstance(op.kind, Relu) else None


def without_tail(step: Any) -> Any:
    """Return an elementwise step that leaves its last element out."""
    if step.kernel.name != "elementwise":
        return step
    return replace(step, slots=tuple(184 if s == 185 else s for s in step.slots))


@pytest.mark.parametrize("verify", ["final", "unit", "pass"])
@pytest.mark.parametrize(
    ("change", "steps", "guilty", "kernel"),
    [
        (no_bias, None, "fc+relu", "igemm"),
        (tanh_as_abs, None, "mul+tanh+add", "elementwise"),
        (lambda _: None, without_tail, "mul+tanh+add", "elementwise"),
    ],
)
def test_the_guilty_unit_alone_retreats(lower, change, steps, guilty, kernel, verify) -> None:
    sound = ways(compiled(Net(), example()))
    assert not any(sound.values())
    lower(change, steps)
    model, x = Net(), 1.5 * example()
    fresh = -0.5 * x  # nobody ran on it: memory that is left unwritten cannot hold its results
    assert not torch.allclose(
        compiled(model, x, verify="off")(fresh), model(fresh), atol=1e-3, equal_nan=True
    ), "the seeded fault does nothing"
    net = compiled(model, x, verify=verify)
    torch.testing.assert_close(net(x), model(x), rtol=1e-5, atol=1e-6)
    wrong = {name for name, why in ways(net).items() if why}
    assert len(wrong) == 1 and guilty in next(iter(wrong))
    (remark,) = remarks(net)
    (name,) = wrong
    text = str(remark)
    for part in (name, "test_selfcheck.py:", "error", "tolerance", "made by fuse", kernel):
        assert part in text, f"{part!r} is not in {text}"
    found = net.errors[name]
    assert found.error > found.tolerance
    assert all(e.error <= e.tolerance for n, e in net.errors.items() if n != name)
    assert "1 missed" in net.report()


def test_generated_probes_see_what_the_example_hides(lower) -> None:
    class Positive(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x) * 2.0

    x = example(positive=True)
    lower(relu_as_abs)
    assert not any(ways(compiled(Positive(), x, verify="final")).values())
    net = compiled(Positive(), x, verify="unit")
    (remark,) = remarks(net)
    assert "the negated example" in str(remark)
    torch.testing.assert_close(net(-x), torch.zeros_like(x))


@pytest.mark.parametrize("verify", ["unit", "pass"])
def test_sound_units_stay_native_and_have_errors(verify) -> None:
    net = compiled(Net(), example(), verify=verify)
    assert set(net.errors) == set(ways(net)) and not any(ways(net).values())
    assert all(0 <= e.ratio <= 1 for e in net.errors.values())
    assert not remarks(net)


def test_a_unit_that_reads_a_value_twice_and_one_of_several_sizes() -> None:
    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.matmul(x, x) + torch.tanh(x)

    x = torch.randn(6, 6)
    net = compiled(Square(), x, verify="unit")
    assert not remarks(net) and len(net.errors) == len(net.schedule.units)
    x = example()
    net = compiled(Net(), x, verify="pass", dynamic={"x": {0: Dim("batch", min=1, max=64)}})
    assert not remarks(net) and len(net.errors) == len(net.schedule.units)
    torch.testing.assert_close(net(x[:3]), Net()(x[:3]), rtol=1e-5, atol=1e-6)


def test_an_image_net_with_layouts_and_threads() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(8, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(),
        nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.Hardswish(), nn.Conv2d(24, 16, 1),
        nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip
    x = torch.randn(2, 8, 21, 19)
    for threads in (1, 2):
        net = compiled(model, x, verify="pass", threads=threads)
        assert not remarks(net) and net.errors


def test_indices_stay_in_range() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(9, 16)

        def forward(self, ids: Tensor) -> Tensor:
            return torch.tanh(self.table(ids))

    net = compiled(Words(), torch.tensor([[0, 8, 3], [8, 8, 1]]), verify="pass")
    assert not remarks(net) and net.errors


# ----- the schedule -------------------------------------------------------------------------------


def test_a_unit_that_is_wrong_only_where_it_stands_retreats(monkeypatch) -> None:
    real = scheduler._lower_unit

    def wrong(ctx: Any, index: int, op: Op, *rest: Any) -> Any:
        mark = len(ctx.steps)
        info = real(ctx, index, op, *rest)
        if index == 2 and not info.reason:  # the unit is alone elsewhere
            ctx.steps[mark:] = [without_tail(s) for s in ctx.steps[mark:]]
        return info

    monkeypatch.setattr(scheduler, "_lower_unit", wrong)
    model, x = Net(), example()
    net = compiled(model, x)
    assert [bool(why) for why in ways(net).values()] == [False, False, True]
    (remark,) = remarks(net)
    assert "where it stands" in str(remark) and "tanh" in str(remark)
    torch.testing.assert_close(net(x), model(x), rtol=1e-5, atol=1e-6)


# ----- passes -------------------------------------------------------------------------------------


def where_positive(shape: tuple[int, ...] = (40,)) -> Function:
    """Return ``where(x > 0, x, 0)``, which is 0 where x is NaN."""
    b = Builder("f")
    x = b.param(TensorType(DType.F32, shape), "x")
    zero = b(Full(shape, 0.0, DType.F32))
    return b.finish(b(Where(), b(Gt(), x, zero), x, zero))


class ReluOfWhere(Pass):
    """A pass that forgets NaN."""

    NAME = "relu-of-where"

    def run(self, fn: Function, trace: Trace) -> Function:
        def ops() -> Iterator[Op]:
            for op in fn.ops:
                if isinstance(op.kind, Where):
                    trace.applied(op, "it is a relu", "where-to-relu")
                    op = replace(op, kind=Relu(), operands=op.operands[1:2])
                yield op

        return Function(fn.name, fn.params, tuple(ops()), fn.returns, fn.dims)


def test_a_pass_that_forgets_nan_is_named_with_its_rule() -> None:
    fn, x = where_positive(), torch.randn(40)
    seen = selfcheck.PassCheck.of(fn, (x,), "fp32")
    with pytest.raises(CheckError, match=r"relu-of-where.*where-to-relu 1x.*seen on NaN"):
        PassManager((ReluOfWhere(),), (seen,)).run(fn)
    only = selfcheck.PassCheck(fn, [("the example", check.reference(fn, (x,), "fp32"))])
    PassManager((ReluOfWhere(),), (only,)).run(fn)  # the example shows nothing


def forgetful(self: Dce, fn: Function, trace: Trace) -> Function:
    """Stand in for ``dce``: drop the tanh."""
    ops = tuple(replace(o, kind=Abs()) if isinstance(o.kind, Tanh) else o for o in fn.ops)
    changed = any(isinstance(o.kind, Tanh) for o in fn.ops)
    return Function(fn.name, fn.params, ops, fn.returns, fn.dims) if changed else fn


@pytest.mark.parametrize("verify", ["final", "unit", "pass"])
def test_a_guilty_pass_is_named_by_default(monkeypatch, verify) -> None:
    monkeypatch.setattr(Dce, "run", forgetful)
    with pytest.raises(CheckError, match=r"pass dce.*changed what .*error.*tolerance"):
        compiled(Net(), example(), verify=verify)


# ----- stored programs ----------------------------------------------------------------------------


def stored_net(tmp_path: Any, monkeypatch: Any) -> tuple[Any, Any, Any]:
    """Compile ``Net`` into a fresh cache; return what compiles it again, the cache and its key."""
    monkeypatch.setenv("LEPTONC_CACHE_DIR", str(tmp_path))
    compile_again = lambda: compiled(Net(), example(), cache=True)  # noqa: E731
    compile_again()
    BEHIND.wait()
    (path,) = (tmp_path / "compile").glob("??/*")
    return compile_again, CompileCache(), path.name


@pytest.mark.parametrize(
    ("file", "old", "new", "why"),
    [
        ("program.lir", "tanh", "sin", "its steps are not those that were stored"),
        ("program.lir", "tanh", "tunh", "does not load"),
        ("head.json", '"packs": ', '"packs": 1', "does not load"),
    ],
)
def test_a_wrong_stored_program_is_dropped_and_compiled_anew(
    tmp_path, monkeypatch, file, old, new, why
) -> None:
    again, cache, key = stored_net(tmp_path, monkeypatch)
    assert again().stats["cached"]
    entry = cache.get(key)
    texts = {**entry.texts, file: entry.texts[file].replace(old, new)}
    assert texts[file] != entry.texts[file]
    cache.put(key, texts, dict(entry.arrays))  # sound files, a wrong program
    net = again()
    assert not net.stats["cached"]
    (remark,) = remarks(net, "cache")
    assert why in str(remark) and "compiled anew" in str(remark)
    torch.testing.assert_close(net(example()), Net()(example()), rtol=1e-5, atol=1e-6)
    last = again()
    assert last.stats["cached"] and not remarks(last, "cache")


def test_a_stored_program_of_other_constants_is_dropped(tmp_path, monkeypatch) -> None:
    again, cache, key = stored_net(tmp_path, monkeypatch)
    entry = cache.get(key)
    arrays = dict(entry.arrays)
    cache.put(key, entry.texts, {**arrays, "pack0": 2 * arrays["pack0"]})
    net = again()
    (remark,) = remarks(net, "cache")
    assert not net.stats["cached"]
    assert "on the stored probe, output 0 is not what it was" in str(remark)


def test_what_is_written_to_after_a_compile_is_stored_as_it_was(tmp_path, monkeypatch) -> None:
    """The files may be written later than that; the probe holds what was compiled."""
    monkeypatch.setenv("LEPTONC_CACHE_DIR", str(tmp_path))
    begun = []
    monkeypatch.setattr(BEHIND, "begin", begun.append)
    x, model = example(), Net()
    compiled(model, x, cache=True)
    assert not list((tmp_path / "compile").glob("??/*"))
    with torch.no_grad():
        for tensor in (x, *model.state_dict(keep_vars=True).values()):
            tensor.zero_()
    assert [write() for write in begun] == [True]
    again = compiled(Net(), example(), cache=True)
    assert again.stats["cached"] and not remarks(again, "cache")


def test_damaged_files_are_told_too(tmp_path, monkeypatch) -> None:
    again, cache, key = stored_net(tmp_path, monkeypatch)
    meta = cache.get(key).path / "meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "arrays": "0" * 64}))
    net = again()
    (remark,) = remarks(net, "cache")
    assert not net.stats["cached"] and "not what was stored" in str(remark)
    assert again().stats["cached"]


def test_a_stored_program_with_a_retreat_and_one_of_a_single_number(
    tmp_path, monkeypatch, lower
) -> None:
    lower(tanh_as_abs)
    again, _, _ = stored_net(tmp_path, monkeypatch)
    net = again()
    assert net.stats["cached"] and sum(map(bool, ways(net).values())) == 1
    torch.testing.assert_close(net(example()), Net()(example()), rtol=1e-5, atol=1e-6)

    class Total(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum()

    for cached in (False, True):
        assert compiled(Total(), example(), cache=True).stats["cached"] is cached


# ----- comparing ----------------------------------------------------------------------------------


def test_specials_must_stand_where_both_references_have_them() -> None:
    nan, inf = float("nan"), float("inf")
    exact = torch.tensor([1.0, nan, inf, 1e39, 2.0], dtype=torch.float64)
    eager = torch.tensor([1.0, nan, inf, inf, inf])  # the last one overflowed on the way
    ref = check.Reference((), (exact,), (eager,), 32.0)
    assert ref.worst((torch.tensor([1.0, nan, inf, inf, 7.0]),)) is None
    wrongs = (
        [nan, nan, inf, inf, 0],
        [1, 0, inf, inf, 0],
        [1, nan, -inf, inf, 0],
        [1, nan, inf, -inf, 0],
        [inf, nan, inf, inf, 0],
        [1.1, nan, inf, inf, 0],
    )
    for wrong in wrongs:
        assert ref.worst((torch.tensor(wrong),)) is not None, wrong


def test_what_rounding_of_the_inputs_decides_is_no_miss() -> None:
    b = Builder("f")
    x = b.param(TensorType(DType.F32, (2,)), "x")
    one = b(Full((2,), 1.0, DType.F32))
    fn = b.finish(b(Gt(), x, one))
    inputs = (torch.tensor([1.0 + 2**-22, 3.0]),)
    plain = meaning.run(fn, *inputs)
    ref = check.reference(fn, inputs, "fp32", plain)
    flipped = (torch.tensor([False, True]),)
    assert ref.worst(flipped) is not None
    moved = check.conditioned(ref, fn)
    assert moved.worst(flipped) is None, "no float32 program can be asked to tell"
    assert moved.worst((torch.tensor([True, False]),)) is not None
