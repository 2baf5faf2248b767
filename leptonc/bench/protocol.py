"""The measuring protocol: contestants in interleaved blocks, ratios with a bootstrap interval.

A block is a rest, one discarded call and a few counted ones of one contestant; a round is one block
of each. Alternating single calls is wrong: the spinning workers of one contestant and the caches it
leaves cold are charged to the next.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

REST_S = 0.030
COUNTED = 4
MIN_ROUNDS = 5
RESAMPLES = 2000
INTERVAL = (2.5, 97.5)  # percentiles of the bootstrap distribution
_RESET_PEAK = "5"  # proc(5), /proc/self/clear_refs: the peak becomes the present value

Call = Callable[[], Any]


@dataclass(frozen=True)
class Clock:
    """Where time comes from and how to wait; tests bring their own."""

    now: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep


@dataclass
class Times:
    """The counted calls of one contestant, in seconds, by round."""

    rounds: list[list[float]] = field(default_factory=list[list[float]])

    @property
    def calls(self) -> list[float]:
        """Every counted call."""
        return [t for r in self.rounds for t in r]

    @property
    def best(self) -> list[float]:
        """The fastest call of each round: what ratios are made of."""
        return [min(r) for r in self.rounds]

    @property
    def min(self) -> float:
        """Seconds of the fastest call."""
        return min(self.calls)

    @property
    def median(self) -> float:
        """Seconds of the median call."""
        return statistics.median(self.calls)

    @property
    def p90(self) -> float:
        """Seconds that nine calls in ten stay below."""
        return float(np.percentile(self.calls, 90))


@dataclass(frozen=True)
class Ratio:
    """How many times faster ours is than the best of its peers, with its 95 % interval."""

    value: float
    low: float
    high: float
    peer: str

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}] {self.peer}"


def measure(
    calls: Mapping[str, Call],
    seconds: float,
    *,
    rest_s: float = REST_S,
    clock: Clock | None = None,
    rounds: int = MIN_ROUNDS,
) -> dict[str, Times]:
    """Return the times of each contestant after rounds of blocks for ``seconds``.

    At least ``rounds`` rounds are run. Who begins changes from round to round.
    """
    clock = clock or Clock()
    times = {name: Times() for name in calls}
    order = list(calls)
    end = clock.now() + seconds
    while order and (clock.now() < end or len(times[order[0]].rounds) < rounds):
        for name in order:
            times[name].rounds.append(_block(calls[name], rest_s, clock))
        order = [*order[1:], order[0]]
    return times


def _block(call: Call, rest_s: float, clock: Clock) -> list[float]:
    clock.sleep(rest_s)
    call()
    found: list[float] = []
    for _ in range(COUNTED):
        start = clock.now()
        call()
        found.append(clock.now() - start)
    return found


def ratio(ours: Times, peers: Mapping[str, Times], seed: int = 0) -> Ratio | None:
    """Return how much faster ``ours`` is than the fastest of ``peers``; None without peers.

    The statistic is the median over rounds of each round's fastest call. Rounds are resampled
    together, so that a slow spell of the machine hits both sides of a ratio, and the best peer is
    chosen anew in each resample (Efron and Tibshirani 1993, chapter 13: percentile interval).
    """
    if not peers:
        return None
    names = sorted(peers)
    rows = np.array([ours.best, *(peers[n].best for n in names)])
    value, peer = _ratios(rows[:, None, :])
    rng = np.random.default_rng(seed)
    picks = rng.integers(rows.shape[1], size=(RESAMPLES, rows.shape[1]))
    low, high = np.percentile(_ratios(rows[:, picks])[0], INTERVAL)
    return Ratio(float(value[0]), float(low), float(high), names[int(peer[0])])


def _ratios(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return best peer / ours and which peer, for ``rows``: [contestant, resample, round]."""
    centre = np.median(rows, axis=2)
    return centre[1:].min(axis=0) / centre[0], centre[1:].argmin(axis=0)


def worst_error(got: Any, want: Any) -> float:
    """Return the largest absolute difference over the largest element of ``want``.

    Results are compared tensor by tensor, their structure flattened; infinite where shapes or the
    number of results differ, or NaN and infinities stand differently.
    """
    a, b = tensors(got), tensors(want)
    if len(a) != len(b):
        return float("inf")
    return max((_error(x, y) for x, y in zip(a, b, strict=True)), default=0.0)


def tensors(result: Any) -> list[torch.Tensor]:
    """Return the tensors in a nested result, in order; NumPy arrays become tensors."""
    if isinstance(result, torch.Tensor):
        return [result.detach()]
    if isinstance(result, np.ndarray):
        return [torch.from_numpy(result)]
    if isinstance(result, Mapping):
        return [t for v in result.values() for t in tensors(v)]
    if isinstance(result, Sequence) and not isinstance(result, str):
        return [t for v in result for t in tensors(v)]
    return []


def _error(got: torch.Tensor, want: torch.Tensor) -> float:
    if got.shape != want.shape:
        return float("inf")
    if want.numel() == 0:
        return 0.0
    a, b = got.double(), want.double()
    same = (a == b) | (a.isnan() & b.isnan())
    finite = torch.isfinite(a) & torch.isfinite(b)
    if not bool((same | finite).all()):
        return float("inf")
    if bool(same.all()):
        return 0.0
    largest = float(b[finite].abs().max())
    return float((a - b)[finite].abs().max()) / max(largest, 1e-30)


@contextlib.contextmanager
def pinned(cores: int) -> Iterator[None]:
    """Keep every thread of the process on ``cores`` of its cores for a while (Linux; else nothing).

    Threads are pinned one by one: those of a library's pool exist already and inherit nothing.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = sorted(os.sched_getaffinity(0))
    _pin(allowed[:cores])
    try:
        yield
    finally:
        _pin(allowed)


def _pin(cores: Sequence[int]) -> None:
    for task in Path("/proc/self/task").iterdir():
        # A thread may end between the listing and the call; a refused one stays where it is.
        with contextlib.suppress(OSError):
            os.sched_setaffinity(int(task.name), cores)


@dataclass
class Footprint:
    """Seconds that something took, and by how many bytes the process grew at its peak."""

    seconds: float = 0.0
    peak_bytes: int | None = None


@contextlib.contextmanager
def footprint() -> Iterator[Footprint]:
    """Measure the time and the growth of the resident set's peak of a ``with`` block.

    The peak is None where the system cannot tell (it needs Linux's ``/proc/self/clear_refs``).
    """
    found = Footprint()
    before = _reset_peak()
    start = time.perf_counter()
    try:
        yield found
    finally:
        found.seconds = time.perf_counter() - start
        after = memory("VmHWM")
        if before is not None and after is not None:
            found.peak_bytes = max(0, after - before)


def _reset_peak() -> int | None:
    """Return the resident bytes and make them the process's peak; None where that is impossible."""
    try:
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
    except OSError:
        return None
    return memory("VmRSS")


def memory(name: str) -> int | None:
    """Return a field of ``/proc/self/status`` in bytes, such as VmRSS or VmHWM, if there is one."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None
