"""runtime > group > worker: a rank's process: ``python -m`` this, started by :mod:`process`.

It learns what to run from its command pipe, connects to the other ranks, loads the program and then
answers one call after another. An exception is an answer; whoever reads it ends the process.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from leptonc.errors import WorkerError
from leptonc.runtime.group.comm import Comm
from leptonc.runtime.group.entry import resolve_entry
from leptonc.runtime.group.failure import describe
from leptonc.runtime.group.mailbox import Mailbox
from leptonc.runtime.group.message import Kind, Message, Reader, send
from leptonc.runtime.group.orphan import end_with_controller

# How the ranks reach each other, by backend: what a worker imports for it.
_CONNECT = {
    "shm": "leptonc.backends.torch_spmd.comm.connect:shm",
    "gloo": "leptonc.backends.torch_spmd.comm.connect:gloo",
    "nccl": "leptonc.backends.torch_spmd.comm.connect:nccl",
}

Program = Callable[[list[Tensor]], list[Tensor]]


class Rank:
    """What a worker holds once it is ready."""

    def __init__(self, rank: int, config: dict[str, Any]) -> None:
        self.rank = rank
        self.spin_us = float(config["spin_us"])
        self._inbox = Mailbox(config["inbox"])
        self._outbox = Mailbox(config["outbox"]) if rank == 0 else None
        self._device = torch.device(config["device"], rank) if config["device"] != "cpu" else None
        self.comm: Comm = resolve_entry(_CONNECT[config["backend"]])(rank, config)
        try:
            load = resolve_entry(config["entry"], config["allowed"])
            self._program: Program = load(Path(config["directory"]), rank, self.comm)
        except BaseException:
            self.give_up()
            raise

    def answer(self, header: bytes) -> bytes:
        """Run the program on the tensors of a header; return that of the results (of rank 0)."""
        inputs = self._inbox.get(header)
        args = inputs if self._device is None else [x.to(self._device) for x in inputs]
        versions = [x._version for x in inputs]
        with torch.no_grad():
            results = self._program(list(args))
        changed = [i for i, x in enumerate(inputs) if x._version != versions[i]]
        if changed:
            raise WorkerError(
                f"the program wrote to its inputs {changed}, which all ranks read: it has to copy "
                "what it wants to change"
            )
        if not isinstance(results, (list, tuple)) or not all(map(torch.is_tensor, results)):
            raise WorkerError(f"the program returned {type(results)}: expected a list of tensors")
        return b"" if self._outbox is None else self._outbox.put(results)

    def give_up(self) -> None:
        """Let the other ranks know that they wait in vain, where there is a way to."""
        abort = getattr(self.comm, "abort", None)
        if abort is not None:
            abort()


def main(argv: list[str]) -> None:
    """Serve as the rank ``argv[0]``; ``argv[1:]`` are the pipes: commands, replies, end of life."""
    rank, commands, replies, life = map(int, argv)
    for fd in (commands, replies, life):
        os.set_inheritable(fd, False)
    end_with_controller(life)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    reader = Reader(commands)
    try:
        _serve(rank, reader, replies)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _serve(rank: int, reader: Reader, replies: int) -> None:
    """Load, then answer calls until told to stop."""
    first = reader.wait(0)
    if first is None or first.kind != Kind.LOAD:
        return
    ready = _ready(rank, first, replies)
    if ready is None:
        reader.wait(0)
        return
    while (command := reader.wait(ready.spin_us)) is not None and command.kind == Kind.CALL:
        try:
            reply = Message(Kind.DONE, command.number, ready.answer(command.payload))
        except BaseException as error:
            ready.give_up()
            reply = Message(Kind.FAILED, command.number, describe(error))
        send(replies, reply)


def _ready(rank: int, command: Message, replies: int) -> Rank | None:
    """Load what the command says and tell how that went."""
    try:
        config = json.loads(command.payload)
        sys.path += [p for p in config["path"] if p not in sys.path]
        if config["cores"] is not None:
            os.sched_setaffinity(0, config["cores"][rank])
        torch.set_num_threads(config["threads"])
        ready = Rank(rank, config)
        # What is loaded stays: no collection needs to look at it again.
        gc.collect()
        gc.freeze()
    except BaseException as error:
        send(replies, Message(Kind.FAILED, command.number, describe(error)))
        return None
    send(replies, Message(Kind.DONE, command.number))
    return ready


if __name__ == "__main__":
    main(sys.argv[1:])
    # Without taking the interpreter apart: libraries' threads may take long over that, or hang.
    os._exit(0)
