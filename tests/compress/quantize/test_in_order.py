"""GPTQ in order: each unit sees what the units before it leave once they are quantized."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import leptonc
from leptonc.capture.frontend import capture
from leptonc.compress.quantize import Quantize, observe, units
from leptonc.compress.quantize.gptq import hessian
from leptonc.compress.quantize.planner import Planner
from leptonc.compress.recipe import Calibration, CompressError, Context, Edit, relative_error
from leptonc.ir.core import Function

FEW = settings(max_examples=6, deadline=None)


class Net(nn.Module):
    """Two layers on one value, a sum, a layer of the sum: inputs of every kind of neighbour."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.first = nn.Linear(width, width, bias)
        self.left = nn.Linear(width, width, bias)
        self.right = nn.Linear(width, width, bias)
        self.last = nn.Linear(width, 6, bias)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.last(torch.tanh(self.left(x)) * self.right(x) + x)


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1)
        self.deep = nn.Conv2d(8, 8, 3, groups=8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.deep(torch.relu(self.conv(x)))).mean((2, 3)))


def net_and_data(images: bool, seed: int) -> tuple[Function, list[tuple[Tensor, ...]]]:
    torch.manual_seed(seed)
    net = Images() if images else Net(16, bool(seed % 2))
    data = [torch.randn(3, 4, 6, 6) if images else torch.randn(20, 16) for _ in range(3)]
    return capture(net.eval(), data[0]).function, [(x,) for x in data]


RECIPES = (
    Quantize(weights=4, activations=None, method="gptq"), Quantize(weights=4, method="gptq"),
    Quantize(scheme="dynamic", method="gptq"),
)  # fmt: skip


@FEW
@given(recipe=st.sampled_from(RECIPES), images=st.booleans(), seed=st.integers(0, 99))
def test_inputs_are_those_that_quantized_units_leave(
    recipe: Quantize, images: bool, seed: int
) -> None:
    fn, data = net_and_data(images, seed)
    fn, context = units.prepared(fn), Context(Calibration(tuple(data)))
    planner = Planner(recipe, fn, context)
    seen, made = list[str](), list[Edit]()

    def decide(unit: units.Unit, found: observe.Observed) -> Edit | None:
        program = fn
        for edit in made:
            program = edit.make(program)
        # of units that read one value, the first one's own input stands for all
        at = units.by_weight(program, unit.name)
        assert at is not None
        want = torch.zeros(())
        for values in Calibration(tuple(data)).observed(program, [at.x]):
            x = values[at.x]
            if at.op.kind.NAME == "conv":
                kernel = [int(n) for n in unit.weight.type.shape[2:]]
                want = want + hessian(observe.patches(x, at.op.kind, kernel))
            else:
                want = want + hessian(x.reshape(1, -1, x.shape[-1]))
        torch.testing.assert_close(found.hessians[observe.product_key(unit)], want)
        seen.append(unit.where)
        edit = planner.decide(unit, found)
        assert edit is not None
        made.append(edit)
        return edit

    observe.in_order(fn, context.need_data("q"), planner.chosen, observe.Wants(True, True, 0),
                     decide)  # fmt: skip
    assert seen == [u.where for u in planner.chosen]
    assert [e.where for e in Planner(recipe, fn, context).plan()] == seen


def test_in_aggregate_the_error_is_smaller_than_by_float_inputs() -> None:
    """Over networks of three bit-starved layers, on the data that both were made from."""
    errors = {True: 0.0, False: 0.0}
    for seed in range(5):
        torch.manual_seed(seed)
        layers = [m for _ in range(3) for m in (nn.Linear(32, 32), nn.ReLU())]
        net = nn.Sequential(*layers[:-1]).eval()
        data = [torch.randn(100, 32) @ torch.randn(32, 32) for _ in range(2)]
        for sequential in errors:
            recipe = Quantize(weights=4, activations=None, method="gptq", sequential=sequential)
            small = leptonc.compress.compress(net, data[0], recipe, data=data)
            with torch.no_grad():
                errors[sequential] += relative_error([small(x) for x in data],
                                                     [net(x) for x in data])  # fmt: skip
    assert errors[True] < errors[False], errors


def test_values_that_overflow_name_their_unit() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).eval()
    with torch.no_grad():
        net[0].weight.fill_(3e38)
    with pytest.raises(CompressError, match=r"^1: its inputs hold NaN or infinities"):
        leptonc.compress.compress(net, torch.ones(2, 4), RECIPES[0], data=[torch.ones(2, 4)])
