"""parts > split: a model as parts of about equal time, each compiled on its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from leptonc import api, meaning
from leptonc.capture.captured import Captured, arguments
from leptonc.capture.frontend import capture as capture_model
from leptonc.cost.flops import ZERO
from leptonc.errors import PartError
from leptonc.ir.kinds.data import Constant
from leptonc.parts.blocks import Blocks, blocks_of
from leptonc.parts.carve import Carved, carve
from leptonc.parts.cuts import best_cuts
from leptonc.parts.part import Part, Parts
from leptonc.parts.plan import Examples, Options, PartCost, Plan, cost_of
from leptonc.parts.weigh import Machine, Original, copied_constants, timed, weigh

Dynamic = Mapping[str, Any] | str | None


def split(
    model: Any,
    n: int,
    example_inputs: Any,
    *,
    dynamic: Dynamic = None,
    speeds: Sequence[float] | None = None,
    machine: Machine | None = None,
    measure: bool = False,
    pipeline: str = "O2",
    precision: str = "fp32",
    verify: str = "final",
    threads: int | None = None,
    cache: bool = True,
    tune: bool | None = None,
) -> Parts:
    """Return ``model`` as ``n`` parts, the slowest of which is estimated as fast as possible.

    The parts are consecutive stretches of the optimized program; together they have every op and
    every parameter exactly once. Cuts go between compute units: one inside would keep ops from
    running as one kernel. Each part is a compiled module of its own with named inputs and outputs.

    Args:
        model: an ``nn.Module`` in evaluation mode, an ``ExportedProgram`` or ``fx.GraphModule``.
        n: how many parts.
        example_inputs: a tensor, a tuple of positional arguments or a dict of keyword arguments.
        dynamic: sizes that may change, as for ``leptonc.compile``.
        speeds: how fast the device of each part is; by default all are alike.
        machine: what a device of speed 1 does in a second, and how fast values move.
        measure: compile the whole model, too, and count with the times of its units on the example
            (about a second more) instead of estimates from their shapes.
        pipeline: passes, run before the cut, and again on each part.
        precision: as for ``leptonc.compile``; the following arguments, too.
        verify: how each part is checked when it is compiled.
        threads: at most this many for a part.
        cache: whether compiled parts are kept on disk.
        tune: whether units are timed.

    Raises:
        PartError: fewer than one part, more parts than ops, or speeds that do not fit.
        CaptureError: the model cannot be captured.
    """
    speeds = _checked_speeds(n, speeds)
    machine = machine or Machine()
    args, kwargs = arguments(example_inputs)
    captured = capture_model(model, args, kwargs, dynamic=dynamic)
    name = type(model).__name__
    blocks = blocks_of(captured.function, pipeline)
    if n > len(blocks.blocks):
        blocks = blocks.finest()
    if n > len(blocks.blocks):
        raise PartError(
            f"{name} cannot be split into {n} parts: it has {len(blocks.blocks)} ops after "
            f"{pipeline}. Ask for at most that many"
        )
    inputs = captured.tensors(captured.flatten(args, kwargs))
    sizes = meaning.bind_dims(captured.function, [tuple(t.shape) for t in inputs])
    options = Options(pipeline, precision, verify, threads, cache, tune)
    times = unit_seconds(model, example_inputs, dynamic, options) if measure else {}
    names = names_of(captured)
    carved, costs = cut(blocks, sizes, speeds, machine, names, originals(captured), times)
    examples = Examples(carved, lambda: [t.detach() for t in inputs])
    kept = dataclasses.replace(captured, function=carved.whole)
    plan = Plan(name, kept, carved, costs, speeds, examples, options)
    return Parts(Part(plan, i) for i in range(n))


def cut(
    blocks: Blocks,
    sizes: Mapping[str, int],
    speeds: Sequence[float],
    machine: Machine,
    params: Sequence[str],
    known: Sequence[Original] = (),
    times: Mapping[str, float] | None = None,
) -> tuple[Carved, tuple[PartCost, ...]]:
    """Return the program cut for devices of ``speeds``, and what each part costs.

    Args:
        blocks: the program.
        sizes: the value of every symbolic size.
        speeds: of the devices.
        machine: what costs are counted with.
        params: the name of every parameter of the program.
        known: constants of the captured program.
        times: seconds of blocks that were measured, by name.
    """
    copied = copied_constants(blocks, len(speeds), known)
    weights = weigh(blocks, sizes, copied)
    work = timed(blocks.names, [machine.seconds(c) for c in weights.costs], times or {})
    arrive = [0.0, *(n / machine.link for n in weights.live[1:])]
    cuts = best_cuts(work, arrive, speeds)
    figures: list[PartCost] = []
    for speed, (a, b) in zip(speeds, pairwise(cuts), strict=True):
        total = sum(weights.costs[a:b], ZERO)
        live = weights.live[a] if a else 0
        figures.append(cost_of(total, sum(work[a:b]), sum(work), speed, live, machine.link))
    return carve(blocks, cuts, params, copied), tuple(figures)


def unit_seconds(
    model: Any, example_inputs: Any, dynamic: Dynamic, options: Options
) -> dict[str, float]:
    """Return the seconds of every unit of the whole model, compiled, by its name."""
    net = api.compile(model, example_inputs, dynamic=dynamic, **dataclasses.asdict(options))
    args, kwargs = arguments(example_inputs)
    return {u.name: u.us / 1e6 for u in net.profile(*args, **kwargs).units}


def names_of(captured: Captured) -> tuple[str, ...]:
    """Return the name of every parameter of a captured program."""
    names = [p.hint or f"input_{i}" for i, p in enumerate(captured.function.params)]
    for spec in captured.inputs:
        if spec.param is not None:
            names[spec.param] = spec.name
    return tuple(names)


def originals(captured: Captured) -> list[Original]:
    """Return the constants of a captured program."""
    fn = captured.function
    return [
        Original(op.result.hint, op.kind.const, op.result.hint in captured.parameters)
        for op in fn.ops
        if isinstance(op.kind, Constant)
    ]


def _checked_speeds(n: int, speeds: Sequence[float] | None) -> tuple[float, ...]:
    if n < 1:
        raise PartError(f"a model cannot be split into {n} parts; ask for at least 1")
    if speeds is None:
        return (1.0,) * n
    if len(speeds) != n or not all(s > 0 for s in speeds):
        raise PartError(
            f"speeds {list(speeds)} do not fit {n} parts: give one positive number for each"
        )
    return tuple(map(float, speeds))
