"""The road of compression: steps, their ledger, undoing, times, data that do not fit, passes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import leptonc
from leptonc.capture.frontend import capture
from leptonc.compress.recipe import CompressError, Context, Edit
from leptonc.compress.road import batches_of
from leptonc.errors import PassError, PipelineError
from leptonc.ir.core import Function
from leptonc.ir.kinds.data import Constant
from leptonc.ir.text import dump
from leptonc.meaning import const_of, tensor_of
from leptonc.passes import LOSSY, load, pipeline


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X = _normal(3, 8)


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.Linear(32, 4)).eval()


def _times(fn: Function, name: str, factor: float) -> Function:
    """Return ``fn`` with one constant multiplied; ``fn`` itself if it has none of that name."""
    for op in fn.ops:
        if isinstance(op.kind, Constant) and op.result.hint == name:
            new = dataclasses.replace(
                op, kind=Constant(const_of(tensor_of(op.kind.const) * factor))
            )
            ops = tuple(new if o is op else o for o in fn.ops)
            return dataclasses.replace(fn, ops=ops)
    return fn


@dataclass(frozen=True)
class Scale:
    """Multiplies constants."""

    names: tuple[str, ...]
    factor: float

    def plan(self, fn: Function, context: Context) -> Sequence[Edit]:
        """Return an edit a constant."""
        return [Edit(n, f"times {self.factor}", partial(_times, name=n, factor=self.factor))
                for n in self.names]  # fmt: skip


STEPS = (Scale(("0.weight", "2.weight"), 0.5), Scale(("nothing", "2.bias"), 2.0))


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items()}


def test_only_steps_that_change_something_stand_in_the_ledger() -> None:
    net = _net()
    small = leptonc.compress(net, X, *STEPS)
    assert [e.where for e in small.ledger] == ["0.weight", "2.weight", "2.bias"]
    assert [e.index for e in small.ledger] == [0, 1, 2]
    assert torch.equal(small.state_dict()["2.weight"], net[2].weight * 0.5)
    assert math.isclose(sum(e.added for e in small.ledger), small.ledger[-1].error)
    off = (small(X) - net(X)).double().norm() / net(X).double().norm()
    assert small.ledger[-1].error == pytest.approx(float(off.detach()), rel=1e-6)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_undo_restores_exactly_and_keeps_the_others(index: int) -> None:
    net = _net()
    small = leptonc.compress(net, X, *STEPS)
    undone = small.ledger.undo(index)
    name = small.ledger[index].where
    assert torch.equal(undone.state_dict()[name], net.state_dict()[name])
    for other in {e.where for e in small.ledger} - {name}:
        assert torch.equal(undone.state_dict()[other], small.state_dict()[other])
    assert len(undone.ledger) == 2


def test_undoing_everything_gives_the_original_back() -> None:
    net = _net()
    small = leptonc.compress(net, X, *STEPS)
    while len(small.ledger):
        small = small.ledger.undo(0)
    assert dump(small.function) == dump(capture(net, X).function)


def test_trained_weights_survive_an_undo() -> None:
    small = leptonc.compress(_net(), X, *STEPS)
    with torch.no_grad():
        small.get_parameter("3.weight").add_(1)
    undone = small.ledger.undo(0)
    assert torch.equal(undone.state_dict()["3.weight"], small.state_dict()["3.weight"])


def test_a_step_that_is_not_there() -> None:
    small = leptonc.compress(_net(), X, *STEPS)
    for index in (-1, 3):
        with pytest.raises(CompressError, match="steps 0 to 2"):
            small.ledger.undo(index)


@pytest.mark.parametrize("index", [0, 1])
def test_pruning_and_quantizing_are_undone(index: int) -> None:
    net = _net()
    steps = (leptonc.Prune(0.5), leptonc.Quantize())
    small = leptonc.compress(net, X, *steps, data=[X])
    undone = small.ledger.undo(index)
    wanted = [(e.recipe, e.where) for e in small.ledger if e.index != index]
    assert [(e.recipe, e.where) for e in undone.ledger] == wanted
    while len(undone.ledger):
        undone = undone.ledger.undo(len(undone.ledger) - 1)
    assert torch.equal(undone(X), net(X))


@pytest.mark.numba
def test_measured_times_follow_one_another() -> None:
    ledger = leptonc.compress(_net(), X, *STEPS).ledger.measure()
    assert all(e.ms_before and e.ms_after for e in ledger)
    assert [e.ms_after for e in ledger][:-1] == [e.ms_before for e in ledger][1:]
    assert "2.weight" in str(ledger)


def test_texts_and_html_name_every_step() -> None:
    small = leptonc.compress(_net(), X, Scale(("0.weight",), 0.5), leptonc.Prune(0.5))
    for text in (str(small.ledger), small.ledger._repr_html_(), small._repr_html_()):
        assert "Scale" in text and "0.weight" in text and "Prune" in text
    assert "<table" in small._repr_html_() and "<script src" not in small._repr_html_()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ([], "empty"),
        ([_normal(3, 9)], "does not fit"),
        ([X * math.nan], "NaN"),
        ([X, X / 0], "batch 1 holds NaN or infinities"),
        ([{"nothing": X}], "does not fit"),
    ],
)
def test_wrong_data_say_what_is_wrong(data: list, text: str) -> None:
    with pytest.raises(CompressError, match=text):
        leptonc.compress(_net(), X, *STEPS, data=data)


def test_labels_behind_the_inputs_are_dropped() -> None:
    found = batches_of(capture(_net(), X), [(X, torch.zeros(3)), [X], X])
    assert [len(b) for b in found] == [1, 1, 1]


def test_no_recipe_is_an_error() -> None:
    with pytest.raises(CompressError, match="no recipe"):
        leptonc.compress(_net(), X)


@pytest.mark.parametrize("name", LOSSY)
def test_recipes_are_passes(name: str) -> None:
    assert name == load(name).NAME


def test_a_pipeline_string_prunes_and_factorizes() -> None:
    fn = capture(_net(), X).function
    text = "prune{ratio=0.5,round-to=4},low-rank{ratio=0.5,round-to=1},cse,dce"
    after = leptonc.optimize(fn, text)
    hints = {op.result.hint: op.result.type for op in after.ops if isinstance(op.kind, Constant)}
    assert "2.first.weight" in hints
    assert hints["0.bias"].shape == (16,)
    assert str(pipeline("low-rank{error=0.1}")[0]) == "low-rank{error=0.1}"


def test_a_pass_that_lacks_data_says_so() -> None:
    fn = capture(_net(), X).function
    with pytest.raises(PassError, match="calibration data"):
        leptonc.optimize(fn, "quantize")
    leptonc.optimize(fn, "quantize{activations=none}")
    with pytest.raises(PipelineError, match="ratoi"):
        leptonc.optimize(fn, "prune{ratoi=0.5}")
