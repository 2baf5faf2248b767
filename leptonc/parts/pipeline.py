"""parts > pipeline: stages in threads, one each, with bounded queues between them.

Items leave in the order they came. The first stage that raises ends all of them.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from leptonc.errors import InputError, PartError

T = TypeVar("T")
GRACE_S = 0.5  # how long stages that are told to end may still take before the caller goes on


@dataclass(frozen=True)
class Stage:
    """A named function of an item."""

    name: str
    run: Callable[[Any], Any]


class ClosedError(Exception):
    """The channel was closed."""


class Channel:
    """A first-in-first-out queue of at most ``limit`` items that can be closed under its users."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[Any] = deque()
        self._change = threading.Condition()
        self._closed = False

    def put(self, item: Any) -> None:
        """Append ``item`` when there is room. Raises ClosedError."""
        with self._change:
            while len(self._items) >= self._limit and not self._closed:
                self._change.wait()
            if self._closed:
                raise ClosedError
            self._items.append(item)
            self._change.notify_all()

    def get(self, timeout_s: float | None = None) -> Any:
        """Return the oldest item, waiting for one. Raises ClosedError, TimeoutError."""
        with self._change:
            there = self._change.wait_for(lambda: self._items or self._closed, timeout_s)
            if self._closed:
                raise ClosedError
            if not there:
                raise TimeoutError
            item = self._items.popleft()
            self._change.notify_all()
            return item

    def close(self) -> None:
        """Let everybody who waits, now or later, raise ClosedError."""
        with self._change:
            self._closed = True
            self._change.notify_all()


def run_stages(
    stages: Sequence[Stage],
    items: Sequence[Any],
    *,
    deadline_s: float | None = None,
    depth: int = 2,
) -> list[Any]:
    """Return what the last stage makes of each item, in order.

    Args:
        stages: run in their order, each in a thread of its own.
        items: what the first stage takes.
        deadline_s: seconds until all results must be there; None waits for ever.
        depth: most items that wait between two stages.

    Raises:
        PartError: a stage raised, or the deadline passed; the text names the stage.
        InputError: a stage raised one.
    """
    return _Line(stages, len(items), depth).run(items, deadline_s)


class _Line:
    """One run: a thread a stage, a channel before and after each."""

    def __init__(self, stages: Sequence[Stage], count: int, depth: int) -> None:
        self.stages, self.count = stages, count
        ends = max(1, count)
        limits = [ends, *[max(1, depth)] * (len(stages) - 1), ends]
        self.channels = [Channel(n) for n in limits]
        self.failed: tuple[Stage, int, BaseException] | None = None
        self.at: list[int | None] = [None] * len(stages)  # the item each stage works on
        self._lock = threading.Lock()
        self._grad = torch.is_grad_enabled()  # belongs to the thread that calls

    def run(self, items: Sequence[Any], deadline_s: float | None) -> list[Any]:
        """Return the results. Raises PartError, InputError."""
        threads = [
            threading.Thread(target=self._work, args=(i,), name=f"leptonc {s.name}", daemon=True)
            for i, s in enumerate(self.stages)
        ]
        until = None if deadline_s is None else time.monotonic() + deadline_s
        for t in threads:
            t.start()
        results: list[Any] = []
        try:
            for item in items:
                self.channels[0].put(item)
            for _ in items:
                left = None if until is None else max(0.0, until - time.monotonic())
                results.append(self.channels[-1].get(left))
        except ClosedError:
            raise self._failure() from (self.failed and self.failed[2])
        except TimeoutError:
            raise self._late(len(results), deadline_s) from None
        finally:
            for c in self.channels:
                c.close()
            end = time.monotonic() + GRACE_S
            for t in threads:
                # Without a deadline a caller waits for what is running, with one not for long.
                t.join(None if until is None else max(0.0, end - time.monotonic()))
        return results

    def _work(self, index: int) -> None:
        stage = self.stages[index]
        source, sink = self.channels[index : index + 2]
        try:
            with torch.set_grad_enabled(self._grad):
                for number in range(self.count):
                    item = source.get()
                    self.at[index] = number
                    made = stage.run(item)
                    self.at[index] = None
                    sink.put(made)
        except ClosedError:
            return
        except BaseException as e:
            with self._lock:
                if self.failed is None:
                    self.failed = stage, self.at[index] or 0, e
            for c in self.channels:
                c.close()

    def _failure(self) -> Exception:
        if self.failed is None:
            return PartError("the stages were closed while they ran")
        stage, number, e = self.failed
        which = f" on micro-batch {number + 1} of {self.count}" if self.count > 1 else ""
        return failure(stage.name + which, e)

    def _late(self, done: int, deadline_s: float | None) -> PartError:
        busy = [
            f"{s.name} is at item {at + 1}"
            for s, at in zip(self.stages, self.at, strict=True)
            if at is not None
        ]
        return PartError(
            f"{done} of {self.count} results after the deadline of {deadline_s:g} s; "
            f"{', '.join(busy) or 'no stage is at work'}"
        )


def failure(who: str, e: BaseException) -> Exception:
    """Return the error that names who raised ``e``: of the caller's inputs, or of the part."""
    if isinstance(e, InputError):
        return InputError(f"{who}: {e}")
    return PartError(f"{who} failed: {type(e).__name__}: {e}")
