"""The self-check of a compile: passes, units and the whole program against the reference.

Three questions, each about something smaller than the one before. Does the program give what the
model gives (:func:`whole`)? Does each pass keep what the captured program computes
(:class:`PassCheck`)? Does each unit, on its own, compute what its body means (:func:`units`)? A
unit that misses retreats to torch, alone; nothing else is repaired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from leptonc import check, inplace, meaning
from leptonc.backends.numba_cpu.runtime import Executable, load
from leptonc.backends.numba_cpu.schedule import Schedule, TorchStep, UnitInfo
from leptonc.backends.numba_cpu.scheduler import Options, schedule
from leptonc.check import Reference, UnitError, differences, furthest, isolate
from leptonc.errors import CheckError, LeptoncError
from leptonc.ir.core import Function, Op, Value
from leptonc.ir.kinds.region import Unit
from leptonc.ir.specialize import specialize
from leptonc.pipeline import Step
from leptonc.probes import EXAMPLE, Probe, probes, resized
from leptonc.rewrite.trace import Remark, RemarkKind
from leptonc.specialization import Specialization, output_types, run_marked

# What torch and Python raise for inputs that an op does not take.
REFUSALS = (RuntimeError, LookupError, ValueError, TypeError, ArithmeticError)
Run = Callable[[Sequence[Tensor]], Sequence[Tensor]]


# ----- the whole program --------------------------------------------------------------------------


def whole(
    spec: Specialization,
    sizes: Mapping[str, int],
    inputs: Sequence[Tensor],
    found: Sequence[Tensor],
) -> Sequence[Tensor]:
    """Hold the program to ``found``, the model's own results on ``inputs``; return its results.

    A program that misses is searched for guilty units, which retreat to torch.

    Raises:
        CheckError: no retreat repairs it; the text names the guilty pass or the unit.
    """

    def results() -> Sequence[Tensor]:
        program = spec.bind(sizes)
        return run_marked(program, inputs, output_types(program))

    got = results()
    if check.surely_within(found, got, spec.precision):
        return got
    fn = spec.captured.function
    ref = check.model_reference(fn, inputs, found, spec.precision)
    if ref.worst(got) is not None:  # a second look, which costs two more runs in float64
        ref = check.conditioned(ref, fn)
    first = ref.worst(got)
    if first is None:
        return got
    if units(spec, sizes, inputs) and ref.worst(got := results()) is None:
        return got
    why = _guilty_pass(spec.stages(), ref)
    if not why:
        plan, static = spec.bind(sizes).schedule, specialize(spec.function, sizes)
        at, why = inplace.search(plan, static, inputs, spec.precision)
        if at is not None:
            _retreat(spec, plan, at, why)
            spec.forget()
            if ref.worst(got := results()) is None:
                return got
    raise CheckError(
        f"{spec.function.name}: the compiled result is not the model's ({first}); {why}"
    )


def _guilty_pass(steps: Sequence[Step], ref: Reference) -> str:
    """Return which pass explains a result that no unit explains, as text; "" if none does."""
    for step in steps:
        if step.changed and (bad := ref.worst(meaning.run(step.after, *ref.inputs))) is not None:
            return f"{_about(step)} changed what the program computes ({bad})"
    return ""


# ----- passes -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PassCheck:
    """Instrument that holds what every pass made to the captured program, on all probes.

    Raises CheckError naming the first pass whose result misses, the probe and the tolerance.
    """

    captured: Function
    probes: Sequence[tuple[str, Reference]]

    @classmethod
    def of(cls, captured: Function, inputs: Sequence[Tensor], precision: str) -> PassCheck:
        """Return the check of a captured program: probes are ``inputs`` and those drawn from it.

        A pipeline may change the sign of a zero, which infinities make visible: none are drawn.
        """
        drawn = [*probes(captured, inputs, skip=("infinities",))]
        drawn += [probe for _, probe in resized(captured, inputs)]
        return cls(captured, tuple(_references(captured, drawn, precision)))

    def __call__(self, step: Step, /) -> None:
        """Compare what ``step`` made."""
        if not step.changed:
            return
        for name, ref in self.probes:
            try:
                got = meaning.run(step.after, *ref.inputs)
            except REFUSALS as e:
                raise CheckError(f"what {_about(step)} made cannot run on {name}: {e}") from e
            if (bad := furthest(differences(ref, self.captured, got))) is not None:
                raise CheckError(
                    f"{_about(step)} changed what {step.after.name} computes, seen on {name}: {bad}"
                )


def _about(step: Step) -> str:
    """Return a pass and the rules that it applied, for messages."""
    rules = ", ".join(f"{rule} {n}x" for rule, n in step.fired.items())
    return f"pass {step.name}" + (f" ({rules})" if rules else "")


# ----- units --------------------------------------------------------------------------------------


def units(
    spec: Specialization, sizes: Mapping[str, int], inputs: Sequence[Tensor], at: str = ""
) -> list[str]:
    """Check every native unit on its own; those that miss retreat. Return their names.

    The probes of a unit are its true operands, from interpreting the program on ``inputs``, and
    what is drawn from them. It runs with the threads, layouts and algorithms of the whole program.
    Errors go to ``spec.errors``, a remark names unit, maker, source line, probe and tolerance, and
    ``at``: which sizes they are.
    """
    fn = specialize(spec.function, sizes)
    plan = spec.bind(sizes).schedule
    own = [op for op in fn.ops if isinstance(op.kind, Unit)]
    index = {op: i for i, op in enumerate(own)}
    guilty: list[str] = []
    for op, operands, results in _interpreted(fn, inputs):
        if op not in index:
            continue
        info = plan.units[index[op]]
        if not info.native_ops or info.name in guilty:
            continue
        run = _native(spec, spec.options(fn), op, info)
        error, why = _verdict(isolate(op), run, operands, results, spec.precision)
        known = spec.errors.get(info.name)
        if known is None or error.ratio > known.ratio:
            spec.errors[info.name] = error
        if why:
            guilty.append(info.name)
            _retreat(spec, plan, index[op], f"{why}{at}")
    if guilty:
        spec.forget()
    return guilty


def at_other_sizes(spec: Specialization, inputs: Sequence[Tensor]) -> None:
    """Check units and the whole program at other sizes that the model declares.

    The reference is the captured program, which the check at the example's sizes held to the model.

    Raises:
        CheckError: as :func:`whole`; the text names the sizes.
    """
    captured = spec.captured.function
    for sizes, probe in resized(captured, inputs):
        try:
            found = meaning.run(captured, *probe.inputs)
        except REFUSALS:
            continue  # what eager refuses, too
        units(spec, sizes, probe.inputs, f", on {probe.name}")
        try:
            whole(spec, sizes, probe.inputs, found)
        except CheckError as e:
            raise CheckError(f"on {probe.name}: {e}") from e


def _retreat(spec: Specialization, plan: Schedule, index: int, why: str) -> None:
    """Let a unit of ``plan`` run through torch from the next program on, and say why."""
    info = plan.units[index]
    text = f"{why}; {_made_by(spec.stages(), plan, index)}"
    spec.retreat[info.name] = text
    reason = f"runs through torch: {text}"
    spec.remarks.append(Remark("check", RemarkKind.MISSED, info.name, reason, info.op.origin))


def _interpreted(
    fn: Function, inputs: Sequence[Tensor]
) -> Iterator[tuple[Op, tuple[Tensor, ...], tuple[Tensor, ...]]]:
    """Yield each op with the operands of its isolated function, each once, and its results."""
    env: dict[Value, Tensor] = dict(zip(fn.params, inputs, strict=True))
    left = dict(fn.use_count)
    for op in fn.ops:
        operands = tuple(env[v] for v in dict.fromkeys(op.operands))
        results = meaning.run(isolate(op), *operands)
        yield op, operands, results
        env.update(zip(op.results, results, strict=True))
        for v in op.operands:
            left[v] -= 1
        for v in (*op.operands, *op.results):
            if not left[v]:
                env.pop(v, None)  # the last reader is done: give the memory back


def _verdict(
    fn: Function,
    run: Run,
    operands: Sequence[Tensor],
    results: Sequence[Tensor],
    precision: str,
) -> tuple[UnitError, str]:
    """Return the largest error of a unit's native program, and what is wrong with it or ""."""
    worst = UnitError(0.0, 0.0, EXAMPLE)
    drawn = probes(fn, operands)
    for name, ref in _references(fn, drawn, precision, results):
        try:
            found = differences(ref, fn, run(ref.inputs))
        except (LeptoncError, IndexError) as e:
            return UnitError(float("inf"), 0.0, name), f"on {name}: {e}"
        errors = [UnitError(d.error, d.tolerance, name) for d in found]
        worst = max([worst, *errors], key=lambda e: e.ratio)
        if (bad := furthest(found)) is not None:
            return worst, f"its native result misses the reference on {name} ({bad})"
    return worst, ""


