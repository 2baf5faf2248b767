"""A worker's rank by itself, in this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from leptonc.errors import WorkerError
from leptonc.runtime.group.mailbox import Mailbox, anonymous_file
from leptonc.runtime.group.worker import Rank
from tests.runtime.group.leftovers import ALLOWED, ENTRY, toy


@pytest.fixture
def config(tmp_path: Path) -> Iterator[dict[str, Any]]:
    files = {name: anonymous_file(name, 1 << 20) for name in ("inbox", "outbox", "segment")}
    yield {
        **files, "world": 1, "backend": "shm", "device": "cpu", "entry": ENTRY, "allowed": ALLOWED,
        "directory": str(tmp_path), "spin_us": 0, "deadline_s": 1, "load_deadline_s": 1,
        "crowded": False,
    }  # fmt: skip
    for fd in files.values():
        os.close(fd)


def test_a_rank_answers(tmp_path: Path, config: dict[str, Any]) -> None:
    toy(tmp_path, "total")
    rank = Rank(0, config)
    header = Mailbox(config["inbox"]).put([torch.arange(3.0)])
    (got,) = Mailbox(config["outbox"]).get(rank.answer(header))
    assert got.tolist() == [0, 1, 2]


def test_a_program_has_to_return_tensors(tmp_path: Path, config: dict[str, Any]) -> None:
    toy(tmp_path, "wrong")
    with pytest.raises(WorkerError, match="expected a list of tensors"):
        Rank(0, config).answer(Mailbox(config["inbox"]).put([torch.ones(3)]))


def test_a_segment_has_to_be_large_enough(tmp_path: Path, config: dict[str, Any]) -> None:
    toy(tmp_path, "total")
    with pytest.raises(WorkerError, match="a segment for 9 ranks needs"):
        Rank(0, {**config, "world": 9})
