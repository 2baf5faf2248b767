"""What goes between a controller and its workers: messages, tensors, descriptions of failures."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leptonc.errors import WorkerError
from leptonc.runtime.group import failure
from leptonc.runtime.group.comm import PeerError
from leptonc.runtime.group.failure import Failure
from leptonc.runtime.group.mailbox import DTYPES, Mailbox, anonymous_file
from leptonc.runtime.group.message import Kind, Message, Reader, send

messages = st.builds(
    Message, st.sampled_from(Kind), st.integers(0, 1 << 40), st.binary(max_size=300)
)
shapes = st.lists(st.integers(0, 5), max_size=4)


@given(sent=st.lists(messages, max_size=8), cuts=st.lists(st.integers(1, 40), max_size=60))
def test_messages_arrive_however_they_are_cut(sent: list[Message], cuts: list[int]) -> None:
    first_read, first_write = os.pipe()
    read, write = os.pipe()
    try:
        for message in sent:
            send(first_write, message)
        os.close(first_write)
        data = b"".join(iter(lambda: os.read(first_read, 1 << 16), b""))
        reader, found = Reader(read), []
        for n in [*cuts, len(data) + 1]:
            os.write(write, data[:n])
            data = data[n:]
            while (message := reader.next()) is not None:
                found.append(message)
        os.close(write)
        assert found == sent
        assert reader.wait(5) is None and reader.closed
    finally:
        os.close(first_read)
        os.close(read)


@given(
    calls=st.lists(
        st.lists(st.tuples(shapes, st.sampled_from(DTYPES), st.booleans()), max_size=4),
        min_size=1, max_size=4,
    ),
    large=st.integers(0, 1 << 19),
)  # fmt: skip
def test_tensors_arrive_as_they_were(calls: list, large: int) -> None:
    fd = anonymous_file("test", 4096)
    ours, theirs = Mailbox(fd), Mailbox(fd)
    kept = None
    for number, call in enumerate(calls):
        xs = [torch.full((large,), float(number))]
        for shape, dtype, turned in call:
            x = torch.randint(0, 2, shape).to(dtype)
            xs.append(x.t() if turned and x.dim() == 2 else x)
        got = theirs.get(ours.put(xs))
        assert [(g.dtype, g.shape) for g in got] == [(x.dtype, x.shape) for x in xs]
        for g, x in zip(got, xs, strict=True):
            assert torch.equal(g.double() if g.is_floating_point() else g.clone(),
                               x.double() if x.is_floating_point() else x)  # fmt: skip
        kept = got[0] if kept is None else kept
    assert kept.shape == (large,) and int(kept.sum()) >= 0, "an old view stays readable"
    ours.close()
    os.close(fd)


def test_what_has_no_plain_bytes_is_refused() -> None:
    fd = anonymous_file("test", 4096)
    box = Mailbox(fd)
    for x in (torch.eye(3).to_sparse(), torch.eye(3).to_sparse_csr()):
        with pytest.raises(WorkerError, match="tensor 1"):
            box.put([torch.ones(2), x])
    box.close()
    os.close(fd)


def test_the_cause_is_told_rather_than_what_follows_from_it() -> None:
    peers = [Failure(0, "", "", peer=True, at=1.0), Failure(3, "", "", peer=True, at=0.5)]
    late, early = Failure(1, "", "", at=3.0), Failure(2, "", "", at=2.0)
    assert failure.first([*peers, late, early]) is early
    assert failure.first(peers).rank == 3


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (3, "ended with exit code 3"),
        (-signal.SIGKILL, "SIGKILL.*lack of memory"),
        (-signal.SIGBUS, "SIGBUS.*memory could not be provided"),
        (-signal.SIGTERM, "SIGTERM"),
        (-61, "signal 61|SIG"),
        (None, "closed its pipe"),
    ],
)
def test_how_a_process_ended_is_told_in_words(code: int | None, text: str) -> None:
    error = failure.as_error(failure.ended(4, code, "last words"), "a call")
    with pytest.raises(WorkerError, match=f"rank 4 .*{text}") as caught:
        raise error
    assert "last words" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("error", "peer", "advice"),
    [
        (ValueError("x" * 5000), False, "traceback"),
        (PeerError("rank 1 has given up"), True, "traceback"),
        (MemoryError(), False, "smaller batch"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), False, "smaller batch"),
        (torch.OutOfMemoryError("CUDA out of memory"), False, "smaller batch"),
    ],
)
def test_exceptions_are_described(error: Exception, peer: bool, advice: str) -> None:
    found = failure.raised(2, failure.describe(error))
    assert (found.rank, found.peer) == (2, peer)
    assert type(error).__name__ in found.what and len(found.what) < 2000
    assert advice in found.advice and type(error).__name__ in found.text
