"""Answers of workers that are only pipes here: of this call, of another, and what went wrong."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from leptonc.runtime.group import failure
from leptonc.runtime.group.comm import PeerError
from leptonc.runtime.group.message import Kind, Message, Reader, send
from leptonc.runtime.group.replies import Waiting


class Rank:
    """What a controller sees of a worker, and the end of the pipe that the worker writes to."""

    def __init__(self, rank: int) -> None:
        read, self.fd = os.pipe()
        self.rank, self.reader, self.descriptors = rank, Reader(read), (read,)

    def says(self, kind: Kind, number: int, payload: bytes = b"") -> None:
        send(self.fd, Message(kind, number, payload))

    def fails(self, error: Exception) -> None:
        self.says(Kind.FAILED, 1, failure.describe(error))

    def ended(self) -> bool:
        return False

    def state(self) -> str:
        return "sleeping"

    def output(self) -> str:
        return ""

    def show_stacks(self) -> None:
        """Nothing runs that could show where it is."""


@pytest.fixture
def ranks() -> Iterator[list[Any]]:
    made = [Rank(0), Rank(1)]
    yield made
    for r in made:
        os.close(r.fd)
        os.close(r.reader.fd)


def test_answers_of_all_ranks_in_any_order(ranks: list[Any]) -> None:
    for r in reversed(ranks):
        r.says(Kind.DONE, 7, b"of %d" % r.rank)
    assert Waiting(ranks, 0.0).gather(7, 5.0) == ({0: b"of 0", 1: b"of 1"}, None)


def test_an_answer_to_an_earlier_call_is_none_to_this(ranks: list[Any]) -> None:
    for r in ranks:
        r.says(Kind.DONE, 1, b"old")
    ranks[0].says(Kind.DONE, 2, b"new")
    answers, wrong = Waiting(ranks, 0.0).gather(2, 0.1)
    assert answers == {0: b"new"}
    assert wrong is not None and wrong.rank == 1 and "did not answer" in wrong.what


def test_a_rank_that_suffers_is_not_blamed_before_the_other_is_heard(ranks: list[Any]) -> None:
    ranks[0].fails(PeerError("rank 1 is gone"))
    later = threading.Timer(0.05, lambda: ranks[1].fails(ValueError("the mistake")))
    later.start()
    _, wrong = Waiting(ranks, 0.0).gather(1, 5.0)
    later.join()
    assert wrong is not None and wrong.rank == 1 and "the mistake" in wrong.what


def test_one_that_suffers_alone_is_told_of_in_the_end(ranks: list[Any]) -> None:
    ranks[0].fails(PeerError("rank 1 is gone"))
    _, wrong = Waiting(ranks, 0.0).gather(1, 5.0)
    assert wrong is not None and wrong.rank == 0
