"""A module raised from IR computes, trains and is captured as what it was raised from."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies.arrays import arrays_for
from strategies.functions import functions
from strategies.laws import same_bits

import leptonc
from leptonc import meaning
from leptonc.capture.frontend import capture
from leptonc.compress.raised import raise_
from leptonc.ir.text import dump


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.bn = torch.nn.BatchNorm2d(8)
        self.fc = torch.nn.Linear(8, 4)
        self.register_buffer("shift", torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3))) + self.shift


X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def test_it_is_captured_again_exactly_and_computes_the_same() -> None:
    net = Net().eval()
    captured = capture(net, X)
    raised = raise_(captured)
    assert torch.equal(raised(X), net(X))
    assert dump(capture(raised, X).function) == dump(captured.function)
    names = set(net.state_dict()) - {"bn.num_batches_tracked"}
    assert set(raised.state_dict()) == names
    assert {n for n, _ in raised.named_parameters()} == {n for n, _ in net.named_parameters()}


def test_it_trains_as_the_model_does() -> None:
    torch.manual_seed(0)
    net, other = Net().eval(), None
    raised = raise_(capture(net, X))
    for model in (net, raised):
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(X).square().sum().backward()
            optimizer.step()
        model.eval()
    trained = net.state_dict()
    for name, tensor in raised.state_dict().items():
        torch.testing.assert_close(tensor, trained[name])
    del other


def test_what_was_trained_is_captured_and_compiled() -> None:
    raised = raise_(capture(Net().eval(), X))
    with torch.no_grad():
        raised.get_parameter("fc.bias").add_(1.0)
    compiled = leptonc.compile(raised, X, cache=False)
    torch.testing.assert_close(compiled(X), raised(X).detach())


def test_other_inputs_are_traced() -> None:
    net = Net().eval()
    raised = raise_(capture(net, X))
    outer = torch.nn.Sequential(raised, torch.nn.ReLU()).eval()
    torch.testing.assert_close(leptonc.compile(outer, X, cache=False)(X), net(X).relu().detach())


def test_the_original_is_not_changed() -> None:
    net = Net().eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    raised = raise_(capture(net, X))
    with torch.no_grad():
        for p in raised.parameters():
            p.zero_()
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    with pytest.raises(leptonc.LeptoncError):
        raised(X[:1], X)


@given(data=st.data())
def test_any_function_comes_back_as_it_was(data: st.DataObject) -> None:
    from torch.utils import _pytree as pytree

    from leptonc.capture import Captured, InputSpec, OutputSpec

    fn = data.draw(functions())
    args = tuple(data.draw(arrays_for(fn)))
    _, in_spec = pytree.tree_flatten((args, {}))
    outs = tuple(range(len(fn.returns)))
    captured = Captured(
        fn, in_spec, pytree.tree_flatten(outs)[1],
        tuple(InputSpec(f"x{i}", param=i, tensor=True) for i in range(len(args))),
        tuple(OutputSpec(result=i) for i in outs),
    )  # fmt: skip
    raised = raise_(captured)
    assert dump(raised.function) == dump(fn)
    same_bits(meaning.run(fn, *args), raised(*args))
