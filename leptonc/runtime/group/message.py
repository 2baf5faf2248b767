"""runtime > group > message: short messages over pipes: a kind, a call's number, some bytes.

A reader spins for a moment before it blocks: between processes that answer each other that is much
faster than being woken.
"""

from __future__ import annotations

import contextlib
import enum
import os
import select
import struct
import time
from dataclasses import dataclass

_HEAD = struct.Struct("<qqq")
_READ_BYTES = 1 << 16


class Kind(enum.IntEnum):
    """What a message says."""

    LOAD = 1  # controller: here is what you need; bytes: JSON
    CALL = 2  # controller: run on the tensors of this header
    STOP = 3  # controller: leave
    DONE = 4  # worker: done; bytes: header of the results, of rank 0's
    FAILED = 5  # worker: an exception; bytes: JSON


@dataclass(frozen=True)
class Message:
    """One message; ``number`` counts calls."""

    kind: Kind
    number: int
    payload: bytes = b""


def send(fd: int, message: Message) -> None:
    """Write a message to a pipe that may block.

    Raises:
        OSError: nobody reads it any more.
    """
    data = _HEAD.pack(message.kind, message.number, len(message.payload)) + message.payload
    while data:
        data = data[os.write(fd, data) :]


class Reader:
    """The reading end of a pipe; ``closed`` once the other side is."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.closed = False
        self._data = bytearray()
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    def next(self) -> Message | None:
        """Return the next message if it is there already."""
        found = self._take()
        while found is None and not self.closed and self._fill():
            found = self._take()
        return found

    def wait(self, spin_us: float) -> Message | None:
        """Return the next message, waiting for it; None once the other side is closed."""
        while True:
            found = self.next()
            if found is not None or self.closed:
                return found
            spin(self._poll, spin_us, None)

    def _fill(self) -> bool:
        """Read what is there; return whether anything was."""
        with contextlib.suppress(BlockingIOError):
            data = os.read(self.fd, _READ_BYTES)
            self._data += data
            self.closed = not data
            return bool(data)
        return False

    def _take(self) -> Message | None:
        """Return the first complete message of what has been read."""
        if len(self._data) < _HEAD.size:
            return None
        kind, number, length = _HEAD.unpack_from(self._data)
        end = _HEAD.size + length
        if len(self._data) < end:
            return None
        payload = bytes(self._data[_HEAD.size : end])
        del self._data[:end]
        return Message(Kind(kind), number, payload)


def spin(poll: select.poll, spin_us: float, timeout_s: float | None) -> list[tuple[int, int]]:
    """Return the events that come first: ask ``spin_us`` microseconds long, then block.

    ``timeout_s``: blocked at most so long; None: no limit.
    """
    end = time.perf_counter() + spin_us * 1e-6
    while True:
        events = poll.poll(0)
        if events or time.perf_counter() >= end:
            break
        # There may be fewer cores than processes.
        os.sched_yield()
    if events:
        return events
    return poll.poll(None if timeout_s is None else max(0.0, timeout_s) * 1e3)
