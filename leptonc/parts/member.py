"""parts > member: one member of a pool, a request on its way, and what the pool tells of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from leptonc.parts.routing import followed

UP, DOWN = "up", "down"


@dataclass(frozen=True)
class MemberState:
    """What a member is like at present.

    Attributes:
        name: of the member.
        state: ``"up"`` or ``"down"``.
        served: requests it answered.
        failed: requests it failed.
        waiting: requests that wait at it or run.
        per_second: units (rows, or requests without a tensor) a second; None before the first.
        error: the last failure as text, "" for none.
    """

    name: str
    state: str
    served: int
    failed: int
    waiting: int
    per_second: float | None
    error: str


@dataclass(eq=False)
class Job:
    """One request: its arguments, where its answer goes, who has tried it."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    units: float
    until: float | None  # by the pool's clock
    future: Future[Any] = field(default_factory=Future[Any])
    tried: list[Member] = field(default_factory=list["Member"])
    cause: BaseException | None = None  # the first failure
    probe: bool = False  # the pool's own, to see whether a member is well again


@dataclass(eq=False)
class Member:
    """A callable with its queue and figures; the pool's lock guards them."""

    name: str
    call: Callable[..., Any]
    state: str = UP
    queue: deque[Job] = field(default_factory=deque[Job])
    running: Job | None = None
    since: float = 0.0  # when that began, by the pool's clock
    served: int = 0
    failed: int = 0
    speed: float | None = None
    error: BaseException | None = None
    probe_at: float | None = None

    @property
    def load(self) -> float:
        """Units that wait or run."""
        running = self.running.units if self.running is not None else 0.0
        return sum(j.units for j in self.queue) + running

    def answered(self, job: Job, seconds: float) -> None:
        """Count a request that was answered after ``seconds``."""
        self.served += 1
        self.speed = followed(self.speed, job.units, seconds)

    def broke(self, error: BaseException) -> None:
        """Count a failure, which takes the member out."""
        self.failed += 1
        self.state, self.error = DOWN, error

    def snapshot(self) -> MemberState:
        """Return its state now."""
        text = "" if self.error is None else f"{type(self.error).__name__}: {self.error}"
        waiting = len(self.queue) + (self.running is not None)
        return MemberState(
            self.name, self.state, self.served, self.failed, waiting, self.speed, text
        )
