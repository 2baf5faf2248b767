"""runtime > group > failure: what happened to a rank, and the error that says so."""

from __future__ import annotations

import json
import signal
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from leptonc.errors import WorkerError
from leptonc.runtime.group.comm import PeerError

_MOST_TEXT = 16_000
_MEMORY = ("can't allocate memory", "out of memory", "cannot allocate memory")
_ADVICE_MEMORY = (
    "it ran out of memory: use a smaller batch, fewer ranks on this machine, or a smaller model"
)
_ADVICE_PROGRAM = "the cause above is its traceback; correct that, then call restart()"
_ADVICE_EXIT = "call restart() for new workers"
_ADVICE: dict[int, str] = {
    signal.SIGKILL: "somebody killed it, or the system did for lack of memory (dmesg tells); "
    "call restart() for new workers",
    signal.SIGBUS: "its memory could not be provided: the machine or container has too little; "
    "call restart() for new workers",
    signal.SIGSEGV: "native code crashed: the output above may tell where; call restart()",
    signal.SIGABRT: "native code gave up: the output above may tell why; call restart()",
}


class RemoteTraceback(Exception):
    """The traceback of another process, or what it wrote before it ended."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text.rstrip()}\n"""'


@dataclass(frozen=True)
class Failure:
    """What happened to one rank.

    Attributes:
        rank: the rank.
        what: what happened, to be read behind the rank's name.
        advice: what to do.
        text: its traceback or output.
        peer: it only suffers from what happened to another rank.
        at: when, on the monotonic clock.
    """

    rank: int
    what: str
    advice: str
    text: str = ""
    peer: bool = False
    at: float = 0.0


def describe(error: BaseException) -> bytes:
    """Return an exception as a worker sends it."""
    text = "".join(traceback.format_exception(error))
    kind = type(error)
    memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        m in str(error).lower() for m in _MEMORY
    )
    facts = {
        "text": text[-_MOST_TEXT:],
        "what": f"{kind.__name__}: {error}"[:1000],
        "peer": isinstance(error, PeerError),
        "memory": memory,
        "at": time.monotonic(),
    }
    return json.dumps(facts).encode()


def raised(rank: int, payload: bytes) -> Failure:
    """Return the failure that a worker has described."""
    facts: dict[str, Any] = json.loads(payload)
    advice = _ADVICE_MEMORY if facts["memory"] else _ADVICE_PROGRAM
    return Failure(
        rank, f"raised {facts['what']}", advice, facts["text"], facts["peer"], facts["at"]
    )


def ended(rank: int, code: int | None, output: str) -> Failure:
    """Return the failure of a worker whose process ended with ``code`` (as ``subprocess`` says)."""
    now = time.monotonic()
    if code is None:
        return Failure(rank, "closed its pipe", _ADVICE_EXIT, output, at=now)
    if code >= 0:
        advice = _ADVICE_MEMORY if "MemoryError" in output else _ADVICE_EXIT
        return Failure(rank, f"ended with exit code {code}", advice, output, at=now)
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    advice = _ADVICE.get(-code, _ADVICE_EXIT)
    return Failure(rank, f"was ended by {name}", advice, output, at=now)


def late(rank: int, deadline_s: float, state: str, output: str) -> Failure:
    """Return the failure of a worker that did not answer in time; ``state`` is its process's."""
    what = f"did not answer within {deadline_s:g} s (its process: {state})"
    advice = "call restart(); if the work takes longer than that, raise the group's deadline"
    return Failure(rank, what, advice, output, at=time.monotonic())


def first(failures: Iterable[Failure]) -> Failure:
    """Return the failure that the others follow from: the earliest that is no peer's."""
    return min(failures, key=lambda f: (f.peer, f.at))


def as_error(failure: Failure, doing: str) -> WorkerError:
    """Return the error to raise; its cause is the rank's own traceback or output."""
    error = WorkerError(f"rank {failure.rank} {failure.what} during {doing}: {failure.advice}")
    if failure.text:
        error.__cause__ = RemoteTraceback(failure.text)
    return error
