"""runtime > group > replies: wait for every worker's answer, or for the first that fails."""

from __future__ import annotations

import select
import time
from collections.abc import Mapping, Sequence

from leptonc.runtime.group import failure
from leptonc.runtime.group.failure import Failure
from leptonc.runtime.group.message import Kind, spin
from leptonc.runtime.group.process import Worker

_GRACE_S = 0.3  # for the rank that others suffer from to be heard of as well
_EXIT_S = 0.5  # between a closed pipe and the end of the process
_DUMP_S = 0.1  # for late workers to write where they are


class Waiting:
    """The answers of one group of workers.

    Args:
        workers: the workers.
        spin_us: how long to ask before blocking, in microseconds.
    """

    def __init__(self, workers: Sequence[Worker], spin_us: float) -> None:
        self._workers = workers
        self._spin_us = spin_us
        self._poll = select.poll()
        self._owner: Mapping[int, Worker] = {fd: w for w in workers for fd in w.descriptors}
        for fd in self._owner:
            self._poll.register(fd, select.POLLIN)

    def gather(self, number: int, deadline_s: float) -> tuple[dict[int, bytes], Failure | None]:
        """Return the answers to call ``number`` by rank, and what went wrong first, if anything.

        Args:
            number: number of the call.
            deadline_s: seconds that all answers may take together.
        """
        end = time.monotonic() + deadline_s
        answers: dict[int, bytes] = {}
        failures: dict[int, Failure] = {}
        spin_us = self._spin_us
        while len(answers) < len(self._workers):
            left = end - time.monotonic()
            events = spin(self._poll, spin_us, left) if left > 0 else []
            spin_us = 0.0 if not events else self._spin_us
            for worker in {self._owner[fd].rank: self._owner[fd] for fd, _ in events}.values():
                self._hear(worker, number, answers, failures)
            if failures and (not all(f.peer for f in failures.values()) or not events):
                return answers, failure.first(failures.values())
            if failures:
                end = min(end, time.monotonic() + _GRACE_S)
            elif not events and time.monotonic() >= end:
                return answers, self._late(answers, deadline_s)
        return answers, None

    def _hear(
        self, worker: Worker, number: int, answers: dict[int, bytes], failures: dict[int, Failure]
    ) -> None:
        """Note what a worker has said, or that it has ended."""
        if worker.rank in failures:
            return
        while (message := worker.reader.next()) is not None:
            if message.kind == Kind.FAILED:
                failures[worker.rank] = failure.raised(worker.rank, message.payload)
            elif message.number == number:
                answers[worker.rank] = message.payload
        if worker.rank not in failures and (worker.reader.closed or worker.ended()):
            answers.pop(worker.rank, None)
            code = worker.wait(_EXIT_S)
            failures[worker.rank] = failure.ended(worker.rank, code, worker.output())

    def _late(self, answers: Mapping[int, bytes], deadline_s: float) -> Failure:
        """Return the failure of the first rank that has not answered, with where it is."""
        missing = [w for w in self._workers if w.rank not in answers]
        # A stopped one is to blame rather than those that wait for it.
        states = {w.rank: w.state() for w in missing}
        worker = max(missing, key=lambda w: states[w.rank].startswith("stopped"))
        worker.show_stacks()
        time.sleep(_DUMP_S)
        return failure.late(worker.rank, deadline_s, states[worker.rank], worker.output())
