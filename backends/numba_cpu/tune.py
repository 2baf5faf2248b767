"""numba_cpu > tune: time the candidates of a network's open questions, within a budget.

Each candidate is lowered as a program of its own with the unit's true sizes, weights and epilogue.
Programs take turns; before each round the caches are swept, and before each run the inputs are
read, as in a network, where weights come from memory and inputs from the unit before. What was
decided goes to a book, so that the same question costs nothing the next time.
"""

from __future__ import annotations

import functools
import platform
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from leptonc.backends.numba_cpu.assemble import assemble
from leptonc.backends.numba_cpu.executor import Program
from leptonc.backends.numba_cpu.kernels.ahead import HELPERS, compile_all
from leptonc.backends.numba_cpu.kernels.machine_code import fingerprint
from leptonc.backends.numba_cpu.kernels.pack import aligned_empty
from leptonc.backends.numba_cpu.kernels.vectype import LANES
from leptonc.backends.numba_cpu.lower import choices
from leptonc.backends.numba_cpu.lower.choices import Answer, Question
from leptonc.backends.numba_cpu.lower.core import STATUS_WORDS, ConstPool, aligned
from leptonc.backends.numba_cpu.lower.questions import Reuse, asked
from leptonc.backends.numba_cpu.peak import read_all
from leptonc.backends.numba_cpu.runtime import ARENA_SLACK, kernels_of, torch_call
from leptonc.backends.numba_cpu.schedule import Schedule
from leptonc.backends.numba_cpu.scheduler import Options, lowered_ops, schedule
from leptonc.backends.numba_cpu.views import View
from leptonc.cost.flops import nbytes
from leptonc.ir.core import Function, Op, Value
from leptonc.ir.kinds.region import Unit
from leptonc.ir.types import DType
from leptonc.runtime.caches import read_caches
from leptonc.runtime.choices import Book, Measured
from leptonc.runtime.slabs import HUGE, Slabs

_GROUP = 32 * LANES  # bytes that the sweeping kernel takes at a time
FEWEST, USUAL, MOST = 3, 5, 12  # counted turns of a candidate
SETTLING = 16 << 20  # bytes swept in a turn: near caches need some calls to settle what they hold
Clock = Callable[[], float]


@dataclass(frozen=True)
class Open:
    """A question with more than one contender: a unit that asks it, and how many do."""

    question: Question
    op: Op
    count: int

    @property
    def worth(self) -> float:
        """What may be gained, roughly: the cycles that all units which ask it take."""
        return self.count * min(self.question.costs.values())


@dataclass
class Race:
    """A candidate ready to run: ``run()`` returns the seconds, ``arrays`` are its weights."""

    run: Callable[[], float]
    arrays: Mapping[Hashable, np.ndarray] = field(default_factory=dict[Hashable, np.ndarray])
    compile_s: float = 0.0


Prepare = Callable[[Op, Question, str], Race]


def questions(fn: Function, options: Options) -> list[Open]:
    """Return every question that the native units of a static program ask, each once."""
    found: dict[str, Open] = {}
    reuse = options.reuse_of(fn)
    for op in lowered_ops(fn, options):
        if not isinstance(op.kind, Unit) or op.kind.name in (options.retreat or {}):
            continue
        for question in asked(op.kind.body, options.precision, reuse, options.threads):
            old = found.get(question.key, Open(question, op, 0))
            found[question.key] = replace(old, count=old.count + 1)
    return list(found.values())


