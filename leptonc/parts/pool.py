"""parts > pool: requests go to the member that will be done first, never to one that failed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

from leptonc.capture.captured import arguments
from leptonc.errors import InputError, PartError
from leptonc.parts.member import UP, Job, Member, MemberState
from leptonc.parts.part import Part
from leptonc.parts.routing import EVERY, GAIN, Balance
from leptonc.parts.rows import cut_rows, join_rows, rows_of
from leptonc.parts.serving import Crew, Rules


class Pool:
    """Members that compute the same, on unlike devices perhaps, behind one call.

    A request goes to the member that will have answered it first, by what it has to do and how fast
    it was measured to be. A member that raises is out; its requests go to the others, each is
    answered once. ``batch`` shares a batch out by measured speeds.

    Args:
        members: callables that take the same arguments: compiled models, parts, worker groups.
            A mapping names them.
        retries: how many other members a request may be given to after a failure; None: all.
        deadline_s: seconds until a request must be answered; a member that has spent at least half
            of them on it and is still at it is out.
        probe: arguments of a call that is made every ``probe_s`` seconds to a member that is out,
            and brings it back if it succeeds; None: it stays out.
        probe_s: seconds between such calls.
        caller_errors: exceptions that are the fault of the arguments, not of the member.
        gain: the sharing of batches changes when that saves this part of the time or more,
        every: and at most every so many batches.

    Raises:
        PartError: no member.
        LeptoncError: a member is a part that cannot be compiled.
    """

    def __init__(
        self,
        members: Sequence[Callable[..., Any]] | Mapping[str, Callable[..., Any]],
        *,
        retries: int | None = None,
        deadline_s: float | None = None,
        probe: Any = None,
        probe_s: float = 1.0,
        caller_errors: tuple[type[BaseException], ...] = (InputError,),
        gain: float = GAIN,
        every: int = EVERY,
    ) -> None:
        if not members:
            raise PartError("a pool needs at least one member")
        named = members if isinstance(members, Mapping) else _named(members)
        for member in named.values():
            if isinstance(member, Part):
                member.compile()
        asked = None if probe is None else arguments(probe)[0]
        rules = Rules(retries, deadline_s, asked, probe_s, caller_errors)
        self._crew = Crew([Member(n, call) for n, call in named.items()], rules)
        self._balance = Balance(gain=gain, every=every)
        # The threads hold the crew, not the pool: a pool that is forgotten is closed.
        self._end = weakref.finalize(self, self._crew.close, 0.0)

    # -- requests ---------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what a member returns for these arguments.

        Raises:
            InputError: the arguments do not fit.
            PartError: no member could answer, or not in time; the cause is the first failure.
        """
        return self.submit(*args, **kwargs).result()

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        """Return the future of a request. Raises PartError if the pool is closed or all are out."""
        return self._crew.submit(args, kwargs, max(1, rows_of(args, kwargs))).future

    def batch(self, inputs: Any, *, axis: int = 0) -> Any:
        """Return the result of a batch whose pieces all members compute, in the batch's order.

        Args:
            inputs: a tensor, a tuple of positional arguments or a dict of keyword arguments with
                the batch along ``axis``; or a list of requests, whose results come as a list.
            axis: where the batch is.

        Raises:
            InputError: the arguments do not fit, or the results cannot be joined.
            PartError: as in a call.
        """
        if isinstance(inputs, list):
            return self._requests(inputs)
        args, kwargs = arguments(inputs)
        total = rows_of(args, kwargs, axis)
        if total < 1:
            raise InputError(f"there is no batch along axis {axis} of these inputs")
        given = [(m, n) for m, n in zip(self._crew.members, self._share(total)) if n]
        sizes = [n for _, n in given]
        jobs = [
            self._crew.submit(a, k, n, m)
            for (m, n), (a, k) in zip(given, cut_rows(args, kwargs, sizes, axis), strict=True)
        ]
        return join_rows(_results(jobs), sizes, axis)

    def _requests(self, requests: Sequence[Any]) -> list[Any]:
        calls = iter([arguments(r) for r in requests])
        jobs: list[Job] = []
        for member, n in zip(self._crew.members, self._share(len(requests))):
            for _ in range(n):
                args, kwargs = next(calls)
                jobs.append(self._crew.submit(args, kwargs, max(1, rows_of(args, kwargs)), member))
        return _results(jobs)

    def _share(self, total: int) -> tuple[int, ...]:
        """Return the units of each member, and remember what was decided."""
        with self._crew.change:
            speeds = self._crew.speeds()
            if not any(s > 0 for s in speeds):
                return (total, *[0] * (len(speeds) - 1))  # submitting tells what is wrong
            self._balance, made = self._balance.next(total, speeds)
            return made

    # -- members ----------------------------------------------------------------------------------

    @property
    def members(self) -> tuple[MemberState, ...]:
        """What every member is like at present."""
        with self._crew.change:
            return tuple(m.snapshot() for m in self._crew.members)

    @property
    def changes(self) -> int:
        """How often the sharing of batches was decided anew after the first time."""
        return self._balance.changes

    def report(self) -> str:
        """Return a line for each member: state, requests, speed, last failure."""
        states = self.members
        up = sum(s.state == UP for s in states)
        lines = [f"{up} of {len(states)} members up, shares changed {self.changes} times"]
        width = max(len(s.name) for s in states)
        for s in states:
            rate = "not measured" if s.per_second is None else f"{s.per_second:,.1f} a second"
            lines.append(
                f"  {s.name.ljust(width)}  {s.state.ljust(4)}  {s.served} served, {s.failed} "
                f"failed, {s.waiting} waiting, {rate}" + (f"; {s.error}" if s.error else "")
            )
        return "\n".join(lines)

    def __repr__(self) -> str:
        """Return a one-line summary."""
        states = self.members
        return f"<leptonc.Pool: {sum(s.state == UP for s in states)} of {len(states)} members up>"

    # -- end --------------------------------------------------------------------------------------

    def close(self, wait_s: float | None = None) -> None:
        """Answer what waits (for at most ``wait_s`` seconds), then end the threads."""
        self._end.detach()
        self._crew.close(wait_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        where: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close(None if error is None else 0.0)


def _named(members: Sequence[Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """Return members by name: their own if they have one, numbered where it is taken."""
    found: dict[str, Callable[..., Any]] = {}
    for i, m in enumerate(members):
        own = getattr(m, "name", "") or getattr(m, "__name__", "") or type(m).__name__
        name = own if isinstance(own, str) and own not in found else f"{own} {i}"
        found[name] = m
    return found


def _results(jobs: Sequence[Job]) -> list[Any]:
    """Return all results in order; of several failures the first is raised, when all are done."""
    errors = [e for j in jobs if (e := j.future.exception()) is not None]
    if errors:
        raise errors[0]
    return [j.future.result() for j in jobs]
