"""A group within a job of torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from leptonc.errors import WorkerError
from leptonc.runtime.group.torchrun import TorchrunGroup
from tests.runtime.group.leftovers import toy

ROOT = Path(__file__).resolve().parents[3]


def test_ranks_of_a_job_run_the_program(tmp_path: Path) -> None:
    toy(tmp_path, "total")
    loopback = {"GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0"}
    path = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2",
            "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--local-addr=127.0.0.1",
            "-m", "tests.runtime.group.torchrun_job", str(tmp_path),
        ],
        env={**os.environ, **loopback, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in range(2):
        told = json.loads((tmp_path / f"told{rank}.json").read_text())
        assert told["total"] == [3.0, 3.0, 3.0] and told["wrong"] == [[0], [0]]
        assert (told["rank"], told["world"]) == (rank, 2)
        first, second = told["errors"]
        assert f"rank {rank} raised ValueError: the toy's mistake" in first
        assert "an earlier call failed" in second


def test_without_a_job_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="run under torchrun"):
        TorchrunGroup(tmp_path, entry="tests.runtime.group.toy:load", allowed=("tests.",))
