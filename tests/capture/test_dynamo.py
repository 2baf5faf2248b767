"""The torch.compile backend, with the interpreter in the compiler's place."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn as nn
from torch import Tensor

from leptonc.capture.dynamo import backend
from leptonc.capture.frontend import capture
from leptonc.meaning import bind_dims, run


class Log:
    """Compiles by capture and interpretation, and keeps what it captured."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.backend = functools.partial(backend, compiler=self.compile)

    def compile(self, module: nn.Module, args: Any, *, dynamic: Any) -> Any:
        captured = capture(module, args, dynamic=dynamic)
        self.seen.append(captured)

        def call(*given: Tensor) -> Any:
            leaves = captured.flatten(given, {})
            tensors = captured.tensors(leaves)
            sizes = bind_dims(captured.function, [t.shape for t in tensors])
            return captured.restore(run(captured.function, *tensors), leaves, sizes)

        return call


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("shift", torch.ones(4))

    def forward(self, x: Tensor, n: int = 3) -> Tensor:
        y = self.norm(self.lin(x)) + self.shift
        if y.sum() > 0:  # a graph break
            y = y * 2
        return y.view(x.shape[0] * 2, -1) * n


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    with torch.no_grad():
        yield
    torch._dynamo.reset()


def test_graph_breaks_dynamic_sizes_and_changed_weights() -> None:
    log, net = Log(), Net().eval()
    compiled = torch.compile(net, backend=log.backend)
    for rows, n in ((3, 3), (5, 3), (6, 4), (9, 4)):
        x = torch.randn(rows, 4)
        torch.testing.assert_close(compiled(x, n), net(x, n))
    assert any(c.ranges for c in log.seen)
    assert all(not c.opaque for c in log.seen)
    first = log.seen[0].function
    assert len(first.params) == 1  # weights are constants
    assert next(op for op in first.ops if op.kind.NAME == "linear").origin.module == "lin"
    count = len(log.seen)
    compiled(x, 4)
    assert len(log.seen) == count
    net.lin.weight.mul_(2)
    torch.testing.assert_close(compiled(x, 4), net(x, 4))
    net.lin.weight.data = torch.randn(4, 4)
    torch.testing.assert_close(compiled(x, 4), net(x, 4))


def test_what_cannot_be_compiled_runs_eagerly() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(2))

        def forward(self, x: Tensor) -> Tensor:
            self.calls.add_(1)
            return x + self.calls

    log, net = Log(), Counts().eval()
    compiled = torch.compile(net, backend=log.backend)
    with pytest.warns(UserWarning, match="runs eagerly(?s:.*)in place"):
        torch.testing.assert_close(compiled(torch.zeros(2)), torch.ones(2))
    torch.testing.assert_close(compiled(torch.zeros(2)), torch.full((2,), 2.0))


def test_inputs_that_require_a_gradient_keep_it() -> None:
    log, net = Log(), Net().eval()
    compiled = torch.compile(net.lin, backend=log.backend)
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert compiled(torch.randn(2, 4, requires_grad=True)).requires_grad
    assert not log.seen
