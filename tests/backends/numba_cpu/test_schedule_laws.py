"""Laws of schedules, on drawn networks: memory, order, and that no legal interleaving shows.

Some are read off the tables (nothing live overlaps, every read comes after its write and a
barrier), the others are run, task by task, by the simulated scheduler of ``interleave``.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from unittest.mock import patch

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from strategies.inputs import inputs
from strategies.models import models
from strategies.orders import reordered
from strategies.replay import assert_near

from leptonc import meaning
from leptonc.backends.numba_cpu import arena, batch, memory
from leptonc.backends.numba_cpu.arena import SCRATCH
from leptonc.backends.numba_cpu.context import Step as NativeStep
from leptonc.backends.numba_cpu.context import phases
from leptonc.backends.numba_cpu.lower.choices import Answer
from leptonc.backends.numba_cpu.lower.core import ConstPool
from leptonc.backends.numba_cpu.owners import Claim, Offsets
from leptonc.backends.numba_cpu.runtime import Executable, load
from leptonc.backends.numba_cpu.schedule import Schedule, Step
from leptonc.backends.numba_cpu.scheduler import Options, schedule
from leptonc.backends.numba_cpu.views import Buffer, Ref
from leptonc.compiled import output_types, run_program
from leptonc.compiler import optimize
from leptonc.ir.core import Function
from leptonc.ir.specialize import specialize
from leptonc.passes.fusing import bands
from leptonc.runtime.caches import Caches
from tests.backends.numba_cpu.interleave import POISON, Simulation, lifetimes, mentioned, orders
from tests.passes.nets import resnet, transformer

pytestmark = pytest.mark.numba
THREADS = (1, 2, 3, 5)
# One example is a whole compile and many runs: a share of the profile's examples is enough.
FEW = settings(max_examples=max(10, settings.default.max_examples // 2))  # type: ignore[union-attr]


TINY = Caches(l2=1 << 8, l3=1 << 12)  # nothing fits: images are banded


@dataclass(frozen=True)
class Setup:
    """An optimized function, inputs for it, and what steers its lowering besides the threads.

    With ``caches`` of its own it cuts every batch that may be cut, whatever that costs.
    """

    fn: Function
    args: tuple[torch.Tensor, ...]
    caches: Caches | None = None
    answers: Mapping[str, Answer] = field(default_factory=dict[str, Answer])

    def plan(self, threads: int) -> Schedule:
        sizes = meaning.bind_dims(self.fn, [t.shape for t in self.args])
        options = Options(threads=threads, caches=self.caches, answers=self.answers)
        if self.caches is None:
            return schedule(specialize(self.fn, sizes), ConstPool(), options)
        with patch.object(batch, "_cost", lambda op, parts, *rest: -float(parts)):
            return schedule(specialize(self.fn, sizes), ConstPool(), options)


@st.composite
def setups(draw: st.DrawFn, source: Function, pipes: Sequence[str] = ("O2",)) -> Setup:
    """Draw inputs, a machine, and any of the candidates for every choice that lowering has."""
    small = draw(st.booleans())
    with patch.object(bands, "CACHE_BYTES", TINY.l2 if small else bands.CACHE_BYTES):
        fn = optimize(source, draw(st.sampled_from(pipes)))
    setup = Setup(fn, draw(inputs(source)), TINY if small else None)
    asked = {d.question.key: d.question for u in setup.plan(1).units for d in u.decisions}
    answers = {
        key: Answer(draw(st.sampled_from(question.ranked)), "drawn")
        for key, question in asked.items()
        if len(question.costs) > 1
    }
    return replace(setup, answers=answers)


def planned(fn: Function, args: Sequence[torch.Tensor], threads: int) -> Schedule:
    """Return the schedule of ``fn`` as the compiler makes it."""
    return Setup(optimize(fn, "O2"), tuple(args)).plan(threads)


def bits(results: Sequence[torch.Tensor]) -> list[bytes]:
    return [t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for t in results]


def run(program: Executable, args: Sequence[torch.Tensor]) -> list[bytes]:
    return bits(run_program(program, args, output_types(program)))


def simulation_of(
    program: Executable, args: Sequence[torch.Tensor]
) -> tuple[Simulation, list[torch.Tensor]]:
    """Return one call under the simulated scheduler and its results, poisoned before it runs."""
    results = [torch.empty(shape, dtype=d) for shape, d in output_types(program)]
    for t in results:
        t.reshape(-1).view(torch.uint8).fill_(POISON)
    return Simulation(program.schedule, program.program, args, results), results


def simulated(
    program: Executable, args: Sequence[torch.Tensor], order: int, *, alone: bool
) -> list[bytes]:
    """Return the results of one run under the simulated scheduler."""
    simulation, results = simulation_of(program, args)
    given_ = bits(args)
    simulation.run(orders(order), alone=alone)
    assert bits(args) == given_, "an input was written to"
    return bits(results)


# ----- laws that the tables show ------------------------------------------------------------------


def assert_memory_is_sound(plan: Schedule) -> None:
    """Whatever lives at one step lies apart; every address is declared; all lies in the arena."""
    first, last = lifetimes(plan)
    assert set(first) == set(plan.offsets)
    for i, step in enumerate(plan.steps):
        undeclared = {b for b in mentioned(step) if b.space == "arena"}
        undeclared -= {*step.reads, *step.writes}
        assert not undeclared, f"step {i} ({step.note}) holds addresses that it does not declare"
        live = sorted((plan.offsets[b], b.nbytes) for b in first if first[b] <= i <= last[b])
        for (at, n), (after, _) in itertools.pairwise(live):
            assert at + n <= after, f"two live buffers overlap at step {i} ({step.note})"
        assert all(at % 64 == 0 and at + n <= plan.arena_bytes for at, n in live)


def assert_reads_follow_writes(plan: Schedule) -> None:
    """Every arena buffer is written in an earlier phase than any that reads it."""
    phase, begun = phase_of(plan), dict[object, int]()
    for i, step in enumerate(plan.steps):
        for b in step.reads:
            if b.space == "arena":
                assert b in begun, f"step {i} ({step.note}) reads what nobody wrote: {b.note}"
        for b in step.writes:
            begun.setdefault(b, phase[i])
    users: dict[object, list[tuple[int, int, bool]]] = {}
    for i, step in enumerate(plan.steps):
        for b in {*step.reads, *step.writes}:
            users.setdefault(b, []).append((phase[i], i, b in step.writes))
    for found in users.values():
        for p, i, writes in found:
            rivals = [j for q, j, w in found if q == p and j != i and (w or writes)]
            assert not rivals, f"steps {i} and {rivals} share memory without a barrier between them"


def phase_of(plan: Schedule) -> list[int]:
    """Return the number of the phase of every step; steps of one serial task are a phase each."""
    number, at = 0, list[int]()
    run_: list[NativeStep] = []
    for step in (*plan.steps, None):
        if isinstance(step, Step):
            flags = step.serial * 1 | (not step.barrier) * 2
            run_.append(NativeStep(step.kernel, (), flags))
            continue
        for phase in phases(run_, plan.threads):
            number += 1
            for first, count, share, _ in phase:
                if share == 0:
                    at.extend([number + k for k in range(count)] if len(phase) == 1 else [number])
                    number += count - 1 if len(phase) == 1 else 0
                assert first < len(run_)
        run_ = []
        number += 1
        at.append(number)
    return at[:-1]


def scratch_of(slot: object) -> Buffer | None:
    """Return the buffer of scratch that a slot has an address in."""
    return slot.buffer if isinstance(slot, Ref) and slot.buffer.note == SCRATCH else None


def assert_scratch_is_per_thread(plan: Schedule) -> None:
    """A scratch address stands in front of its stride; each thread has as much of its own."""
    for i, step in enumerate(plan.steps):
        slots = getattr(step, "slots", ())
        areas = [b for b in step.writes if b.note == SCRATCH]
        for s, after in zip(slots, (*slots[1:], None), strict=True):
            if scratch_of(s) is not None:
                assert areas[0] is s.buffer, f"step {i} ({step.note})"
                size = areas[0].nbytes // (1 if len(areas) > 1 else plan.threads)
                assert 0 <= s.byte_offset < size <= after, f"step {i} ({step.note})"
                first = plan.offsets[areas[0]]
                for t, area in enumerate(areas):
                    assert area.nbytes == areas[0].nbytes, f"step {i} ({step.note})"
                    assert plan.offsets[area] == first + t * after, f"step {i} ({step.note})"
                assert len(areas) in (1, plan.threads), f"step {i} ({step.note})"


@given(fn=models(), threads=st.sampled_from(THREADS), data=st.data())
def test_memory_order_and_scratch(fn: Function, threads: int, data: st.DataObject) -> None:
    plan = data.draw(setups(fn, ("O0", "O1", "O2", "O3"))).plan(threads)
    assert_memory_is_sound(plan)
    assert_reads_follow_writes(plan)
    assert_scratch_is_per_thread(plan)


# ----- laws that running shows --------------------------------------------------------------------


@FEW
@given(fn=models(), threads=st.sampled_from(THREADS), order=st.integers(0, 999), data=st.data())
def test_any_interleaving_gives_the_same_bits(
    fn: Function, threads: int, order: int, data: st.DataObject
) -> None:
    setup = data.draw(setups(fn))
    program, alone = load(setup.plan(threads)), load(setup.plan(1))
    want = run(alone, setup.args)
    assert simulated(program, setup.args, order, alone=True) == want
    assert simulated(program, setup.args, order + 1, alone=False) == want
    again = run(program, setup.args)
    assert again == want == run(program, setup.args), "the arena of the call before shows"
    results = run_program(program, setup.args, output_types(program))
    assert_near(fn, setup.args, results)  # whichever candidates were chosen


@FEW
@given(fn=models(), data=st.data())
def test_any_order_of_units_gives_the_same_bits(fn: Function, data: st.DataObject) -> None:
    setup = data.draw(setups(fn))
    plan = replace(setup, fn=data.draw(reordered(setup.fn))).plan(2)
    assert_memory_is_sound(plan)
    assert_reads_follow_writes(plan)
    if setup.caches is None:  # else other stretches of the batch may be cut, for other kernels
        assert run(load(plan), setup.args) == run(load(setup.plan(2)), setup.args)


def test_drawn_networks_are_worth_the_simulation() -> None:
    """Their units run natively, several threads share steps, and small caches cut batches."""
    native = torch_ = shared = 0
    parts, patterns = set[int](), set[str]()

    @settings(max_examples=60, derandomize=True, database=None, phases=[Phase.generate])
    @given(fn=models(), data=st.data())
    def look(fn: Function, data: st.DataObject) -> None:
        nonlocal native, torch_, shared
        setup = data.draw(setups(fn))
        plan = setup.plan(2)
        native += sum(u.native_ops for u in plan.units)
        torch_ += sum(u.torch_ops for u in plan.units)
        parts.update(u.parts for u in plan.units)
        patterns.update(u.pattern for u in plan.units)
        if shared < 20:
            simulation, _ = simulation_of(load(plan), setup.args)
            simulation.run(orders(0))
            shared += simulation.shared

    look()
    assert torch_ < native / 20
    assert shared >= 20
    assert max(parts) > 1
    assert {"contract", "chain", "norm", "attention"} <= patterns


# ----- the laws can fail --------------------------------------------------------------------------


def of(block, seed: int = 0) -> tuple[Function, tuple[torch.Tensor, ...]]:
    """Return a hand-made net and an input for it."""
    fn = block()
    g = torch.Generator().manual_seed(seed)
    shapes = ([int(d) for d in p.type.shape] for p in fn.params)
    return fn, tuple(torch.randn(s, generator=g) for s in shapes)


def broken(plan: Schedule, at: int, **change) -> Schedule:
    """Return ``plan`` with one step changed."""
    steps = list(plan.steps)
    steps[at] = replace(steps[at], **change)
    return replace(plan, steps=tuple(steps))


def unmoved(claims: Sequence[Claim], offsets: Offsets, *args: int) -> Offsets:
    """Return the offsets as they are."""
    return offsets


def test_an_overlap_is_found() -> None:
    fn, args = of(resnet)
    want = run(load(planned(fn, args, 2)), args)
    honest = memory.plan

    def halved(lifetimes, *args, **options):
        found = honest(lifetimes, *args, **options)
        # Scratch lies apart: it holds addresses.
        offsets = tuple(
            found.total + at if life.first == life.last else at // 128 * 64
            for life, at in zip(lifetimes, found.offsets, strict=True)
        )
        return replace(found, offsets=offsets, total=2 * found.total)

    with patch.object(memory, "plan", halved), patch.object(arena, "settled", unmoved):
        plan = planned(fn, args, 2)
    with pytest.raises(AssertionError, match="two live buffers overlap"):
        assert_memory_is_sound(plan)
    assert simulated(load(plan), args, 0, alone=False) != want


def test_a_missing_barrier_is_found() -> None:
    fn, args = of(resnet)
    plan = planned(fn, args, 3)
    native = [i for i, s in enumerate(plan.steps[:-1]) if isinstance(s, Step)]
    at = next(i for i in native if {*plan.steps[i].writes} & {*plan.steps[i + 1].reads})
    plan = broken(plan, at, barrier=False)
    with pytest.raises(AssertionError, match="without a barrier"):
        assert_reads_follow_writes(plan)
    with pytest.raises(AssertionError, match="order matters"):
        simulated(load(plan), args, 1, alone=True)


def test_undeclared_memory_is_found() -> None:
    fn, args = of(resnet)
    plan = planned(fn, args, 2)
    step = plan.steps[0]
    assert isinstance(step, Step) and step.writes
    with pytest.raises(AssertionError, match="does not declare"):
        assert_memory_is_sound(broken(plan, 0, writes=()))
    with pytest.raises(AssertionError, match="does not declare"):
        simulated(load(broken(plan, 0, writes=())), args, 0, alone=True)
    with pytest.raises(AssertionError, match="what nobody wrote"):
        assert_reads_follow_writes(replace(plan, steps=plan.steps[1:]))


def test_shared_scratch_is_found() -> None:
    fn, args = of(transformer)
    plan = planned(fn, args, 2)
    at = next(
        i for i, s in enumerate(plan.steps)
        if isinstance(s, Step) and not s.serial and any(map(scratch_of, s.slots))
    )  # fmt: skip
    slots = list(plan.steps[at].slots)
    slots[1 + next(k for k, s in enumerate(slots) if scratch_of(s))] = 0
    with pytest.raises(AssertionError, match=f"step {at} "):
        assert_scratch_is_per_thread(broken(plan, at, slots=tuple(slots)))
    with pytest.raises(AssertionError, match="two tasks write one byte"):
        simulated(load(broken(plan, at, slots=tuple(slots))), args, 0, alone=True)
