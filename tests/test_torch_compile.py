"""``torch.compile(model, backend="leptonc")``, natively: breaks, sizes, weights, training."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from importlib.metadata import entry_points

import pytest
import torch
from torch import Tensor, nn

pytestmark = pytest.mark.numba


@pytest.fixture(autouse=True)
def _fresh(tmp_path, monkeypatch) -> Iterator[None]:
    monkeypatch.setenv("LEPTONC_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Net(nn.Module):
    """A graph break in the middle, a Python number, a dict result."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 4)
        self.register_buffer("shift", torch.ones(4))

    def forward(self, x: Tensor, n: int = 3) -> dict[str, Tensor]:
        y = self.norm(torch.relu(self.up(x)))
        if y.mean() > 10:  # a graph break
            y = y - 1
        return {"y": self.down(y) + self.shift, "n": x.sum(-1) * n}


def same(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert list(got) == list(want)
    for key, value in want.items():
        torch.testing.assert_close(got[key], value)


def test_registered_as_an_entry_point() -> None:
    names = [e.name for e in entry_points(group="torch_dynamo_backends")]
    assert "leptonc" in names
    assert "leptonc" in torch._dynamo.list_backends()


def test_graph_breaks_and_changing_sizes() -> None:
    torch.manual_seed(0)
    net = Net().eval()
    run = torch.compile(net, backend="leptonc")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for rows, n in ((3, 3), (5, 3), (6, 4), (9, 4), (3, 3)):
            x = torch.randn(rows, 8)
            same(run(x, n), net(x, n))


def test_declared_dynamic() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    run = torch.compile(net, backend="leptonc", dynamic=True)
    with torch.no_grad():
        for rows, side in ((2, 8), (3, 9), (5, 16)):
            x = torch.randn(rows, 3, side, side)
            torch.testing.assert_close(run(x), net(x), rtol=1e-5, atol=1e-6)


def test_changed_weights_are_seen() -> None:
    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(3, 8)
    run = torch.compile(net, backend="leptonc")
    with torch.no_grad():
        same(run(x), net(x))
        net.down.weight.mul_(2)
        same(run(x), net(x))
        net.load_state_dict(Net().state_dict())
        same(run(x), net(x))
        net.down.weight = nn.Parameter(torch.randn(4, 16))
        same(run(x), net(x))


def test_training_runs_eagerly_and_says_so() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    run = torch.compile(net, backend="leptonc")
    x = torch.randn(3, 4)
    with pytest.warns(UserWarning, match="runs eagerly.*(gradient|training|eval)"):
        run(x).sum().backward()
    want = torch.autograd.grad(net(x).sum(), [*net.parameters()])
    for p, g in zip(net.parameters(), want, strict=True):
        assert p.grad is not None
        torch.testing.assert_close(p.grad, g)


def test_dropout_in_training_mode_stays_random() -> None:
    net = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5)).train()
    run = torch.compile(net, backend="leptonc")
    x = torch.randn(3, 4)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not torch.equal(run(x), run(x))


def test_functions_and_scalars() -> None:
    @torch.compile(backend="leptonc")
    def f(x: Tensor, k: float) -> Tensor:
        return torch.softmax(x * k, -1).cumsum(-1)

    with torch.no_grad():
        x = torch.randn(4, 7)
        for k in (1.0, 2.0, 2.5):
            torch.testing.assert_close(f(x, k), torch.softmax(x * k, -1).cumsum(-1))
