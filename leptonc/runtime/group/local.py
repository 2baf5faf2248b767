"""runtime > group > local: a group of worker processes on this machine.

The caller's process is their controller and no rank itself: whatever a rank does, it survives.
Nothing on this machine refers to a group by name: tensors travel through memory and pipes that the
workers inherit. Only gloo and NCCL need a private directory to find each other, while they start.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from leptonc.errors import WorkerError
from leptonc.runtime.governor import Governor, affinity_cores
from leptonc.runtime.group.entry import ALLOWED, check_entry
from leptonc.runtime.group.failure import Failure, as_error
from leptonc.runtime.group.mailbox import FIRST_BYTES, Mailbox, anonymous_file, copy
from leptonc.runtime.group.message import Kind, Message
from leptonc.runtime.group.process import (
    Worker,
    end_all,
    loopback_environ,
    path_environ,
    thread_environ,
)
from leptonc.runtime.group.replies import Waiting
from leptonc.settings import read_settings

BACKENDS = ("shm", "gloo")
DEVICES = ("cpu", "cuda")
# Of the segment that collectives use: generous, because pages that nobody touches cost nothing.
_SEGMENT_BYTES_PER_RANK = 2 << 20
_PREFIX = "leptonc-group-"
_STALE_S = 86_400
_LEAVE_S = 0.3  # for workers that are told to stop


@dataclass(frozen=True)
class Spec:
    """What a group runs and how; see :class:`LocalGroup`."""

    directory: Path
    world: int
    entry: str
    backend: str
    device: str
    deadline_s: float
    load_deadline_s: float
    threads: int
    allowed: tuple[str, ...]
    pin: bool


@dataclass
class _Running:
    """What one set of workers consists of."""

    controller: int
    workers: list[Worker] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    meeting: Path | None = None
    boxes: tuple[Mailbox, ...] = ()

    def end(self, patience_s: float = 0.0) -> None:
        """End everything, once; a fork of the controller has nothing to end."""
        if os.getpid() != self.controller:
            return
        if patience_s:
            for worker in self.workers:
                worker.send(Message(Kind.STOP, 0))
        # What an interrupt leaves is ended by the next attempt.
        end_all(self.workers, patience_s)
        self.workers = []
        for box in self.boxes:
            box.close()
        while self.files:
            os.close(self.files.pop())
        self.leave_meeting()

    def leave_meeting(self) -> None:
        """Remove the directory in which ranks find each other."""
        meeting, self.meeting = self.meeting, None
        if meeting is not None:
            shutil.rmtree(meeting, ignore_errors=True)


class LocalGroup:
    """Worker processes that run one program together, one a rank.

    They start at the first call, or at :meth:`start`. After an error all of them are gone, and
    calls raise until :meth:`restart`. Calls from several threads take turns.

    Args:
        directory: the program, which ``entry`` loads.
        world: number of ranks.
        entry: ``"module:function"``, called in each worker as ``load(directory, rank, comm)``; it
            returns what is called with the list of inputs and returns the list of results, which
            are taken from rank 0. Inputs must not be written to, and are only valid during a call.
        backend: ``"shm"`` (shared memory) or ``"gloo"``; CUDA devices always use NCCL.
        device: ``"cpu"``, or ``"cuda"``: rank ``r`` uses device ``r``.
        deadline_s: seconds that a call may take.
        load_deadline_s: seconds that starting may take.
        threads: threads of a rank; None: the usable cores divided by the ranks.
        allowed: prefixes of modules that ``entry`` may be in.
        pin: give each rank a share of the usable cores where there are enough, so that a scheduler
            that wakes all ranks on one core does not make them wait for each other.

    Raises:
        WorkerError: an argument is of no use; the text names it.
    """

    def __init__(
        self,
        directory: Path | str,
        world: int,
        *,
        entry: str,
        backend: str = "shm",
        device: str = "cpu",
        deadline_s: float = 60.0,
        load_deadline_s: float = 120.0,
        threads: int | None = None,
        allowed: Sequence[str] = ALLOWED,
        pin: bool = True,
    ) -> None:
        _check(world, backend, device, deadline_s, load_deadline_s)
        check_entry(entry, allowed)
        share = max(1, Governor().decision.cores // world)
        self._spec = Spec(
            Path(directory).absolute(), world, entry, backend, device, deadline_s, load_deadline_s,
            share if threads is None else threads, tuple(allowed), pin,
        )  # fmt: skip
        self._lock = threading.RLock()
        self._running: _Running | None = None
        self._finalizer: weakref.finalize | None = None
        self._broken = ""
        self._number = 0

    @property
    def world(self) -> int:
        """The number of ranks."""
        return self._spec.world

    @property
    def pids(self) -> tuple[int, ...]:
        """The numbers of the worker processes by rank; none before they start."""
        running = self._running
        return () if running is None else tuple(w.pid for w in running.workers)

    def start(self) -> None:
        """Start the workers unless they run; return once all have loaded the program.

        Raises:
            WorkerError: a rank could not; its traceback is the cause. Or an earlier call failed.
        """
        with self._lock:
            self._require_usable()
            if self._running is None:
                self._start()

    def call(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """Return what the program makes of ``tensors``, as new tensors on the CPU.

        Raises:
            WorkerError: a rank failed or was late; its traceback is the cause. No worker is left.
                Or a tensor cannot be sent; then they go on.
        """
        with self._lock:
            self.start()
            assert self._running is not None
            inbox, outbox = self._running.boxes
            header = inbox.put(list(tensors))
            try:
                results = self._ask(Kind.CALL, header, self._spec.deadline_s)
                return [_copied(t) for t in outbox.get(results)]
            except BaseException as error:
                # Ctrl-C too: the workers would go on with a call that nobody waits for.
                self._stop(f"{type(error).__name__}: {error}")
                raise

    def restart(self) -> None:
        """Start new workers in place of those that run or have failed.

        Raises:
            WorkerError: see :meth:`start`; or the group is closed.
        """
        with self._lock:
            if self._broken == _CLOSED:
                raise WorkerError(_CLOSED)
            self._stop("", _LEAVE_S if not self._broken else 0.0)
            self._start()

    def close(self) -> None:
        """End the workers; the group cannot be used any more."""
        with self._lock:
            self._stop(_CLOSED, _LEAVE_S if not self._broken else 0.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def _require_usable(self) -> None:
        running = self._running
        if running is not None and running.controller != os.getpid():
            raise WorkerError(
                "this group belongs to the process that this one was forked from: make a new one"
            )
        if self._broken == _CLOSED:
            raise WorkerError(_CLOSED)
        if self._broken:
            raise WorkerError(
                f"this group has no workers since an earlier call failed ({self._broken}): call "
                "restart() first"
            )

    def _start(self) -> None:
        """Start the workers and wait until they are ready."""
        spec = self._spec
        cores = affinity_cores()
        # Whoever spins on a core that another one needs only delays what he waits for.
        spin_us = read_settings().spin_us if cores > spec.world else 0
        running = self._running = _Running(os.getpid())
        # Also runs when this group is forgotten, and at the end of the interpreter.
        self._finalizer = weakref.finalize(self, running.end)
        try:
            inbox, outbox, segment = (
                anonymous_file("tensors", FIRST_BYTES), anonymous_file("results", FIRST_BYTES),
                anonymous_file("ranks", _SEGMENT_BYTES_PER_RANK * spec.world),
            )  # fmt: skip
            running.files += [inbox, outbox, segment]
            running.boxes = Mailbox(inbox), Mailbox(outbox)
            running.meeting = _meeting() if _transport(spec) != "shm" else None
            environ = {**path_environ(), **thread_environ(spec.threads), **loopback_environ()}
            for rank in range(spec.world):
                running.workers.append(Worker(rank, environ, running.files))
            self._waiting = Waiting(running.workers, spin_us)
            facts = {"inbox": inbox, "outbox": outbox, "segment": segment}
            config = _config(spec, facts, running.meeting, spin_us)
            self._ask(Kind.LOAD, json.dumps(config).encode(), spec.load_deadline_s)
            running.leave_meeting()
        except BaseException as error:
            self._stop(f"{type(error).__name__}: {error}")
            raise

    def _ask(self, kind: Kind, payload: bytes, deadline_s: float) -> bytes:
        """Send a command to all workers and return rank 0's answer.

        Raises:
            WorkerError: a rank failed or was late.
        """
        assert self._running is not None
        self._number += 1
        message = Message(kind, self._number, payload)
        for worker in self._running.workers:
            worker.send(message)
        answers, failure = self._waiting.gather(self._number, deadline_s)
        if failure is not None:
            raise as_error(failure, _doing(kind, failure))
        return answers[0]

    def _stop(self, why: str, patience_s: float = 0.0) -> None:
        """End the workers; ``why`` later calls cannot work, empty if they can."""
        self._broken = why
        running, self._running = self._running, None
        if running is not None:
            running.end(patience_s)
        if self._finalizer is not None:
            self._finalizer.detach()


def _copied(t: Tensor) -> Tensor:
    made = torch.empty_like(t)
    copy(made, t)
    return made


_CLOSED = "this group is closed: make a new one"


def _doing(kind: Kind, failure: Failure) -> str:
    return "loading" if kind == Kind.LOAD else "a call"


def _transport(spec: Spec) -> str:
    """Return how the ranks reach each other."""
    return "nccl" if spec.device == "cuda" else spec.backend


def _config(
    spec: Spec, files: dict[str, int], meeting: Path | None, spin_us: float
) -> dict[str, object]:
    """Return what a worker needs to know, as plain data."""
    return {
        **files,
        "directory": str(spec.directory),
        "world": spec.world,
        "entry": spec.entry,
        "allowed": spec.allowed,
        "backend": _transport(spec),
        "device": spec.device,
        "deadline_s": spec.deadline_s,
        "load_deadline_s": spec.load_deadline_s,
        "threads": spec.threads,
        "spin_us": spin_us,
        "crowded": spec.world > affinity_cores(),
        "cores": _shares(spec.world) if spec.pin else None,
        "meeting": None if meeting is None else str(meeting),
        "path": [p or os.getcwd() for p in sys.path],
    }


def _shares(world: int) -> list[list[int]] | None:
    """Return the cores of each rank; None where they cannot have some of their own."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    n = len(cores)
    if n < world:
        return None
    return [cores[n * r // world : n * (r + 1) // world] for r in range(world)]


def _check(
    world: int, backend: str, device: str, deadline_s: float, load_deadline_s: float
) -> None:
    """Refuse arguments of no use."""
    if world < 1:
        raise WorkerError(f"world={world}: expected at least one rank")
    if backend not in BACKENDS:
        raise WorkerError(f"backend={backend!r}: expected one of {BACKENDS}")
    if device not in DEVICES:
        raise WorkerError(f"device={device!r}: expected one of {DEVICES}")
    if min(deadline_s, load_deadline_s) <= 0:
        raise WorkerError(f"deadlines {deadline_s} s, {load_deadline_s} s: expected more than 0")


def _meeting() -> Path:
    """Return a new private directory; sweep away those of controllers that were killed."""
    for old in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            facts = old.lstat()
            if facts.st_uid == os.getuid() and time.time() - facts.st_mtime > _STALE_S:
                shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=_PREFIX))
