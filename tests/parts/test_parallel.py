"""A batch over workers is the pieces, bit for bit."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn

import leptonc
from leptonc import Dim, Parallel
from leptonc.errors import InputError, PartError, TargetError

from .dags import Residual, normal, seeded

BATCH = {"x": {0: Dim("batch", max=64)}}


@pytest.fixture(scope="module")
def part() -> leptonc.Part:
    return leptonc.split(seeded(Residual), 1, normal(4, 3, 8, 8), dynamic=BATCH, cache=False)[0]


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 7, 8])
def test_results_are_those_of_the_pieces(part, workers: int, rows: int) -> None:
    x = normal(rows, 3, 8, 8, seed=rows)
    with Parallel(part, workers=workers) as net:
        (got,) = net(x).values()
        pieces = torch.tensor_split(x, min(workers, rows))
        want = [next(iter(net.calls[0](p).values())) for p in pieces]
        assert torch.equal(got, torch.cat(want))
        assert net.workers == workers and net.threads >= 1


def test_a_compiled_model_keeps_its_structure() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 6)

        def forward(self, x: Tensor, w: Tensor) -> dict[str, Tensor | int]:
            return {"y": self.fc(x) * w, "n": 3}

    x, w = normal(6, 6), normal(6, seed=1)
    net = leptonc.compile(Two().eval(), (x, w), dynamic={"x": {0: Dim("b", max=32)}}, threads=1)
    with Parallel(net, 2, whole=[1]) as two:
        got, want = two(x, w), [net(p, w) for p in torch.tensor_split(x, 2)]
        assert torch.equal(got["y"], torch.cat([p["y"] for p in want])) and got["n"] == 3
    with Parallel(net, 2) as two, pytest.raises(InputError, match="worker 0"):
        two(x, w)  # w has as many elements as the batch has rows: it must be named


def test_workers_run_at_the_same_time_in_threads_of_their_own() -> None:
    meet = threading.Barrier(3)
    seen: set[str] = set()

    def call(x: Tensor) -> Tensor:
        meet.wait(10)
        seen.add(threading.current_thread().name)
        return x

    x = torch.arange(9.0)
    with Parallel(call, 3) as net:
        assert torch.equal(net(x), x)
    assert len(seen) == 3 and threading.current_thread().name not in seen


def test_a_worker_that_fails_is_named() -> None:
    def call(x: Tensor) -> Tensor:
        if float(x[0]) > 3:
            raise ValueError("broken")
        return x

    with Parallel(call, 2) as net:
        with pytest.raises(PartError, match="worker 1 of 2 failed: ValueError: broken"):
            net(torch.arange(8.0))
        assert net(torch.zeros(8)).shape == (8,), "and goes on"


def test_results_without_the_batch_are_refused() -> None:
    with Parallel(lambda x: x.sum(0), 2) as net, pytest.raises(InputError, match="axis 0 is not"):
        net(torch.ones(4, 3))
    with Parallel(lambda x: float(x[0]), 2) as net, pytest.raises(InputError, match="differs"):
        net(torch.arange(4.0))


def test_devices(part) -> None:
    with Parallel(part, devices=["cpu", "cpu"]) as net:
        x = normal(4, 3, 8, 8)
        assert net.workers == 2 and net(x).keys() == part(x).keys()
    with pytest.raises(TargetError):
        Parallel(part, devices=["cpu", "mars"])
    with pytest.raises(PartError, match="2 devices do not fit 3 workers"):
        Parallel(part, 3, devices=["cpu", "cpu"])
    with pytest.raises(PartError, match="device 'cpu'"):
        Parallel(len, devices=["cpu"])
    with pytest.raises(PartError, match="0 workers"):
        Parallel(part, 0)
    with Parallel(None, devices=[lambda x: x, lambda x: x]) as net:
        assert torch.equal(net(torch.arange(4)), torch.arange(4))
