"""compress > road: recipes applied in order; a module raised from the result; the ledger."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from leptonc import api, meaning
from leptonc.capture import Captured
from leptonc.compress.ledger import Entry, Ledger, constant_bytes
from leptonc.compress.raised import Raised, constants, names_of
from leptonc.compress.recipe import (
    Calibration,
    CompressError,
    Context,
    Edit,
    Recipe,
    relative_error,
)
from leptonc.cost.flops import op_cost
from leptonc.errors import InputError
from leptonc.ir.core import Function
from leptonc.ir.kinds.data import Constant
from leptonc.ir.specialize import specialize
from leptonc.ir.verify import verify
from leptonc.rewrite.trace import Remark

# What the estimate of the ledger counts on: floating-point operations and bytes a second of a core.
ASSUMED_FLOPS, ASSUMED_BYTES = 60e9, 12e9
Timer = Callable[[Captured, Sequence[Tensor]], float]  # ms of one run, compiled


class Compressed(Raised):
    """What ``leptonc.compress`` returns: a module raised from IR, with the ledger of its steps.

    Attributes:
        ledger: every lossy step, each undoable.
        remarks: what recipes left alone, and why.
    """

    ledger: Ledger
    remarks: tuple[Remark, ...]

    def _repr_html_(self) -> str:
        """Return the ledger as a table, for notebooks."""
        return self.ledger._repr_html_()


@dataclass(frozen=True)
class _Step:
    """One planned edit and who planned it."""

    recipe: Recipe
    edit: Edit


@dataclass(frozen=True)
class _Job:
    """One compression: the original, what its steps are measured on, and how times are taken."""

    captured: Captured
    samples: tuple[tuple[Tensor, ...], ...]
    reference: tuple[tuple[Tensor, ...], ...]
    timer: Timer | None
    context: Context

    def error(self, fn: Function) -> float:
        """Return the relative error of ``fn`` on the samples."""
        found = [t for batch in self.samples for t in meaning.run(fn, *batch)]
        return relative_error(found, [t for ts in self.reference for t in ts])


def compress(
    captured: Captured,
    recipes: Sequence[Recipe],
    example: Sequence[Tensor],
    data: Iterable[Any] | None,
    *,
    seed: int = 0,
    timer: Timer | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Compressed:
    """Return ``captured`` after all ``recipes``, as a module with its ledger.

    Args:
        captured: the model.
        recipes: applied in order; each plans on what the ones before it left.
        example: operands of the Function; errors are measured on them where there is no data.
        data: calibration inputs: tensors, tuples or dicts as the model takes them (a label behind
            the inputs is dropped), or None.
        seed: of what recipes draw.
        timer: measures a program in ms; for ``ledger.measure``.
        progress: told what is going on.

    Raises:
        CompressError: no recipe, wrong data, or a recipe that cannot be applied.
    """
    if not recipes:
        raise CompressError("no recipe given: e.g. leptonc.compress(model, x, Prune(0.5))")
    batches = () if data is None else batches_of(captured, data)
    calibration = Calibration(batches, progress) if batches else None
    sizes = meaning.bind_dims(captured.function, [tuple(t.shape) for t in example])
    context = Context(calibration, seed=seed, captured=captured, sizes=sizes)
    samples = batches[:1] or (tuple(example),)
    reference = tuple(meaning.run(captured.function, *batch) for batch in samples)
    job = _Job(captured, samples, reference, timer, context)
    fn, steps = captured.function, list[_Step]()
    entries = list[Entry]()
    for recipe in recipes:
        planned = [_Step(recipe, edit) for edit in recipe.plan(fn, context)]
        fn, done = _made(job, fn, planned, entries, progress)
        steps += done
        context = dataclasses.replace(context, trains=_trains(steps))
    return _finished(job, fn, steps, entries)


def _made(
    job: _Job,
    fn: Function,
    steps: Sequence[_Step],
    entries: list[Entry],
    progress: Callable[[str], None] = lambda text: None,
    again: bool = False,
) -> tuple[Function, list[_Step]]:
    """Return ``fn`` after ``steps``, and those that changed it, with an entry for each.

    With ``again`` a step that fits no more (its unit has its old shape back) is planned anew.
    """
    done = list[_Step]()
    for step in steps:
        name = type(step.recipe).__name__
        progress(f"{name}: {step.edit.where}")
        after = step.edit.make(fn)
        if after is fn and again and (other := _planned_anew(job, fn, step)) is not None:
            step, after = other, other.edit.make(fn)
        if after is fn:
            continue
        verify(after)
        error, before = job.error(after), entries[-1].error if entries else 0.0
        slow, fast = (estimated_ms(f, job.context.sizes) for f in (fn, after))
        entries.append(
            Entry(
                len(entries), name, step.edit.where, step.edit.what, constant_bytes(fn),
                constant_bytes(after), slow, fast, error, error - before,
            )
        )  # fmt: skip
        fn = after
        done.append(step)
    return fn, done


def _planned_anew(job: _Job, fn: Function, step: _Step) -> _Step | None:
    """Return the step of the same recipe on the same unit, for ``fn`` as it is now."""
    context = dataclasses.replace(job.context, remarks=[], choices=[])
    try:
        found = [e for e in step.recipe.plan(fn, context) if e.where == step.edit.where]
    except CompressError:  # nothing is left to do for it
        return None
    same = [e for e in found if e.what == step.edit.what]
    return _Step(step.recipe, (same or found)[0]) if found else None


def _trains(steps: Sequence[_Step]) -> frozenset[str]:
    return frozenset(name for step in steps for name in step.edit.trains)


def _finished(
    job: _Job, fn: Function, steps: Sequence[_Step], entries: Sequence[Entry]
) -> Compressed:
    parameters = job.captured.parameters | _trains(steps)
    made = Compressed(dataclasses.replace(job.captured, function=fn, parameters=parameters))
    made.remarks = tuple(job.context.remarks)

    def without(index: int) -> Compressed:
        left, anew = [s for i, s in enumerate(steps) if i != index], list[Entry]()
        base, done = _made(job, job.captured.function, left, anew, again=True)
        other = _finished(job, base, done, anew)
        _keep_trained(made, other)
        return other

    def timed(entries: Sequence[Entry]) -> Sequence[Entry]:
        if job.timer is None:
            raise CompressError("this ledger has nothing to measure times with")
        at, found = job.captured.function, list[Entry]()
        before = job.timer(dataclasses.replace(job.captured, function=at), job.samples[0])
        for step, entry in zip(steps, entries, strict=True):
            at = step.edit.make(at)
            after = job.timer(dataclasses.replace(job.captured, function=at), job.samples[0])
            found.append(dataclasses.replace(entry, ms_before=before, ms_after=after))
            before = after
        return found

    made.ledger = Ledger(tuple(entries), without, timed, tuple(job.context.choices))
    return made


def _keep_trained(source: Raised, target: Raised) -> None:
    """Copy what was trained in ``source`` to the values of the same name and shape."""
    planned = {
        name: op.kind.const
        for op in constants(source._captured.function)
        if isinstance(op.kind, Constant)
        and (name := names_of(source._captured.function)[op.result])
    }
    held, now = source.state_dict(), target.state_dict()
    with torch.no_grad():
        for name, tensor in held.items():
            if name not in now or now[name].shape != tensor.shape:
                continue
            if not torch.equal(tensor, meaning.tensor_of(planned[name])):
                now[name].copy_(tensor)


def batches_of(captured: Captured, data: Iterable[Any]) -> tuple[tuple[Tensor, ...], ...]:
    """Return calibration data as operands of the Function, a tuple a batch.

    Raises:
        CompressError: empty data, inputs that do not fit the model, NaN or infinities.
    """
    found: list[tuple[Tensor, ...]] = []
    for i, item in enumerate(data):
        tensors = _operands(captured, item, i)
        for t in tensors:
            if t.is_floating_point() and not torch.isfinite(t).all():
                raise CompressError(f"calibration data: batch {i} holds NaN or infinities")
        found.append(tensors)
    if not found:
        raise CompressError("calibration data: it is empty; pass at least one batch of inputs")
    return tuple(found)


def _operands(captured: Captured, item: Any, index: int) -> tuple[Tensor, ...]:
    """Return one item of a loader as operands; labels behind the inputs are dropped."""
    if isinstance(item, dict):
        tries: list[tuple[tuple[Any, ...], dict[str, Any]]] = [((), dict(item))]
    else:
        args = tuple(item) if isinstance(item, (tuple, list)) else (item,)
        tries = [(args[:n], {}) for n in range(len(args), 0, -1)]
    why = ""
    for args, kwargs in tries:
        try:
            tensors = captured.tensors(captured.flatten(args, kwargs))
            meaning.bind_dims(captured.function, [tuple(t.shape) for t in tensors])
            return tuple(t.detach().contiguous() for t in tensors)
        except InputError as e:
            why = str(e)
    raise CompressError(
        f"calibration data: batch {index} does not fit the model: {why}; "
        "give batches of the example's shape"
    )


def estimated_ms(fn: Function, sizes: Mapping[str, int]) -> float:
    """Return the milliseconds of one run, the sum of rooflines of its ops on an assumed core.

    ``sizes`` are those of what is dynamic.
    """
    ms = 0.0
    for op in specialize(fn, sizes).ops:
        cost = op_cost(op)
        if not isinstance(cost.flops, int) or not isinstance(cost.bytes, int):
            return float("nan")
        ms += 1e3 * max(cost.flops / ASSUMED_FLOPS, cost.bytes / ASSUMED_BYTES)
    return ms


def median_ms(captured: Captured, inputs: Sequence[Tensor], seconds: float = 0.3) -> float:
    """Return the median milliseconds of a call of ``captured``, compiled, on its operands."""
    leaves = [None if s.param is None else inputs[s.param] for s in captured.inputs]
    made = Raised(captured)
    args, kwargs = pytree.tree_unflatten(leaves, captured.in_spec)
    net = api.compile(made, kwargs or args, verify="off", cache=False)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        net(*args, **kwargs)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)
