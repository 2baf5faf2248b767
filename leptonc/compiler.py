"""The road from a captured model to a verified specialization: passes, schedule, self-check."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from leptonc import meaning, selfcheck, stored
from leptonc.backends.numba_cpu.release import release
from leptonc.backends.numba_cpu.runtime import Executable
from leptonc.backends.numba_cpu.tune import machine, tune
from leptonc.bisect import Replay
from leptonc.capture import Captured
from leptonc.capture.shim import boxed
from leptonc.ir.core import Function
from leptonc.ir.specialize import specialize
from leptonc.passes import pipeline as passes_of
from leptonc.pipeline import Instrument, PassManager, Recorder
from leptonc.rewrite.trace import Remark, RemarkKind
from leptonc.runtime.cache import CompileCache
from leptonc.runtime.choices import book
from leptonc.specialization import Specialization, random_op

VERIFY = ("off", "final", "unit", "pass")
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What a compile was asked for, checked and resolved."""

    pipeline: str = "O2"
    precision: str = "fp32"
    verify: str = "final"
    threads: int = 1
    cache: bool = True
    tune_s: float = 0.0  # seconds for timing alternatives; 0 trusts the cost model


def optimize(fn: Function, pipeline: str, instruments: Sequence[Instrument] = ()) -> Function:
    """Return ``fn`` after the passes of a pipeline string. Raises PipelineError."""
    return PassManager(passes_of(pipeline), tuple(instruments)).run(fn)


def build(
    captured: Captured,
    settings: Settings,
    inputs: Sequence[Tensor],
    eager: Callable[..., Sequence[Tensor]],
    again: Callable[[], Captured],
    stats: dict[str, Any],
    progress: Progress,
) -> Specialization:
    """Return ``captured`` optimized, scheduled for ``inputs`` and checked as ``settings`` ask.

    ``eager`` gives the model's own results on ``inputs`` (or on the arguments and keywords it is
    given), ``again`` captures it once more. Figures
    go to ``stats``. A static program keeps no weights but the packed ones: the constants of
    ``captured`` are released.

    Raises:
        CheckError: the result is wrong and no retreat of units to torch repairs it.
    """
    made = {"threads": settings.threads, "precision": settings.precision}
    cache = CompileCache(enabled=None if settings.cache else False)
    key = dropped = ""
    replayed = Replay(settings.pipeline, again, eager)
    if settings.cache and settings.verify in ("final", "off"):
        with _timed(stats, "lookup_s"):
            key = stored.key_of(captured, (settings.pipeline, *made.values(), settings.tune_s > 0))
            replay = functools.cache(lambda: tuple(_optimized(again(), settings, ())[1].steps))
            spec, dropped = stored.load(cache, key, captured, inputs, stages=replay, **made)
        if spec is not None:
            spec.replay, spec.example = replayed, tuple(inputs)
            return _finished(spec, inputs, stats, cached=True)
    progress("optimizing")
    with _timed(stats, "passes_s"):
        function, recorder = _optimized(captured, settings, inputs)
    spec = Specialization(
        captured=captured,
        function=function,
        stages=lambda: tuple(recorder.steps),
        remarks=[*captured.remarks, *recorder.remarks],
        replay=replayed,
        example=tuple(inputs),
        **made,
    )
    if dropped:
        text = f"dropped and compiled anew: {dropped}"
        spec.remarks.append(Remark("cache", RemarkKind.MISSED, "the stored program", text))
    sizes = meaning.bind_dims(function, [t.shape for t in inputs])
    if settings.tune_s > 0:
        progress("timing alternatives")
        with _timed(stats, "tune_s"):
            _tune(spec, sizes, settings, cache)
    progress("scheduling and compiling kernels")
    with _timed(stats, "schedule_s"):
        spec.bind(sizes)
    spec.pool.spare.clear()
    results: Sequence[Tensor] | None = None
    if settings.verify != "off" and (op := random_op(captured.function)) is not None:
        text = "the result is not checked: the model draws random numbers"
        spec.remarks.append(Remark("check", RemarkKind.MISSED, op.kind.NAME, text, op.origin))
    elif settings.verify != "off":
        progress("checking against the model")
        with _timed(stats, "verify_s"):
            every = settings.verify != "final"
            results = _check(spec, sizes, inputs, tuple(eager()), every=every)
    if key:
        progress("writing the cache")
        with _timed(stats, "store_s"):
            stored.save(cache, key, spec, inputs, results)
    return _finished(spec, inputs, stats, cached=False)


def _check(
    spec: Specialization,
    sizes: Mapping[str, int],
    inputs: Sequence[Tensor],
    found: Sequence[Tensor],
    every: bool,
) -> Sequence[Tensor]:
    """Hold the program to ``found``, with ``every`` unit too and other sizes; return its results.

    Raises:
        CheckError: as :func:`selfcheck.whole`.
    """
    if every:
        selfcheck.units(spec, sizes, inputs)
    results = selfcheck.whole(spec, sizes, inputs, found)
    if every:
        selfcheck.at_other_sizes(spec, inputs)
    return results


def _tune(
    spec: Specialization, sizes: Mapping[str, int], settings: Settings, cache: CompileCache
) -> None:
    """Answer the questions of the program for ``sizes`` by timing candidates."""
    fn = specialize(spec.function, sizes)
    options = spec.options(fn)
    kept = book(cache.root if cache.enabled else None, machine(options.threads))
    spec.answers.update(tune(fn, spec.pool, options, kept, settings.tune_s))


def _finished(
    spec: Specialization, inputs: Sequence[Tensor], stats: dict[str, Any], *, cached: bool
) -> Specialization:
    program = spec.bind(meaning.bind_dims(spec.function, [t.shape for t in inputs]))
    stats["cached"] = cached
    stats.update(figures(program))
    if not spec.function.dims:
        replayed = () if cached else spec.stages()
        functions = [spec.captured.function, spec.function]
        functions += [f for step in replayed for f in (step.before, step.after)]
        release(functions, program.schedule.steps)
    return spec


def _optimized(
    captured: Captured, settings: Settings, inputs: Sequence[Tensor]
) -> tuple[Function, Recorder]:
    recorder = Recorder()
    instruments: list[Instrument] = [recorder]
    if settings.verify == "pass" and random_op(captured.function) is None:
        instruments.append(selfcheck.PassCheck.of(captured.function, inputs, settings.precision))
    return optimize(captured.function, settings.pipeline, instruments), recorder


@contextmanager
def _timed(stats: dict[str, Any], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    stats[name] = time.perf_counter() - start


def returns_of(captured: Captured, result: Any) -> list[Tensor]:
    """Return the tensors of a model's own result in the order of the Function's returns."""
    leaves = pytree.tree_leaves(boxed(result))
    found = {o.result: leaf for o, leaf in zip(captured.outputs, leaves, strict=True)}
    return [found[i] for i in range(len(captured.function.returns))]


def figures(program: Executable) -> dict[str, Any]:
    """Return the counts and bytes of a program for ``stats``."""
    plan = program.schedule
    return {
        "units": len(plan.units),
        "units_torch": sum(bool(u.torch_ops) for u in plan.units),
        "ops_native": sum(u.native_ops for u in plan.units),
        "ops_torch": sum(u.torch_ops for u in plan.units),
        "steps": len(plan.steps),
        "arena_bytes": plan.arena_bytes,
        "arena_lower_bound_bytes": plan.lower_bound,
        "arena_sum_bytes": plan.sum_bytes,
        "constant_bytes": sum(c.nbytes for c in plan.consts),
        "threads": plan.threads,
    }
