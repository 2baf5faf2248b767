"""parts > serving: the threads of a pool: one a member, one that watches deadlines.

Every request is answered once: by a member, by the error of the caller's own input, or by an error
that names the first failure. A member that fails is out; what it had goes to the others.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from leptonc.errors import InputError, PartError
from leptonc.parts.member import DOWN, UP, Job, Member
from leptonc.parts.routing import assumed, route


@dataclass(frozen=True)
class Rules:
    """How a pool treats requests and members.

    Attributes:
        retries: how many other members a request may be given to; None: all.
        deadline_s: seconds until a request must be answered; None: no limit.
        probe: positional arguments of a call that shows whether a member is well again.
        probe_s: seconds between two such calls.
        callers: errors that are the caller's own: they answer the request, the member stays.
    """

    retries: int | None = None
    deadline_s: float | None = None
    probe: tuple[Any, ...] | None = None
    probe_s: float = 1.0
    callers: tuple[type[BaseException], ...] = (InputError,)


class Crew:
    """The members at work. All state changes under one lock; calls run outside of it."""

    def __init__(
        self, members: Sequence[Member], rules: Rules, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.members, self.rules, self.clock = tuple(members), rules, clock
        self.change = threading.Condition()
        self.closed = False
        self._open: set[Job] = set()  # not answered yet
        self._ready: deque[tuple[Job, Any, BaseException | None]] = deque()  # not handed out yet
        self._first: BaseException | None = None  # the failure that took the first member out
        self._threads = [
            threading.Thread(target=self._serve, args=(m,), name=f"leptonc {m.name}", daemon=True)
            for m in self.members
        ]
        if rules.deadline_s is not None:
            watch = threading.Thread(target=self._watch, name="leptonc deadlines", daemon=True)
            self._threads.append(watch)
        for t in self._threads:
            t.start()

    # -- requests ---------------------------------------------------------------------------------

    def submit(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], units: float,
        member: Member | None = None,
    ) -> Job:  # fmt: skip
        """Return the request, given to ``member`` if that is up, else to who will answer it first.

        Raises:
            PartError: the pool is closed, or every member is out.
        """
        limit = self.rules.deadline_s
        job = Job(args, kwargs, units, None if limit is None else self.clock() + limit)
        with self.change:
            if self.closed:
                raise PartError("the pool is closed; make a new one")
            if not any(m.state == UP for m in self.members):
                raise self._all_out() from self._first
            self._open.add(job)
            if member is not None and member.state == UP:
                member.queue.append(job)
            else:
                self._place(job)
            self.change.notify_all()
        return job

    def speeds(self) -> tuple[float, ...]:
        """Return the speed of every member, 0 for one that is out."""
        with self.change:
            return self._speeds(())

    def _speeds(self, without: Sequence[Member]) -> tuple[float, ...]:
        return assumed(
            [m.speed if m.state == UP and m not in without else 0.0 for m in self.members]
        )

    def _place(self, job: Job) -> None:
        """Give ``job`` to a member that has not failed it, or answer it with the first failure."""
        retries = self.rules.retries
        spent = retries is not None and len(job.tried) > retries
        speeds = self._speeds(job.tried)
        if not spent and any(s > 0 for s in speeds):
            at = route([m.load for m in self.members], speeds, job.units)
            self.members[at].queue.append(job)
            return
        if any(m.state == UP for m in self.members):
            names = ", ".join(m.name for m in job.tried)
            error = PartError(
                f"the request failed on {len(job.tried)} members ({names}) and is not tried again: "
                f"first with {type(job.cause).__name__}: {job.cause}"
            )
        else:
            error = self._all_out()
        error.__cause__ = job.cause or self._first
        self._answer(job, error=error)

    def _all_out(self) -> PartError:
        told = "; ".join(f"{s.name}: {s.error}" for s in (m.snapshot() for m in self.members))
        return PartError(f"all {len(self.members)} members of the pool are out ({told})")

    def _answer(self, job: Job, result: Any = None, error: BaseException | None = None) -> None:
        """Answer ``job`` unless it is answered."""
        if job in self._open:
            self._open.discard(job)
            self._ready.append((job, result, error))

    def _deliver(self) -> None:
        """Hand out the answers; without the lock, since what waits for them may run right here."""
        while True:
            with self.change:
                if not self._ready:
                    return
                job, result, error = self._ready.popleft()
            if not job.future.set_running_or_notify_cancel():
                continue
            if error is not None:
                job.future.set_exception(error)
            else:
                job.future.set_result(result)

    # -- members ----------------------------------------------------------------------------------

    def _serve(self, member: Member) -> None:
        """Answer the requests of ``member`` one after another; the body of its thread."""
        while True:
            with self.change:
                job = self._next(member)
                if job is None:
                    return
                member.running, member.since = job, self.clock()
            result, error = _called(member, job)
            with self.change:
                member.running = None
                self._done(member, job, result, error, self.clock() - member.since)
                self.change.notify_all()
            self._deliver()

    def _next(self, member: Member) -> Job | None:
        """Return the next request of ``member``, or a probe; None when the pool has closed."""
        while True:
            if member.queue and member.state == UP:
                job = member.queue.popleft()
                if not job.future.cancelled():
                    return job
                self._open.discard(job)
                continue
            if self.closed:
                return None
            wait = None
            if member.state == DOWN and self.rules.probe is not None:
                wait = (member.probe_at or 0.0) - self.clock()
                if wait <= 0:
                    return Job(self.rules.probe, {}, 1.0, None, probe=True)
            self.change.wait(wait)

    def _done(
        self, member: Member, job: Job, result: Any, error: BaseException | None, seconds: float
    ) -> None:
        probing = job.probe
        if error is None and probing:
            member.state = UP
        elif error is None:
            if job in self._open:
                member.answered(job, seconds)
            self._answer(job, result)
        elif isinstance(error, self.rules.callers) and not probing:
            self._answer(job, error=error)
        else:
            self._out(member, error, None if probing else job)

    def _out(self, member: Member, error: BaseException, job: Job | None) -> None:
        """Take ``member`` out; ``job``, which it failed, and what waits go to the others."""
        member.broke(error)
        member.probe_at = self.clock() + self.rules.probe_s
        self._first = self._first or error
        waiting = list(member.queue)
        member.queue.clear()
        if job is not None and job in self._open:
            job.tried.append(member)
            job.cause = job.cause or error
            self._place(job)
        for other in waiting:
            self._place(other)

    def _watch(self) -> None:
        """Answer requests whose deadline has passed, and take out who had them."""
        while True:
            with self.change:
                now = self.clock()
                late = [j for j in self._open if j.until is not None and j.until <= now]
                for job in late:
                    self._late(job)
                if self.closed and not self._open:
                    break
                if not late:
                    ends = [j.until for j in self._open if j.until is not None]
                    self.change.wait(max(0.0, min(ends) - now) if ends else None)
            self._deliver()
        self._deliver()

    def _late(self, job: Job) -> None:
        limit = self.rules.deadline_s or 0.0
        holder = next((m for m in self.members if m.running is job), None)
        where = f"{holder.name} is still at it" if holder else "it was still waiting"
        self._answer(job, error=PartError(f"no answer within {limit:g} s: {where}"))
        for m in self.members:
            if job in m.queue:
                m.queue.remove(job)
        # Who got the request late, from a queue or from a member that failed, is not to blame.
        at_it = 0.0 if holder is None else self.clock() - holder.since
        if holder is not None and holder.state == UP and at_it >= limit / 2:
            self._out(holder, PartError(f"it did not answer within {limit:g} s"), None)
        self.change.notify_all()

    # -- end --------------------------------------------------------------------------------------

    def close(self, wait_s: float | None) -> None:
        """Take no more requests, answer those that wait within ``wait_s`` seconds, end the threads.

        What is not answered then gets an error; a call that never returns keeps its thread.
        """
        end = None if wait_s is None else time.monotonic() + wait_s
        with self.change:
            self.closed = True
            self.change.notify_all()
            self.change.wait_for(lambda: not self._open, wait_s)
            for job in list(self._open):
                self._answer(job, error=PartError("the pool was closed before this was answered"))
            for m in self.members:
                m.queue.clear()
            self.change.notify_all()
        self._deliver()
        for t in self._threads:
            if t is not threading.current_thread():
                t.join(None if end is None else max(0.0, end - time.monotonic()))


def _called(member: Member, job: Job) -> tuple[Any, BaseException | None]:
    """Return the result of a call, or what it raised."""
    try:
        with torch.no_grad():
            return member.call(*job.args, **job.kwargs), None
    except BaseException as e:
        return None, e
