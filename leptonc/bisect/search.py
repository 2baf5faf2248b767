"""Bisect > search: from the symptom to the pass, the rewrite or the unit, and to a small program.

The road: is there a symptom at all; does the captured program compute what the model does; which
pass makes a right program wrong; which rewrite in it; else which unit computes its body wrong; else
which units do so together. Whatever is guilty is then cut down to the smallest program that fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from leptonc import check, meaning
from leptonc.bisect.by_pass import Rewrite, first_difference, guilty_rewrite, guilty_step
from leptonc.bisect.by_unit import Miss, misses, recovering
from leptonc.bisect.case import case_of, file_text, native_problem, pass_problem
from leptonc.bisect.judge import ByMetric, ByValue, Judge, Metric
from leptonc.bisect.shrink import Program, Shrinker
from leptonc.bisect.slices import unit_alone, work_of
from leptonc.bisect.subject import Subject
from leptonc.bisect.verdict import Verdict
from leptonc.errors import CheckError
from leptonc.ir.core import NOWHERE, Function, Op, Origin
from leptonc.ir.kinds.region import TorchOp, Unit
from leptonc.ir.specialize import specialize
from leptonc.ir.text import dump
from leptonc.passes import pipeline as passes_of
from leptonc.pipeline import PassManager, Recorder, Step
from leptonc.rewrite.trace import describe


def bisect(s: Subject, metric: Metric | None = None, drop: float = 0.0) -> Verdict:
    """Return who makes the compiled results differ from eager's.

    Args:
        s: what to look at.
        metric: what to judge results by, more is better; by default every element counts.
        drop: how much lower than eager's the metric may be.
    """
    random = next((o for o in s.function.ops if _is_random(o)), None)
    if random is not None:
        why = "it draws random numbers: no two results are the same, and nothing can be compared"
        return Verdict(s.name, "random", op=describe(random), origin=random.origin, why=why)
    if metric is None and check.surely_within(s.eager, s.compiled, s.native.precision):
        return _innocent(s, _distance(s))
    judge = _judge(s, metric, drop)
    if isinstance(judge, Verdict):
        return judge
    symptom = judge(s.compiled)
    if symptom is None:
        return _innocent(s, _figures(judge, s))
    recorder = Recorder()
    final = PassManager(passes_of(s.pipeline), (recorder,)).run(s.function)
    step = guilty_step(recorder.steps, s.inputs, judge)
    verdict = Verdict(s.name, "unknown", symptom=f"differs from eager: {symptom}")
    if step is not None:
        return _pass(s, verdict, step, len(recorder.steps), judge)
    return _units(s, verdict, _static(final, s.inputs), judge)


def _is_random(op: Op) -> bool:
    return isinstance(op.kind, TorchOp) and not op.kind.pure


def _static(fn: Function, inputs: Sequence[Tensor]) -> Function:
    return specialize(fn, meaning.bind_dims(fn, [t.shape for t in inputs]))


# ----- the symptom --------------------------------------------------------------------------------


def _judge(s: Subject, metric: Metric | None, drop: float) -> ByValue | ByMetric | Verdict:
    """Return what tells right from wrong, or that the captured program is wrong already."""
    try:
        if metric is None:
            precision = s.native.precision
            return ByValue(check.model_reference(s.function, s.inputs, s.eager, precision))
        judge = ByMetric(metric, s.restore, float(metric(s.restore(s.eager))), drop)
        wrong = judge(meaning.run(s.function, *s.inputs))
    except CheckError as e:
        return Verdict(s.name, "capture", symptom=str(e), why="capture is guilty, no pass or unit")
    if wrong is not None:
        why = "capture is guilty: no pass has run yet"
        return Verdict(s.name, "capture", symptom=f"the captured program: {wrong}", why=why)
    return judge


def _distance(s: Subject) -> str | None:
    """Return how far the results are from eager's; None if they are the same bits."""
    if all(a.equal(b) for a, b in zip(s.eager, s.compiled, strict=True)):
        return None
    pairs = [(a, b) for a, b in zip(s.eager, s.compiled, strict=True) if a.is_floating_point()]
    far = max((float((a.double() - b.double()).abs().nan_to_num().max()) for a, b in pairs
               if a.numel()), default=0.0)  # fmt: skip
    return f"they differ by {far:.3g} at most, which is a few roundings"


