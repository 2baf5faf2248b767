"""LSTM, GRU and plain RNN stacks against torch: layers, directions, odd sizes, any thread count."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

import leptonc
from leptonc.ir.kinds.data import Recurrent
from tests.backends.numba_cpu.harness import check_op

pytestmark = pytest.mark.numba
_GATES = {"lstm": 4, "gru": 3, "tanh": 1, "relu": 1}


def _operands(
    kind: Recurrent, steps: int, batch: int, inputs: int, hidden: int, seed: int
) -> list[Tensor]:
    """Return input, states and weights, scaled as torch scales them."""
    g = torch.Generator().manual_seed(seed)
    directions = 2 if kind.bidirectional else 1

    def some(*shape: int) -> Tensor:
        return (torch.rand(shape, generator=g) - 0.5) * 2 * hidden**-0.5

    states = 2 if kind.cell == "lstm" else 1
    made = [torch.randn(steps, batch, inputs, generator=g)]
    made += [some(kind.layers * directions, batch, hidden) for _ in range(states)]
    wide = _GATES[kind.cell] * hidden
    for layer in range(kind.layers):
        for _ in range(directions):
            made += [some(wide, hidden * directions if layer else inputs), some(wide, hidden)]
            made += [some(wide), some(wide)] if kind.bias else []
    return made


@example(kind=Recurrent("lstm", 2, True, True), steps=3, batch=14, inputs=5, hidden=33, seed=0)
@example(kind=Recurrent("gru", 1, False, False), steps=1, batch=1, inputs=1, hidden=1, seed=0)
@given(
    kind=st.builds(
        Recurrent, st.sampled_from(sorted(_GATES)), st.integers(1, 3), st.booleans(), st.booleans()
    ),
    steps=st.integers(1, 5),
    batch=st.integers(1, 17),
    inputs=st.integers(1, 20),
    hidden=st.integers(1, 40),
    seed=st.integers(0, 9),
)
def test_stacks_match_torch(
    kind: Recurrent, steps: int, batch: int, inputs: int, hidden: int, seed: int
) -> None:
    operands = _operands(kind, steps, batch, inputs, hidden, seed)
    weights = range(3 if kind.cell == "lstm" else 2, len(operands))
    check_op(kind, *operands, rtol=1e-5, atol=2e-6, consts=tuple(weights))


def test_nan_and_infinity_stay_in_their_sequence() -> None:
    kind = Recurrent("lstm", 1)
    operands = _operands(kind, 4, 5, 6, 7, 1)
    operands[0][1, 2, 3] = float("nan")
    operands[0][0, 4, 0] = float("inf")
    check_op(kind, *operands, atol=2e-6, consts=(3, 4, 5, 6))


class Tagger(nn.Module):
    """A recurrent layer with a head; ``forward`` gives every result of the layer."""

    def __init__(self, layer: nn.Module, wide: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(wide, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self.layer(x)
        return self.head(y), state[0] if isinstance(state, tuple) else state


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("cls", [nn.LSTM, nn.GRU, nn.RNN])
def test_modules_compile_natively(cls: type[nn.Module], batch_first: bool) -> None:
    torch.manual_seed(0)
    layer = cls(8, 12, num_layers=2, bidirectional=True, batch_first=batch_first)
    net = Tagger(layer, 24).eval()
    batch, length = leptonc_dims()
    axes = {0: batch, 1: length} if batch_first else {0: length, 1: batch}
    with torch.no_grad():
        x = torch.randn(3, 4, 8)
        compiled = leptonc.compile(net, x, dynamic={"x": axes}, threads=1, cache=False)
        for shape in ((3, 4), (7, 2), (2, 9)):
            y = torch.randn(*shape, 8)
            for got, want in zip(compiled(y), net(y), strict=True):
                torch.testing.assert_close(got, want, rtol=1e-5, atol=2e-6)
        assert compiled.stats["ops_torch"] == 0
        assert len(compiled.specializations) == 1


def leptonc_dims() -> tuple[torch.export.Dim, torch.export.Dim]:
    """Return the dynamic sizes of a batch of sequences."""
    return torch.export.Dim("batch", min=2, max=64), torch.export.Dim("length", min=2, max=64)
