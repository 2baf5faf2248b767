"""From a partitioned, static Function to a Schedule: lower each unit, then place the arena."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from leptonc.backends.numba_cpu import batch
from leptonc.backends.numba_cpu.arena import laid_out
from leptonc.backends.numba_cpu.joined import joined
from leptonc.backends.numba_cpu.kernels.int8_pairs import Range
from leptonc.backends.numba_cpu.legal import YES, Claim, No
from leptonc.backends.numba_cpu.lower.choices import Answer
from leptonc.backends.numba_cpu.lower.code_ranges import inside, ranges_of
from leptonc.backends.numba_cpu.lower.core import ConstPool, Lowering
from leptonc.backends.numba_cpu.lower.questions import Reuse, reuse
from leptonc.backends.numba_cpu.lower.shape import contiguous, copy_view
from leptonc.backends.numba_cpu.lower.table import LOWER, UNITS
from leptonc.backends.numba_cpu.schedule import (
    Run,
    Schedule,
    UnitInfo,
)
from leptonc.backends.numba_cpu.spaced import spaced
from leptonc.backends.numba_cpu.views import Buffer, View, dense
from leptonc.errors import ClaimError
from leptonc.ir.core import Function, Op, Value
from leptonc.ir.kinds.data import Constant, Full
from leptonc.ir.kinds.region import TorchOp, Unit
from leptonc.ir.types import TensorType
from leptonc.runtime.caches import Caches, read_caches

FREE = (Constant, Full)  # ops of a body that never run: they are data


@dataclass(frozen=True)
class Options:
    """What steers lowering besides the program itself.

    ``retreat`` maps the name of a unit to the reason why it must run through torch, ``answers``
    the key of a question to its answer; ``caches`` are the machine's unless given. With
    ``as_laid_out``, inputs and outputs lie in memory as the layouts of their types say, not
    row-major. ``ranges``: of codes that come from outside.
    """

    threads: int = 1
    precision: str = "fp32"
    retreat: Mapping[str, str] | None = None
    caches: Caches | None = None
    answers: Mapping[str, Answer] = field(default_factory=dict[str, Answer])
    as_laid_out: bool = False
    ranges: Mapping[Value, Range] = field(default_factory=dict[Value, Range])

    def reuse_of(self, fn: Function) -> Reuse:
        """Return how far apart two calls of ``fn`` use the same weights."""
        return reuse(fn, self.precision, self.caches or read_caches())

    def outside(self, value: Value) -> TensorType:
        """Return the type under which the caller hands over an input or output."""
        return value.type if self.as_laid_out else value.type.logical()


def schedule(fn: Function, pool: ConstPool, options: Options) -> Schedule:
    """Return the schedule of ``fn``, whose ops are all units and whose sizes are all ints.

    Raises:
        ClaimError: an op that is no unit.
    """
    ctx = Lowering(
        pool, options.threads, options.precision, options.reuse_of(fn), answers=options.answers
    )
    ctx.ranges.update(ranges_of(fn.ops, options.ranges))
    inputs = tuple(
        dense(Buffer("input", 0, i, v.hint), options.outside(v)) for i, v in enumerate(fn.params)
    )
    ctx.views.update(zip(fn.params, inputs, strict=True))
    outputs = tuple(
        dense(Buffer("output", 0, i), options.outside(v)) for i, v in enumerate(fn.returns)
    )
    made = {v for op in fn.ops for v in op.results}
    direct: dict[Value, View] = {}
    for v, view in zip(fn.returns, outputs, strict=True):
        if v in made and options.outside(v).layout == v.type.layout:
            direct.setdefault(v, view)
    ctx.data.update({op.result: op for op in fn.ops if isinstance(op.kind, FREE)})
    todo, stretches = _stretches(fn, options)
    units: list[UnitInfo] = []
    uncut = [op for s in stretches if s.parts == 1 for op in todo[s.first : s.stop]]
    direct.update(joined(ctx, uncut, fn.producer, direct))
    direct.update(spaced(ctx, uncut, todo, {*direct, *fn.returns}))
    for stretch in stretches:
        if stretch.parts == 1:
            units.extend(_lower_whole(ctx, todo, stretch, direct, options))
        else:
            units.extend(_lower_parts(ctx, todo, stretch, direct, fn.returns, options))
    ctx.makers = ctx.data
    for v, view in zip(fn.returns, outputs, strict=True):
        if ctx.view(v).buffer is not view.buffer:
            copy_view(ctx, ctx.view(v), view)
    near = (options.caches or read_caches()).l2 * options.threads
    steps, plan, offsets = laid_out(ctx.steps, options.threads, near, not options.as_laid_out)
    made = Schedule(
        name=fn.name,
        steps=tuple(steps),
        units=tuple(units),
        inputs=inputs,
        outputs=outputs,
        consts=tuple(pool.arrays),
        offsets=offsets,
        arena_bytes=plan.total,
        lower_bound=plan.lower_bound,
        sum_bytes=plan.sum,
        threads=options.threads,
        errors=tuple(ctx.errors),
    )
    pool.trim()
    return made


def lowered_ops(fn: Function, options: Options) -> list[Op]:
    """Return the units that a schedule lowers; those of a part of the batch count once."""
    todo, stretches = _stretches(fn, options)
    found: list[Op] = []
    for s in stretches:
        found.extend(todo[s.first : s.stop] if s.parts == 1 else s.part_ops()[0])
    return found


def _stretches(fn: Function, options: Options) -> tuple[list[Op], list[batch.Stretch]]:
    """Return the ops that run, and the stretches of the batch that they fall into."""
    todo = [op for op in fn.ops if not isinstance(op.kind, FREE)]
    fixed = {op.kind.name for op in todo if isinstance(op.kind, Unit) and _why_torch(op, options)}
    return todo, batch.plan(todo, fn.returns, options.caches or read_caches(), fixed)


def _lower_whole(
    ctx: Lowering,
    todo: Sequence[Op],
    stretch: batch.Stretch,
    direct: Mapping[Value, View],
    options: Options,
) -> list[UnitInfo]:
    """Lower units one after another."""
    span = range(stretch.first, stretch.stop)
    return [_lower_unit(ctx, i, todo[i], direct, options) for i in span]


def _lower_parts(
    ctx: Lowering,
    todo: Sequence[Op],
    stretch: batch.Stretch,
    direct: Mapping[Value, View],
    returns: Sequence[Value],
    options: Options,
) -> list[UnitInfo]:
    """Lower all units for the first part of the leading axis, then all for the next, and so on.

    What is read behind the stretch or returned is stored whole, each part writing its slice.
    """
    span = range(stretch.first, stretch.stop)
    inside = {id(todo[i]) for i in span}
    made = [v for i in span for v in todo[i].results]
    later = {v for op in todo if id(op) not in inside for v in op.operands}.union(returns)
    whole = {v: direct.get(v) or ctx.new(v) for v in made if v in later or v in direct}
    infos: list[UnitInfo] = []
    runs: list[tuple[Run, ...]] = [()] * len(span)
    ops, small = stretch.part_ops()
    producer = {r: op for op in ops for r in op.results}
    for index in range(stretch.parts):
        targets = {small[v]: _slice_of(w, index, stretch.parts) for v, w in whole.items()}
        places = {**targets, **joined(ctx, ops, producer, targets)}
        places.update(spaced(ctx, ops, ops, places))
        for v, piece in small.items():
            if piece not in producer:
                ctx.views[piece] = _slice_of(ctx.view(v), index, stretch.parts)
        infos = [_lower_unit(ctx, i, op, places, options) for i, op in zip(span, ops, strict=True)]
        runs = [(*before, *info.runs) for before, info in zip(runs, infos, strict=True)]
        for piece, target in targets.items():
            if not ctx.view(piece).is_same(target):
                copy_view(ctx, ctx.view(piece), target)
    ctx.views.update(whole)
    rows = zip(span, infos, runs, strict=True)
    return [replace(info, op=todo[i], runs=mine) for i, info, mine in rows]


def _slice_of(view: View, index: int, parts: int) -> View:
    size = view.shape[0] // parts
    return view.slice(0, index * size, (index + 1) * size)


def _lower_unit(
    ctx: Lowering, index: int, op: Op, direct: Mapping[Value, View], options: Options
) -> UnitInfo:
    unit = op.kind
    if not isinstance(unit, Unit):
        raise ClaimError(f"{unit.NAME} at {op.origin} is outside any unit: run partition first")
    body = unit.body
    ctx.unit, ctx.note, ctx.decisions = index, unit.name, []
    ctx.makers = {**ctx.data, **body.producer}
    ctx.outputs = {
        inner: direct[outer]
        for inner, outer in zip(body.returns, op.results, strict=True)
        if outer in direct
    }
    _enter(ctx, op, body)
    operands = tuple(ctx.view(p) for p in body.params)
    why = _why_torch(op, options)
    count = sum(not isinstance(o.kind, FREE) for o in body.ops)
    mark = len(ctx.steps)
    if why:
        _through_torch(ctx, body, why)
    else:
        try:
            _lower_body(ctx, unit)
        except ClaimError as e:  # a lowering may still refuse what only sizes and strides show
            del ctx.steps[mark:], ctx.decisions[:]
            why = str(e)
            _through_torch(ctx, body, why)
    for inner, outer in zip(body.returns, op.results, strict=True):
        ctx.views[outer] = ctx.view(inner)
    for v in (*body.params, *body.producer):
        ctx.views.pop(v, None)
        ctx.ranges.pop(v, None)
    native = 0 if why else count
    results = tuple(ctx.view(v) for v in op.results)
    return UnitInfo(
        op,
        unit.name,
        unit.pattern,
        native_ops=native,
        torch_ops=count - native,
        reason=why or "",
        decisions=tuple(ctx.decisions),
        runs=(Run(op, mark, len(ctx.steps), operands, results),),
    )


def _enter(ctx: Lowering, op: Op, body: Function) -> None:
    """Make known to ``body`` where the operands of its unit lie, and which codes they hold."""
    for inner, outer in zip(body.params, op.operands, strict=True):
        ctx.views[inner] = ctx.view(outer)
    ctx.ranges.update(inside(op, body, ctx.ranges))


def _why_torch(op: Op, options: Options) -> str:
    """Return why a unit must run through torch, "" if it need not."""
    unit = op.kind
    assert isinstance(unit, Unit)
    return (options.retreat or {}).get(unit.name) or refusal(unit.body)


def _through_torch(ctx: Lowering, body: Function, why: str) -> None:
    """Add a torch step; torch has no negative strides, so flipped operands are copied."""
    views = [ctx.view(p) for p in body.params]
    plain = [contiguous(ctx, v) if min(v.strides, default=0) < 0 else v for v in views]
    ctx.torch(body, plain, body.returns, why)


def refusal(body: Function) -> str:
    """Return why ``body`` cannot run natively, or "" if every op of it is claimed."""
    for op in body.ops:
        answer = YES if isinstance(op.kind, FREE) else claim(op)
        if isinstance(answer, No):
            return answer.reason
    return ""


def claim(op: Op) -> Claim:
    """Return whether ``op`` runs natively."""
    if isinstance(op.kind, TorchOp):
        return No(f"{op.kind.target} has no kernel")
    entry = LOWER.get(type(op.kind))
    return No(f"{op.kind.NAME} has no kernel") if entry is None else entry[0](op)


def _lower_body(ctx: Lowering, unit: Unit) -> None:
    whole = UNITS.get(unit.pattern)
    if whole is not None and whole(ctx, unit.body):
        return
    for op in unit.body.ops:
        if not isinstance(op.kind, FREE):
            LOWER[type(op.kind)][1](ctx, op)