def _figures(judge: ByValue | ByMetric, s: Subject) -> str | None:
    if isinstance(judge, ByMetric):
        got = judge.of(s.compiled)
        return f"the metric is {got:.6g}, eager's is {judge.want:.6g}, drop allowed {judge.drop:g}"
    if (far := judge.largest(s.compiled)) is None:
        return None
    return (
        f"{far}; eager's own error against float64 is {far.tolerance / judge.reference.factor:.3g}"
    )


def _innocent(s: Subject, figures: str | None) -> Verdict:
    """Return that nothing is wrong, unless units had to be sent through torch for that."""
    if s.retreat:
        recorder = Recorder()
        final = PassManager(passes_of(s.pipeline), (recorder,)).run(s.function)
        found = misses(_static(final, s.inputs), s.inputs, s.native, s.retreat)
        if found:
            text = "agrees with eager, but only because units run through torch"
            return _unit(s, Verdict(s.name, "unit", symptom=text), found)
    if figures is None:
        return Verdict(s.name, "same", why="nothing differs: the same bits as eager")
    why = f"differs from eager within the tolerance, nothing is guilty: {figures}"
    return Verdict(s.name, "within", why=why)


# ----- a pass -------------------------------------------------------------------------------------


def _pass(s: Subject, verdict: Verdict, step: Step, count: int, judge: Judge) -> Verdict:
    rewrite = guilty_rewrite(step, s.inputs, judge)
    differs = None if rewrite and rewrite.op else first_difference(step, s.inputs, _precision(s))
    op = rewrite.op if rewrite and rewrite.op else differs
    verdict = replace(
        verdict, found="pass", pass_=step.name, place=(step.index + 1, count),
        op=describe(op) if op else "", origin=op.origin if op else NOWHERE,
    )  # fmt: skip
    if rewrite is not None:
        verdict = replace(
            verdict, rule=rewrite.rule, why=rewrite.reason,
            application=(rewrite.number, rewrite.total),
        )  # fmt: skip
    shrinker = Shrinker(lambda fn, given: _pass_fails(s, step, fn, given))
    program = _region(shrinker, s, step, rewrite, op)
    if program is None:
        note = "each value is within its tolerance: only the metric tells, no test is written"
        return replace(verdict, why=f"{verdict.why}; {note}" if verdict.why else note)
    name = f"{step.pass_.NAME}_keeps_what_a_program_computes"
    return _shown(s, verdict, shrinker.all(program), name, len(work_of(step.before)))


def _precision(s: Subject) -> str:
    return s.native.precision


def _pass_fails(s: Subject, step: Step, fn: Function, given: Sequence[Tensor]) -> bool:
    return pass_problem(fn, given, (step.pass_,), _precision(s)) is not None


def _region(
    shrinker: Shrinker, s: Subject, step: Step, rewrite: Rewrite | None, op: Op | None
) -> Program | None:
    """Return a part of the pass's input, or of its input after other rewrites, that fails."""
    bases = [step.before] if rewrite is None else [rewrite.before, step.before]
    for base in bases:
        fn = _static(base, s.inputs)
        here = None if op is None else _at(op, base, fn)
        if (found := shrinker.region(fn, s.inputs, here)) is not None:
            return found
    return None


def _at(op: Op, base: Function, static: Function) -> Op | None:
    """Return ``op`` of ``base`` in its specialization, which has the ops in the same order."""
    place = next((i for i, o in enumerate(base.ops) if o.results == op.results), None)
    return None if place is None else static.ops[place]


# ----- units --------------------------------------------------------------------------------------


