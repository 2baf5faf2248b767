"""The public functions ``compile`` and ``optimize``. Thin: arguments in, layers below."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.export import ExportedProgram

from leptonc import compiler, sharded_build
from leptonc.backends.numba_cpu.runtime import ahead
from leptonc.backends.torch_spmd.units import How
from leptonc.capture import Captured
from leptonc.capture.captured import arguments
from leptonc.capture.failure import refuse_training
from leptonc.capture.frontend import capture as capture_model
from leptonc.compiled import CompiledModel
from leptonc.errors import InputError, LeptoncError, PipelineError, TargetError
from leptonc.ir.core import Function
from leptonc.passes import pipeline as passes_of
from leptonc.passes.pipelines import PIPELINES
from leptonc.runtime.garbage import paused, release_trace, torch_unread
from leptonc.runtime.governor import Governor
from leptonc.runtime.heap import trim
from leptonc.runtime.pages import borrowed
from leptonc.settings import read_settings
from leptonc.sharded import ShardedModel
from leptonc.sharding import Sharding
from leptonc.show.progress import Progress
from leptonc.show.report import describe
from leptonc.specialization import Specialization
from leptonc.targets import Target, check_there, parse_target

PRECISIONS = ("strict", "fp32", "fast")
Dynamic = Mapping[str, Any] | str | None


@overload
def compile(
    model: Any,
    example_inputs: Any = None,
    *,
    target: Literal["cpu"] = "cpu",
    dynamic: Dynamic = None,
    pipeline: str = "O2",
    precision: str = "fp32",
    verify: str = "final",
    threads: int | None = None,
    cache: bool = True,
    tune: bool | None = None,
) -> CompiledModel: ...
@overload
def compile(
    model: Any,
    example_inputs: Any = None,
    *,
    target: str,
    device: int | None = None,
    sharding: Sharding | None = None,
    dynamic: Dynamic = None,
    pipeline: str = "O2",
    precision: str = "fp32",
    verify: str = "final",
    threads: int | None = None,
    cache: bool = True,
    tune: bool | None = None,
) -> ShardedModel: ...
def compile(
    model: Any,
    example_inputs: Any = None,
    *,
    target: str = "cpu",
    device: int | None = None,
    sharding: Sharding | None = None,
    dynamic: Dynamic = None,
    pipeline: str = "O2",
    precision: str = "fp32",
    verify: str = "final",
    threads: int | None = None,
    cache: bool = True,
    tune: bool | None = None,
) -> CompiledModel | ShardedModel:
    """Return ``model`` compiled; call the result as you would call the model.

    Args:
        model: an ``nn.Module`` in evaluation mode, an ``ExportedProgram`` or an ``fx.GraphModule``.
        example_inputs: a tensor, a tuple of positional arguments or a dict of keyword arguments;
            None compiles at the first call.
        target: where it will run: ``"cpu"``, ``"cpu:2"`` (two processes), ``"cuda"`` (one device)
            or ``"cuda:4"`` (four devices, not the one of index 4). All but ``"cpu"`` return a
            ``ShardedModel``.
        device: index of the device for ``"cuda"``.
        sharding: how the model is divided, for all but ``"cpu"``.
        dynamic: sizes that may change, ``{"x": {0: Dim("batch", max=64)}}``, or ``"auto"``.
        pipeline: passes, ``"O0"`` to ``"O3"`` or a pipeline string.
        precision: which algorithms may run. ``"strict"``: plain sums of float32.
            ``"fp32"``: also Winograd convolution F(2x2, 3x3) and F(4x4, 3x3), whose error bounds
            are 64/9 and 256 times that of the sum for equally large weights and data (2x2 tiles
            with stride 2: 5.4 times), F(3x3, 5x5) (147 times), and along one axis F(4, 3) (1x3,
            3x1: 16 times) and F(4, 7) (1x7, 7x1: 49 times); and one level of Strassen's algorithm
            (3 times) for linear layers of many rows: those half of all rows apart are added up, so
            that what is not finite in one, or the errors of a large one, come to the other. The
            errors measured are at most 8 times as large. Large products run on tile registers
            (Intel AMX) where there are some, float32 in three bfloat16 parts: errors are those of
            plain sums, an infinity makes NaN of what it meets. Linear layers of up to four rows
            keep large weights in 24 bits, from 4096 inputs on in 20: one is off by at most 2**-23,
            or 2**-19, of the largest of 64 of its output; measured errors are those of plain sums,
            in 20 bits 3e-6 of the largest output (of plain sums up to 1.4e-6), and an infinity
            makes NaN of weights that small. ``"fast"``: the same at present.
            With ``verify`` the result may be 8, 32 or 64 times as far from float64 as eager.
        verify: ``"final"`` checks the whole net once, on the example; ``"unit"`` also every unit,
            on its own operands and probes drawn from them, at the smallest and at odd sizes, too,
            where sizes are dynamic; ``"pass"`` also what each pass made; ``"off"`` nothing. A unit
            that misses runs through torch, and a remark says why.
        threads: at most this many; default what affinity and CPU quota allow.
        cache: whether results are kept on disk for the next process.
        tune: whether units that can be computed in several ways are timed (once per machine and
            sizes, at most a second a compile); False trusts the cost model. Default: the
            environment's, else True. Ways differ in rounding, hence machines may in the last bits.

    Raises:
        LeptoncError: an argument that leptonc cannot take; the text says what to do.
    """
    where = parse_target(target, device)
    _one_of("precision", precision, PRECISIONS)
    _one_of("verify", verify, compiler.VERIFY)
    _check_pipeline(pipeline)
    decision = Governor(threads).decision
    settings = compiler.Settings(
        pipeline, precision, verify, decision.cores, cache, _tuning_seconds(tune)
    )
    refuse_training(model)
    name = _name(model)
    if where.sharded:
        how = How("", decision.cores, precision, pipeline)
        return _sharded(
            model, example_inputs, dynamic, verify, (where, sharding or Sharding(), how)
        )
    if sharding is not None:
        raise TargetError('sharding= goes with several devices: target="cpu:2" or "cuda:4"')
    stats: dict[str, Any] = {"governor": str(decision)}
    once = example_inputs is not None and dynamic != "auto"
    held = weakref.ref(model)

    def make(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Specialization:
        with ahead(held(), precision), _compiling(name) as progress:
            start = time.perf_counter()
            progress("capturing")
            with torch_unread():
                captured = capture_model(model, args, kwargs, dynamic=dynamic)
            release_trace()
            stats["capture_s"] = time.perf_counter() - start
            leaves = captured.flatten(args, kwargs)
            inputs = [t.detach().contiguous() for t in captured.tensors(leaves)]

            def eager(args: Any = args, kwargs: Any = kwargs) -> Sequence[Tensor]:
                return compiler.returns_of(captured, _callable(_alive(held, name))(*args, **kwargs))

            def again() -> Captured:
                return capture_model(_alive(held, name), args, kwargs, dynamic=dynamic)

            spec = compiler.build(captured, settings, inputs, eager, again, stats, progress)
            stats["total_s"] = time.perf_counter() - start
            stats["specializations"] = stats.get("specializations", 0) + 1
            return spec

    net = CompiledModel(name, make, respecialize=not once, describe=describe)
    net.stats = stats
    if example_inputs is not None:
        net.specialize(*arguments(example_inputs))
    if once:
        net.close()
    return net


@contextmanager
def _compiling(name: str) -> Iterator[Progress]:
    """Show progress, record no gradients and collect no garbage until the end of the block.

    Then free memory and what was read of libraries' code goes back to the system.
    """
    with borrowed(), Progress(f"compiling {name}") as progress, torch.no_grad(), paused():
        yield progress
    trim()


def _sharded(
    model: Any,
    example_inputs: Any,
    dynamic: Dynamic,
    verify: str,
    made_for: tuple[Target, Sharding, How],
) -> ShardedModel:
    """Return ``model`` divided over several devices. Raises LeptoncError."""
    if example_inputs is None:
        raise InputError(
            f"target {made_for[0]}: example_inputs are needed to divide the model; pass them"
        )
    check_there(made_for[0])
    _check_on_cpu(model)
    name, stats = _name(model), dict[str, Any]()
    args, kwargs = arguments(example_inputs)
    with _compiling(name) as progress:
        start = time.perf_counter()
        progress("capturing")
        captured = capture_model(model, args, kwargs, dynamic=dynamic)
        stats["capture_s"] = time.perf_counter() - start
        tensors = captured.tensors(captured.flatten(args, kwargs))
        inputs = [t.detach().contiguous() for t in tensors]

        def eager() -> Sequence[Tensor]:
            return compiler.returns_of(captured, _callable(model)(*args, **kwargs))

        progress("planning, starting ranks and checking against the model")
        net = sharded_build.build(name, captured, made_for, verify, inputs, eager, stats)
        stats["total_s"] = time.perf_counter() - start
    return net


def _check_on_cpu(model: Any) -> None:
    """Raise InputError for a module that is not on the CPU: each rank places its own weights."""
    tensors = model.named_parameters() if isinstance(model, torch.nn.Module) else ()
    away = next(((n, t) for n, t in tensors if t.device.type != "cpu"), None)
    if away is not None:
        raise InputError(
            f"{away[0]} is on {away[1].device}: hand over the model on the CPU (model.cpu()); "
            "each rank puts its part of the weights on its own device"
        )


def compile_graph(module: Any, tensors: Sequence[Tensor], dynamic: Dynamic = None) -> CompiledModel:
    """Return a graph that torch.compile handed over, compiled for example tensors."""
    return compile(module, tuple(tensors), dynamic=dynamic)


def optimize(fn: Function, pipeline: str = "O2") -> Function:
    """Return ``fn`` after the passes of a pipeline string. Raises PipelineError."""
    return compiler.optimize(fn, pipeline)


def _tuning_seconds(tune: bool | None) -> float:
    """Return how long a compile may time alternatives."""
    asked = read_settings()
    return asked.tune_ms / 1e3 if (asked.tune if tune is None else tune) else 0.0


def _name(model: Any) -> str:
    return type(model).__name__


def _alive(held: weakref.ref[Any], name: str) -> Any:
    """Return the model, which a compiled one does not keep. Raises LeptoncError if it is gone."""
    if (model := held()) is None:
        raise LeptoncError(
            f"{name}: the model is gone, and its weights with it: its passes cannot be replayed. "
            "Keep the model; stages alone are kept too with cache=False"
        )
    return model


def _callable(model: Any) -> Any:
    """Return what computes the model's own results."""
    return model.module() if isinstance(model, ExportedProgram) else model


def _check_pipeline(text: str) -> None:
    """Raise PipelineError for what is no pipeline; of a level, passes are imported when needed.

    Helpers should have begun by then, and a stored program needs none.
    """
    if text not in PIPELINES:
        passes_of(text)


def _one_of(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise PipelineError(f"unknown {what} {value!r}; there are: {', '.join(known)}")


__all__ = ["LeptoncError", "compile", "optimize"]
