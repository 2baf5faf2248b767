"""A group whose ranks Ray places, on a cluster of two nodes that is started here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from strategies.ray_nodes import two_nodes

from leptonc.errors import WorkerError
from leptonc.runtime.group import on_ray
from leptonc.runtime.group.on_ray import Board, RayGroup
from tests.runtime.group.leftovers import ALLOWED, ENTRY, gone, toy

LOOPBACK = "lo"
DEADLINE_S = 4.0
FAULTS = {
    "raise": r"rank 1 raised ValueError: the toy's mistake",
    "memory_error": r"rank 1 raised MemoryError.*smaller batch",
    "kill": r"rank 1 is gone",
    "exit": r"rank 1 is gone",
    "stop": r"rank \d did not answer within 4 s",
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with two_nodes():
        yield


def _group(directory: Path, world: int = 2) -> RayGroup:
    return RayGroup(
        directory, world, entry=ENTRY, allowed=ALLOWED, interface=LOOPBACK, deadline_s=DEADLINE_S,
        spread="STRICT_SPREAD",
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_ranks_on_two_nodes_run_the_program_and_fail(tmp_path: Path) -> None:
    toy(tmp_path, "total")
    x = torch.arange(6.0).view(2, 3)
    with _group(tmp_path) as group:
        assert group.pids == ()
        got = group.call([x, x.to(torch.bfloat16)])
        assert torch.equal(got[0], 3 * x) and torch.equal(got[1], (3 * x).to(torch.bfloat16))
        assert len(set(group.pids)) == 2 == len(group.hosts)
        toy(tmp_path, "cases")
        group.restart()
        assert group.call([torch.arange(60)])[0].tolist() == [[0], [0]]
        for fault, text in FAULTS.items():
            toy(tmp_path, "total", call_fault=fault)
            group.restart()
            pids = group.pids
            begin = time.monotonic()
            with pytest.raises(WorkerError, match=text):
                group.call([x])
            assert time.monotonic() - begin < DEADLINE_S + 2
            assert gone(pids, 5)
            with pytest.raises(WorkerError, match="restart"):
                group.call([x])
        toy(tmp_path, "total", load_fault="raise")
        with pytest.raises(WorkerError, match="mistake during loading"):
            group.restart()
    with pytest.raises(WorkerError, match="closed"):
        group.call([x])


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_more_ranks_than_the_cluster_has_room_for_are_refused(tmp_path: Path) -> None:
    toy(tmp_path, "total")
    group = RayGroup(tmp_path, 3, entry=ENTRY, allowed=ALLOWED, load_deadline_s=2)
    with group, pytest.raises(WorkerError, match="no room for 3 ranks"):
        group.start()


def test_without_ray_it_says_what_to_install(tmp_path: Path, monkeypatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(on_ray.importlib, "import_module", missing)
    with pytest.raises(WorkerError, match=r"pip install 'leptonc\[ray\]'"):
        RayGroup(tmp_path, 2, entry="leptonc.x:load")


def test_a_board_keeps_and_counts() -> None:
    board = Board()
    board.write("a", b"1")
    assert board.read(["a", "b"]) is None
    assert board.add("b", 2) == 2 and board.add("b", 3) == 5
    assert board.read(["a", "b"]) == [b"1", b"5"]