def _native(spec: Specialization, options: Options, op: Op, info: UnitInfo) -> Run:
    """Return what runs a unit alone as the whole program runs it."""
    decided = {d.question.key: d.answer for d in info.decisions}
    fixed = replace(options, answers={**options.answers, **decided}, as_laid_out=True)
    fn = isolate(op)
    made: list[Executable] = []

    def run(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        if not made:
            made.append(load(schedule(fn, spec.pool, fixed)))
        laid_out = [_physical(t, v) for t, v in zip(inputs, fn.params, strict=True)]
        types = [
            (tuple(shape[a] for a in _axes(v)), dtype)
            for v, (shape, dtype) in zip(fn.returns, output_types(made[0]), strict=True)
        ]
        got = run_marked(made[0], laid_out, types)
        return [_logical(t, v) for t, v in zip(got, fn.returns, strict=True)]

    return run


def _axes(value: Value) -> tuple[int, ...]:
    return value.type.layout or tuple(range(value.type.rank))


def _physical(t: Tensor, value: Value) -> Tensor:
    """Return ``t`` with its axes in the order in which ``value`` lies in memory, dense."""
    return t.permute(_axes(value)).contiguous()


def _logical(t: Tensor, value: Value) -> Tensor:
    """Undo :func:`_physical`."""
    axes = _axes(value)
    return t.permute(sorted(range(len(axes)), key=axes.__getitem__))


def _made_by(steps: Sequence[Step], plan: Schedule, index: int) -> str:
    """Return which passes made a unit of ``plan`` and how it is computed."""
    info, parts = plan.units[index], list[str]()
    if passes := list(dict.fromkeys(_makers(steps, info.name))):
        parts.append(f"made by {', '.join(passes)}")
    parts.append(f"pattern {info.pattern or 'none'}")
    mine = (s for s in plan.steps if s.unit == index and not isinstance(s, TorchStep))
    kernels = dict.fromkeys(s.kernel.name for s in mine)
    parts.append(f"kernels {', '.join(kernels) or 'none'}")
    parts += [f"{d.question.about}: {d.answer.chosen}" for d in info.decisions]
    return "; ".join(parts)


def _makers(steps: Sequence[Step], name: str) -> Iterator[str]:
    """Yield the passes that made or remade the unit of a name."""
    for step in steps:
        if step.changed:
            before = set(step.before.ops)
            made = (op for op in step.after.ops if op not in before)
            if any(isinstance(op.kind, Unit) and op.kind.name == name for op in made):
                yield step.pass_.NAME


# ----- probes and tolerances ----------------------------------------------------------------------


def _references(
    fn: Function,
    drawn: Iterable[Probe],
    precision: str,
    results: Sequence[Tensor] | None = None,
) -> Iterator[tuple[str, Reference]]:
    """Yield the reference on each probe; one that the reference itself refuses is no probe."""
    for probe in drawn:
        given = probe.name == EXAMPLE
        try:
            plain = results if given else None
            yield probe.name, check.reference(fn, probe.inputs, precision, plain)
        except REFUSALS:
            if given:
                raise
