"""Ranks of a torchrun job and ranks that Ray places give the bits of local ones."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from strategies.planned import block
from strategies.ray_nodes import two_nodes

import leptonc
from leptonc.errors import WorkerError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def local() -> torch.Tensor:
    model, x = block()
    sharding = leptonc.Sharding(objective="memory", engine="torch")
    with leptonc.compile(model, x, target="cpu:2", sharding=sharding) as net:
        return net(*x)


def test_torchrun(local: torch.Tensor, tmp_path: Path) -> None:
    loopback = {"GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0"}
    path = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2",
            "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--local-addr=127.0.0.1",
            "-m", "tests.sharded.torchrun_job", str(tmp_path),
        ],
        env={**os.environ, **loopback, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=200, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in range(2):
        assert torch.equal(torch.load(tmp_path / f"result{rank}.pt"), local)


def test_torchrun_without_a_job() -> None:
    model, x = block()
    sharding = leptonc.Sharding(launcher="torchrun")
    with pytest.raises(WorkerError, match="run under torchrun"):
        leptonc.compile(model, x, target="cpu:2", sharding=sharding)


@pytest.fixture
def cluster() -> Iterator[None]:
    with two_nodes():
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_ray_on_two_nodes(local: torch.Tensor) -> None:
    model, x = block()
    sharding = leptonc.Sharding(objective="memory", engine="torch", launcher="ray")
    with leptonc.compile(model, x, target="cpu:2", sharding=sharding) as net:
        assert torch.equal(net(*x), local)


SCRIPT = """
import torch, leptonc
class Net(torch.nn.Module):
    def forward(self, x):
        return torch.relu(x @ x.T).sum(-1)
x = torch.randn(6, 4)
net = leptonc.compile(Net().eval(), x, target="cpu:2")
assert torch.allclose(net(x), Net()(x), atol=1e-5)
print("done")
"""


def test_from_standard_input_without_a_guard() -> None:
    done = subprocess.run(
        [sys.executable, "-"], input=SCRIPT, capture_output=True, text=True, timeout=200,
        check=False, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout == "done\n", done.stderr[-3000:]
