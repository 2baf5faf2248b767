"""What random programs rarely meet: sizes without a tensor, names without a constant, memory."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn

import leptonc
from leptonc import Dim, meaning
from leptonc.ir.core import Builder
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.unary import Neg
from leptonc.parts.blocks import blocks_of
from leptonc.parts.run import Frame, _steps
from leptonc.parts.weigh import Original, copied_constants

from .dags import TYPE, normal


class Sized(nn.Module):
    """Ends in ops that know the batch only as a number: what they read has lost it."""

    def forward(self, x: Tensor) -> Tensor:
        total = torch.relu(x).sum()
        return torch.sigmoid(total).expand(x.shape[0], 3) + torch.arange(x.shape[0])[:, None]


def test_a_size_that_no_input_of_a_part_has_is_read_off_the_models_input() -> None:
    net, x = Sized().eval(), normal(4, 6)
    sizes = {"x": {0: Dim("batch", min=2, max=64)}}
    parts = leptonc.split(net, 6, x, dynamic=sizes, pipeline="O0", cache=False)
    extra = [p for p in parts[1:] if "x" in p.inputs]
    assert extra, "a part that begins behind the sum has no other input with the batch"
    for rows in (4, 9):
        x = normal(rows, 6, seed=rows)
        torch.testing.assert_close(leptonc.run(parts, x), net(x), rtol=1e-5, atol=1e-5)


def test_a_name_that_is_free_is_given_once() -> None:
    b = Builder("equal")
    x = b.param(TYPE, "x")
    equal = torch.eye(4)
    w0, w1 = (b(Constant(meaning.const_of(equal.clone())), hint=f"w{i}") for i in range(2))
    ends = [b(Neg(), v) for v in (w0, w1, x, w0, w1)]
    blocks = blocks_of(b.finish(*ends), "dce")
    known = [Original(f"w{i}", meaning.const_of(equal.clone()), True) for i in range(3)]
    given = [n for names in copied_constants(blocks, 2, known).values() for n in names]
    assert given == ["w0", "w2"], "w1 has no second name left: it is sent"


def test_the_program_of_a_part_keeps_its_weights_when_it_is_compiled() -> None:
    net = nn.Sequential(nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 128)).eval()
    x = normal(4, 128)
    parts = leptonc.split(net, 2, x, cache=False)
    want = leptonc.run(parts, x)  # compiled now: of static programs only packed weights are kept
    (middle,) = meaning.run(parts[0].ir, x)
    (got,) = meaning.run(parts[1].ir, middle)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got, net(x).detach(), rtol=1e-4, atol=1e-5)


def test_values_that_nobody_reads_any_more_are_let_go() -> None:
    class Stub(SimpleNamespace):
        def __call__(self, *args: Tensor) -> dict[str, Tensor]:
            return {self.gives: args[0]}

    parts = [
        Stub(inputs=("x",), gives="a"),
        Stub(inputs=("a",), gives="b"),
        Stub(inputs=("b", "x"), gives="y"),
    ]
    frame = Frame(blocks_of(_empty(), "O0").function, ("x",), ("y",), None)
    named, held = {"x": torch.zeros(1)}, []
    for step in _steps(parts, frame):
        named = step(named)
        held.append(sorted(named))
    assert held == [["a", "x"], ["b", "x"], ["y"]]


def _empty():
    b = Builder("empty")
    return b.finish(b.param(TYPE, "x"))
