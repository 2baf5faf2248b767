"""A profile as Chrome trace events (JSON), which Perfetto and chrome://tracing open.

Format: "Trace Event Format" (Google, 2016): complete events (``ph`` "X", times in microseconds) on
one track for the units and one per thread, and metadata events (``M``) that name the tracks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leptonc.show.profile import Profile, UnitTime

UNITS = 0  # track of the units; thread t is on track t + 1
_PROCESS = 1
_DIGITS = 3  # of microseconds: the clock counts nanoseconds
Event = dict[str, Any]


def document(profile: Profile) -> Event:
    """Return the trace file's content."""
    return {
        "traceEvents": events(profile),
        "displayTimeUnit": "ns",
        "otherData": {
            "model": profile.name,
            "inputs": ", ".join(profile.inputs),
            "threads": profile.threads,
            "peak GF/s": round(profile.limits.gflops, 1),
            "memory GB/s": round(profile.limits.gbytes, 1),
        },
    }


def events(profile: Profile) -> list[Event]:
    """Return all events: names of the tracks first, then slices by the time they begin."""
    slices = [*_unit_slices(profile), *_thread_slices(profile)]
    return [*_names(profile), *sorted(slices, key=lambda e: (e["ts"], e["tid"], -e["dur"]))]


def _names(profile: Profile) -> Iterator[Event]:
    yield _event("M", UNITS, "process_name", 0.0, 0.0, {"name": f"leptonc: {profile.name}"})
    tracks = ["units", *(f"thread {t}" for t in range(profile.threads))]
    for tid, name in enumerate(tracks):
        yield _event("M", tid, "thread_name", 0.0, 0.0, {"name": name})
        yield _event("M", tid, "thread_sort_index", 0.0, 0.0, {"sort_index": tid})


def _unit_slices(profile: Profile) -> Iterator[Event]:
    """Yield each unit from when those before it were done until all its threads are done."""
    ends = [0.0] * len(profile.steps)
    for s in profile.spans:
        ends[s.step] = max(ends[s.step], s.end_us)
    begin, done = 0.0, 0.0
    for i, step in enumerate(profile.steps):
        done = max(done, ends[i])
        last = i + 1 == len(profile.steps) or profile.steps[i + 1].unit != step.unit
        if last and done > begin:
            unit = _unit(profile, step.unit)
            name, args = (
                (unit.name or unit.algorithm, _args(unit, done - begin)) if unit else ("copy", {})
            )
            yield _event("X", UNITS, name, begin, done, args, "unit")
            begin = done


def _thread_slices(profile: Profile) -> Iterator[Event]:
    """Yield what each thread does, and its waits in between until the last one is done."""
    end = max((s.end_us for s in profile.spans), default=0.0)
    for thread in range(profile.threads):
        at = 0.0
        for s in (s for s in profile.spans if s.thread == thread):
            step = profile.steps[s.step]
            unit = _unit(profile, step.unit)
            yield from _wait(thread, at, s.begin_us, unit)
            args = {"step": s.step, **(_args(unit, s.end_us - s.begin_us) if unit else {})}
            yield _event("X", thread + 1, step.kernel, s.begin_us, s.end_us, args, "step")
            at = s.end_us
        yield from _wait(thread, at, end, None)


def _wait(thread: int, begin: float, end: float, unit: UnitTime | None) -> Iterator[Event]:
    if end > begin:
        args = {"before": unit.name} if unit else {}
        yield _event("X", thread + 1, "wait", begin, end, args, "wait")


def _unit(profile: Profile, index: int) -> UnitTime | None:
    """Return the unit of a step; copies of results belong to none."""
    return profile.units[index] if index < len(profile.units) else None


def _args(unit: UnitTime, us: float) -> Event:
    """Return what a click on a slice shows; the rate is that of the whole unit, the median."""
    return {
        "unit": unit.index,
        "op": unit.name,
        "algorithm": unit.algorithm,
        "shape": unit.shape,
        "module": unit.where,
        "source": unit.source,
        "runs": unit.runs,
        "GF/s": round(unit.gflops, 1),
        "GB/s": round(unit.gbytes, 1),
        "us": round(us, _DIGITS),
    }


def _event(
    ph: str, tid: int, name: str, begin: float, end: float, args: Event, cat: str = "name"
) -> Event:
    ts, stop = round(begin, _DIGITS), round(end, _DIGITS)
    return {
        "ph": ph, "pid": _PROCESS, "tid": tid, "name": name, "cat": cat,
        "ts": ts, "dur": round(stop - ts, _DIGITS), "args": args,
    }  # fmt: skip