def tune(
    fn: Function,
    pool: ConstPool,
    options: Options,
    book: Book,
    budget_s: float,
    clock: Clock = time.perf_counter,
    prepare: Prepare | None = None,
) -> dict[str, Answer]:
    """Return the answers to all questions of ``fn``, a static and partitioned program.

    The questions that take most time come first; those left when ``budget_s`` seconds are spent
    (compiling kernels apart, which happens once per machine) are answered by the model. Weights
    packed for the winners are handed to ``pool``. The book keeps times for each reuse distance of
    weights; an answer holds for all of the program, and for what is cut out of it.
    """
    found, reuse = questions(fn, options), options.reuse_of(fn)
    answers: dict[str, Answer] = {}
    todo: list[Open] = []
    for item in found:
        q, known = item.question, book.get(page(item.question.key, reuse))
        if known is not None and known.chosen in q.costs:
            why = choices.MEASURED if known.times else choices.NOT_TIMED
            answers[q.key] = Answer(known.chosen, why, known.times)
        elif len(choices.contenders(q)) > 1:
            todo.append(item)
        else:
            answers[q.key] = choices.estimate(q, choices.NO_RIVAL)
    if todo:
        HELPERS.settle()  # a race beside a compiler would measure both
    end, new = clock() + budget_s, dict[str, Answer]()
    sweep: Callable[[], object] = _nothing
    if todo and prepare is None:
        memory = _memory(_swept_bytes(reuse.distance, options))
        prepare = functools.partial(_prepare, options, memory)
        if _once_a_round(memory):
            sweep = _sweeper(options, memory)
    for item in sorted(todo, key=lambda o: -o.worth):
        q = item.question
        if prepare is None or clock() >= end:
            new[q.key] = choices.estimate(q, choices.NO_TIME)
            continue
        races = {c: prepare(item.op, q, c) for c in choices.contenders(q)}
        end += sum(r.compile_s for r in races.values())
        times = race({c: r.run for c, r in races.items()}, end, clock, sweep)
        new[q.key] = choices.pick(times, q)
        pool.spare.update(races[new[q.key].chosen].arrays)
    book.settle({page(k, reuse): _kept(a) for k, a in new.items()})
    return {**answers, **new}


def _nothing() -> None:
    """Sweep nothing."""


def race(
    runs: Mapping[str, Callable[[], float]],
    end: float,
    clock: Clock,
    sweep: Callable[[], object] = _nothing,
) -> dict[str, list[float]]:
    """Return the seconds of each candidate's counted runs, taken in turns.

    The first round does not count (pages are mapped, the core wakes up). There are more rounds
    while the runs disagree and there is time before ``end``; ``sweep`` begins each of them. Who was
    last in a round is first in the next: what a run leaves in the caches, its successor finds.
    """
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {c: [] for c in runs}
    turns = list(runs.items())
    for counted in range(1, MOST + 1):
        sweep()
        for c, run in turns:
            times[c].append(run())
        turns.reverse()
        agreed = all(choices.steady(t) for t in times.values()) if counted > 1 else False
        clear = counted >= USUAL or choices.settled(times)
        if counted >= FEWEST and (clock() >= end or (agreed and clear)):
            break
    return times


def page(key: str, reuse: Reuse) -> str:
    """Return under which text the book keeps the answer to a question with this key."""
    bytes_count = "" if reuse.roomy else ", bytes count"
    return f"{key}; weights again after {reuse.distance >> 20} MiB{bytes_count}"


def _kept(answer: Answer) -> Measured:
    """Return what the book keeps; without times it keeps it for this process only."""
    return Measured(answer.chosen, answer.times if answer.why == choices.MEASURED else {})


def machine(threads: int) -> str:
    """Return what times depend on besides the sizes: processor, lanes, kernels, threads."""
    return f"{_processor()}, {fingerprint()}, {threads} threads"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), platform.processor())


# --- programs of one unit ------------------------------------------------------------------------


def _prepare(
    options: Options, sweep: np.ndarray, op: Op, question: Question, candidate: str
) -> Race:
    """Return the program of ``op`` alone, computed by ``candidate``."""
    alone = Function(op.kind.NAME, tuple(dict.fromkeys(op.operands)), (op,), op.results)
    forced = {question.key: Answer(candidate, "timed")}
    # As in the network, all weights lie on huge pages if that has more than one of them. Else those
    # of a candidate with few would be on small pages here, its rival's on huge ones.
    pool = ConstPool(slabs=Slabs(sweep.nbytes - HUGE))
    plan = schedule(alone, pool, replace(options, answers=forced, as_laid_out=True))
    begin = time.perf_counter()
    compile_all((read_all, *kernels_of(plan)))
    HELPERS.settle()
    compile_s = time.perf_counter() - begin
    random = np.random.default_rng(0)
    inputs = [aligned(_values(random, v)) for v in alone.params]
    program = _swept(plan, sweep[:0] if _once_a_round(sweep) else sweep)
    first = len(program.steps) - len(plan.steps)
    arrays = {key: pool.arrays[i] for key, i in pool.known.items()}
    return Race(_turn(_runner(program, plan, inputs, first), sweep.nbytes), arrays, compile_s)