def _units(s: Subject, verdict: Verdict, fn: Function, judge: ByValue | ByMetric) -> Verdict:
    native = {_name(op) for op in fn.ops} - set(s.retreat)
    found = misses(fn, s.inputs, s.native, native)
    if isinstance(judge, ByMetric):
        suspects = [_name(m.op) for m in found]
        names = recovering(fn, s.inputs, s.native, judge, suspects, s.retreat)
        found = [m for m in found if _name(m.op) in names]
        if names and not found:
            return _only_metric(verdict, fn, names)
    if found:
        return _unit(s, replace(verdict, found="unit"), found)
    shrinker = Shrinker(lambda f, given: native_problem(f, given, s.native) is not None)
    if not shrinker.holds(fn, s.inputs):
        why = "compiled afresh it computes what eager does: no pass and no unit is guilty now"
        return replace(verdict, why=why)
    cut = shrinker.ops((fn, s.inputs))
    units = [op for op in cut[0].ops if isinstance(op.kind, Unit)]
    verdict = replace(
        verdict, found="units", unit=", ".join(map(_name, units)), origin=_origin(units[-1]),
        why="each unit is right alone; together they are not (the schedule or the arena)",
    )  # fmt: skip
    steps = (shrinker.returns, shrinker.sizes, shrinker.data)
    for step in steps:
        cut = step(cut)
    return _shown(s, verdict, cut, "units_compute_together_what_they_say", len(work_of(fn)))


def _unit(s: Subject, verdict: Verdict, found: Sequence[Miss]) -> Verdict:
    """Return the verdict on the first unit that misses."""
    miss, others = found[0], [_name(m.op) for m in found[1:]]
    kind = miss.op.kind
    assert isinstance(kind, Unit)
    also = f"; units that miss too: {', '.join(others)}" if others else ""
    verdict = replace(
        verdict, unit=f"{kind.name} ({kind.pattern})", origin=_origin(miss.op),
        why=f"its native result misses the reference on its true operands ({miss.why}){also}",
    )  # fmt: skip
    program = unit_alone(miss.op), miss.operands
    shrinker = Shrinker(lambda fn, given: native_problem(fn, given, s.native) is not None)
    if not shrinker.holds(*program):
        return verdict
    small = shrinker.all(program)
    body = next(op.kind.body for op in small[0].ops if isinstance(op.kind, Unit))
    last = work_of(body)[-1]
    verdict = replace(verdict, op=describe(last))
    if last.origin != NOWHERE:
        verdict = replace(verdict, origin=last.origin)
    return _shown(s, verdict, small, f"{kind.pattern or 'unit'}_is_computed_right", _size(miss.op))


def _only_metric(verdict: Verdict, fn: Function, names: Sequence[str]) -> Verdict:
    units = [op for op in fn.ops if _name(op) in names]
    why = (
        "every unit is within its tolerance alone; the metric recovers when "
        + ("this one runs" if len(names) == 1 else "these run") + " through torch"
    )  # fmt: skip
    return replace(verdict, found="unit", unit=", ".join(names), origin=_origin(units[0]), why=why)


def _name(op: Op) -> str:
    return op.kind.name if isinstance(op.kind, Unit) else op.kind.NAME


def _origin(op: Op) -> Origin:
    """Return where a unit comes from: its own origin or that of its last op that has one."""
    body = op.kind.body.ops if isinstance(op.kind, Unit) else ()
    known = [o.origin for o in (*body, op) if o.origin != NOWHERE]
    return known[-1] if known else NOWHERE


def _size(op: Op) -> int:
    return len(work_of(op.kind.body)) if isinstance(op.kind, Unit) else 1


# ----- the smallest program -----------------------------------------------------------------------


def _shown(s: Subject, verdict: Verdict, program: Program, name: str, ops: int) -> Verdict:
    """Return the verdict with a program, its figures and its test file."""
    fn, inputs = program
    passes = verdict.pass_
    if passes:
        bad = pass_problem(fn, inputs, passes_of(passes), _precision(s))
    else:
        bad = native_problem(fn, inputs, s.native)
    assert bad is not None  # the shrinker holds every program to it
    units = [op.kind for op in fn.ops if isinstance(op.kind, Unit)]
    left = sum(len(work_of(u.body)) for u in units) if len(units) == 1 else len(work_of(fn))
    verdict = replace(
        verdict, error=bad.error, tolerance=bad.tolerance, ir=dump(fn), ops=(left, max(left, ops))
    )
    case = case_of(fn, inputs, passes, s.native)
    about = [
        f"What leptonc bisect found in {s.name}: fails while the fault is there.",
        "",
        *(line.strip() for line in verdict.headline),
        f"error {bad.error:.3g}, tolerance {bad.tolerance:.3g}",
    ]
    return replace(verdict, test=file_text(case, about, name.replace("-", "_")))