def _once_a_round(sweep: np.ndarray) -> bool:
    """Return whether one sweep serves a round: it costs more than all runs, and leaves no weights.

    A short one leaves what a rival read where the next candidate would not have it.
    """
    return sweep.nbytes > SETTLING


def _sweeper(options: Options, sweep: np.ndarray) -> Callable[[], object]:
    """Return what reads ``sweep`` with all threads."""
    sums = np.zeros(options.threads * LANES, np.float32)
    program = Program(
        threads=options.threads, constants={"sweep": sweep, "sums": sums}, inputs=0, outputs=0
    )
    groups = sweep.nbytes // _GROUP
    program.step(read_all, program.const("sweep"), groups, program.const("sums"))
    return program.timed


def _swept(plan: Schedule, sweep: np.ndarray) -> Program:
    """Return the program of ``plan`` behind steps that sweep the caches and read all but weights.

    As much is swept as the network reads between two uses of its weights, or as leaves nothing in
    any cache: they lie where they will lie in the network, in some cache or in none. Threads are
    awake and start together, inputs are in the nearest cache. The memory of results and the arena
    are warm, too: they are used over and over. Each buffer is shared out by itself, so that scratch
    is near the thread whose it is.
    """
    program = Program(
        threads=plan.threads,
        arena_bytes=plan.arena_bytes + ARENA_SLACK,
        constants={
            **{str(i): a for i, a in enumerate(plan.consts)},
            "sweep": sweep,
            "sums": np.zeros(plan.threads * LANES, np.float32),
        },
        inputs=len(plan.inputs),
        outputs=len(plan.outputs) + bool(plan.errors),
    )
    sums = program.const("sums")
    program.step(read_all, program.const("sweep"), sweep.nbytes // _GROUP, sums)
    for buffer, offset in plan.offsets.items():
        program.step(read_all, program.arena(offset), buffer.nbytes // _GROUP, sums)
    for i, view in enumerate(plan.outputs):
        program.step(read_all, program.output(i), _bytes(view) // _GROUP, sums)
    for i, view in enumerate(plan.inputs):
        program.step(read_all, program.input(i), _bytes(view) // _GROUP, sums)
    assemble(plan, program, torch_call)
    return program


def _runner(
    program: Program, plan: Schedule, inputs: Sequence[np.ndarray], first: int
) -> Callable[[], float]:
    """Return what runs a program once and gives the seconds of the steps from ``first`` on."""
    outputs = [aligned(np.zeros(_bytes(v), np.uint8)) for v in plan.outputs]
    status = [np.zeros(STATUS_WORDS, np.int64)] if plan.errors else []

    def run() -> float:
        times = program.timed(*(a.ctypes.data for a in (*inputs, *outputs, *status)))
        ends = times[:, :, 1].max(1)
        return float(ends[-1] - ends[first - 1]) / 1e9

    return run


def _turn(run: Callable[[], float], distance: int) -> Callable[[], float]:
    """Return what runs a candidate a few times in a row and gives the seconds of the fastest run.

    Weights that a network finds in near caches at every call are there only after some calls, and
    the rival pushed them out: a single run would tell the time of getting them back.
    """
    runs = max(1, SETTLING // distance)
    return lambda: min(run() for _ in range(runs))


def _bytes(view: View) -> int:
    return view.numel * view.dtype.nbytes


def _values(random: np.random.Generator, value: Value) -> np.ndarray:
    """Return numbers that no kernel finds slow or out of range: normal floats, zeros otherwise."""
    if value.type.dtype is DType.F32:
        return random.standard_normal(int(value.type.numel), np.float32)
    return np.zeros(int(nbytes([value])), np.uint8)


def _swept_bytes(distance: int, options: Options) -> int:
    """Return how many bytes a turn sweeps: ``distance``, or what leaves nothing in any cache."""
    return min(distance, 2 * (options.caches or read_caches()).l3)


def _memory(nbytes: int) -> np.ndarray:
    """Return the array that sweeps ``nbytes`` of the caches.

    On small pages: after a sweep over huge ones, Winograd took a tenth longer than within the
    network (ResNet-50).
    """
    made = aligned_empty((nbytes // 4,))  # aligned: programs need no copy of it
    made.fill(1.0)  # pages never written to would all be the same zeros, in the cache
    return made
