"""numba_cpu > native: the native loops that run a program, alone or with a team of threads.

Everything is an ``int64`` word in memory that :mod:`executor` and :mod:`pool` allocate.

A *segment* is a stretch of steps without Python in between; its steps are grouped into *phases*,
and a phase consists of *tasks*, which may run in any order and at the same time. A task is one
thread's share of one step, or some serial steps one after another.

Segment, words: ``0`` phases address, ``1`` number of phases, ``2`` steps address, ``3`` patches
address, ``4`` number of patches, ``5`` address of the input and output addresses, ``6`` team
address, ``7`` address of the clock's words or 0: per thread and step when it began and when it had
finished, two words each, ``8`` number of steps, ``9`` threads, ``10`` address of the words of
:mod:`balance`. Phase: address of its tasks, their number, whether each thread has one share of a
step. Task: address of its first step, number of steps, share, number of shares, where the address
of the cuts between these is, or 0. Step: kernel address, record address. Patch: slot address,
index, byte offset: ``*slot = io[index] + offset``.

The words of a team, and how its threads share tasks: see :mod:`team_words`.
"""

from __future__ import annotations

from leptonc.backends.numba_cpu.atomics import (
    atomic_add,
    atomic_cas,
    atomic_load,
    atomic_store,
    call_one,
    invoke,
    load,
    pause,
    stamp,
    store,
    ticks,
    wait_while,
    wake_all,
)
from leptonc.backends.numba_cpu.balance import adjust, note_call, wants_ticks
from leptonc.backends.numba_cpu.cores import show_core, spread
from leptonc.backends.numba_cpu.kernels.base import KERNELS, Kernel, inline_njit, make_kernel
from leptonc.backends.numba_cpu.team_words import (
    BUSY,
    CLOCK_AT,
    CORES,
    COUNT,
    DONE,
    FEWEST,
    IDLE,
    LAST,
    LINE,
    MEASURED,
    NEVER_TOOK,
    NOW,
    NUMBER,
    PHASE,
    READY,
    SLEEPERS,
    SPIN_NOW,
    STEAL,
    STEPS,
    STOP,
    TABLE,
    TAKEN,
    TASKS,
    TOOK,
    VACANT,
    WANTED,
)

SEGMENT_WORDS = 11
CLOCK = 7  # word of a segment
PHASE_WORDS, TASK_WORDS, STEP_WORDS, PATCH_WORDS = 3, 5, 2, 3
_PHASE, _TASK = 8 * PHASE_WORDS, 8 * TASK_WORDS
CLOCK_WORDS = 4  # of one thread and one step
BYTES = bytes.__basicsize__ - 1  # where a bytes object of Python's holds its bytes, and a zero
SERIAL, NO_BARRIER = 1, 2  # flags of a step, see Program.step
HURRY = 16  # phases that go without the others once these were late


@inline_njit
def _patch(segment):
    """Write this call's input and output addresses into the records."""
    patches, count, io = load(segment + 24), load(segment + 32), load(segment + 40)
    for i in range(count):
        patch = patches + 24 * i
        store(load(patch), load(io + 8 * load(patch + 8)) + load(patch + 16))


@inline_njit
def _perform(task, steps, clock):
    """Run a task; ``clock`` is where this thread notes its times, or 0 if nobody wants them."""
    step, count, share, shares = load(task), load(task + 8), load(task + 16), load(task + 24)
    cuts = load(load(task + 32))
    for _ in range(count):
        if clock == 0:
            invoke(load(step), load(step + 8), share, shares, cuts)
        else:
            times = clock + 2 * (step - steps)
            if load(times) == 0:
                stamp(times)
            invoke(load(step), load(step + 8), share, shares, cuts)
            stamp(times + 16)
        step += 16


def _run_alone(segment, tid, nt):
    """Run a segment on the calling thread, one task after another: the same bits as a team.

    Returns 0, as :func:`_run_team` where it has run.
    """
    _patch(segment)
    phase, count, steps = load(segment), load(segment + 8), load(segment + 16)
    clock = load(segment + 56)
    for _ in range(count):
        task = load(phase)
        for _ in range(load(phase + 8)):
            _perform(task, steps, clock)
            task += _TASK
        phase += _PHASE
    return 0


def _enter(known, args, count):
    """Run a segment on the tensors at ``args``, a function of CPython's METH_FASTCALL.

    ``known`` is a bytes object of words: ``0`` segment, ``1`` RUN_ALONE or RUN_TEAM, ``2`` torch's
    function from a tensor to its data, ``3`` and ``4`` CPython's that release its lock and take it
    again, ``5`` its function that counts a reference, ``6`` what to return: None; ``7``: True, if
    it was not run: the addresses are written, and the team has no workers.
    """
    words = known + BYTES
    segment, data = load(words), load(words + 16)
    io = load(segment + 40)
    for i in range(count):
        store(io + 8 * i, call_one(data, load(args + 8 * i)))
    state = call_one(load(words + 24), 0)
    left = call_one(load(words + 8), segment)
    call_one(load(words + 32), state)
    told = load(words + 48) if left == 0 else load(words + 56)
    call_one(load(words + 40), told)
    return told


@inline_njit
def _await(word, seen, sleepers, spins):
    """Wait until ``word`` differs from ``seen``: spin, then sleep.

    Giving the core away in between would cost a whole time slice where others want it, and a
    sleeper that is woken gets the core sooner.
    """
    for _ in range(spins):
        if atomic_load(word) != seen:
            return
        pause()
    # A sleeper says what it waits on before it looks at the word, a waker changes the word before
    # it looks who sleeps: one of the two always sees the other.
    while atomic_load(word) == seen:
        atomic_store(sleepers, seen)
        if atomic_load(word) == seen:
            wait_while(word, seen)


@inline_njit
def _wake(word, new, sleepers):
    """Wake whoever sleeps on ``word``, which was changed to ``new`` just before."""
    seen = atomic_load(sleepers)
    if seen != 0:
        # Who sleeps on the new value or a later one stays noted, and wakes for nothing now.
        if seen & NUMBER < new & NUMBER:
            atomic_cas(sleepers, seen, 0)
        wake_all(word)


@inline_njit
def _begin(team, phase, number):
    """Begin the phase described at ``phase`` as the ``number``-th, or end the segment."""
    tasks = 0
    if phase != load(team + LAST):
        store(team + PHASE, phase)
        store(team + TABLE, load(phase))
        tasks = load(phase + 8)
    store(team + DONE, 0)
    new = tasks << TASKS | number
    atomic_store(team + NOW, new)
    _wake(team + NOW, new, team + SLEEPERS)


@inline_njit
def _take(team, tid, nt, slot, now):
    """Run task ``slot`` of the phase ``now`` if nobody has taken it; return whether we did."""
    number, tasks = now & NUMBER, now >> TASKS
    claim = team + CORES + LINE * (nt + slot)
    seen = atomic_load(claim)
    if seen >= number or atomic_cas(claim, seen, number) != seen:
        return False
    clock = load(team + CLOCK_AT)
    if clock:
        clock += 32 * load(team + COUNT) * tid
    measured = load(team + MEASURED) != 0
    begin = ticks(0) if measured else 0
    _perform(load(team + TABLE) + _TASK * slot, load(team + STEPS), clock)
    if measured and load(load(team + PHASE) + 16) != 0:
        took = team + CORES + LINE * slot + TOOK
        store(took, load(took) + ticks(0) - begin if slot == tid else NEVER_TOOK)
    if atomic_add(team + DONE, 1) == tasks - 1:
        _begin(team, load(team + PHASE) + _PHASE, number + 1)
    return True


@inline_njit
def _take_others(team, tid, nt, now):
    """Run every task of the phase that nobody has taken; return whether there was one."""
    took = False
    for slot in range(now >> TASKS):
        if _take(team, tid, nt, slot, now):
            took = True
    return took


@inline_njit
def _serve(team, tid, nt, end):
    """Take part in phases until the ``end``-th begins or, for end 0, between segments."""
    hurry = 0  # phases to go without waiting for others to begin
    while True:
        now = atomic_load(team + NOW)
        tasks = now >> TASKS
        if now & NUMBER == end or (end == 0 and tasks == 0):
            return
        for slot in range(tid, tasks, nt):
            _take(team, tid, nt, slot, now)
        # Most of the time the others have begun theirs: looking would only slow them down.
        spins = load(team + STEAL)
        if tasks > nt or hurry > 0:
            spins = 0
            hurry -= 1
        while spins > 0 and atomic_load(team + NOW) == now:
            pause()
            spins -= 1
        if atomic_load(team + NOW) != now:
            continue
        if _take_others(team, tid, nt, now):
            if hurry <= 0:
                hurry = HURRY
            continue
        hurry = 0
        _await(team + NOW, now, team + SLEEPERS, load(team + SPIN_NOW))


@inline_njit
def _seize(team):
    """Take the team for the calling thread; sleep while another caller has it.

    The lock of Drepper, "Futexes are tricky" (2011): nobody is woken where nobody sleeps.
    """
    word = team + BUSY
    seen = atomic_cas(word, VACANT, TAKEN)
    while seen != VACANT:
        if seen == WANTED or atomic_cas(word, TAKEN, WANTED) != VACANT:
            wait_while(word, WANTED)
        seen = atomic_cas(word, VACANT, WANTED)


@inline_njit
def _release(team):
    """Let other callers have the team."""
    if atomic_add(team + BUSY, -1) == WANTED:
        atomic_store(team + BUSY, VACANT)
        wake_all(team + BUSY)


def _run_team(segment, tid, nt):
    """Run a segment as thread 0 of its team; returns 0 when every task is finished.

    Returns 1 at once, without running it, if the team has no workers.
    """
    team, threads = load(segment + 48), load(segment + 72)
    _seize(team)
    if load(team + READY) == 0:
        _release(team)
        return 1
    _patch(segment)
    spread(team, threads)
    phases, count = load(segment), load(segment + 8)
    store(team + LAST, phases + _PHASE * count)
    store(team + STEPS, load(segment + 16))
    store(team + CLOCK_AT, load(segment + 56))
    store(team + COUNT, load(segment + 64))
    words, begin = load(segment + 80), ticks(0)
    measured = wants_ticks(words, threads, load(team + FEWEST))
    store(team + MEASURED, 1 if measured else 0)
    if measured:
        for i in range(threads):
            store(team + CORES + LINE * i + TOOK, 0)
    number = (load(team + NOW) & NUMBER) + 1
    _begin(team, phases, number)
    _serve(team, 0, threads, number + count)
    note_call(words, threads, ticks(0) - begin)
    if measured:
        adjust(words, threads, team + CORES + TOOK, LINE)
    _release(team)
    return 0


def _work(team, tid, nt):
    """Serve the team as thread ``tid`` until it is stopped."""
    while True:
        _serve(team, tid, nt, 0)
        now = atomic_load(team + NOW)
        if load(team + STOP) != 0:
            return
        if now >> TASKS == 0:
            spins = load(team + IDLE)
            if show_core(team, tid) == atomic_load(team + CORES):
                spins = 0
            _await(team + NOW, now, team + SLEEPERS, spins)


def _stop(team, patience, nt):
    """Tell the team's workers to leave; nothing is done if it is busy for ``patience`` pauses."""
    for _ in range(patience):
        if atomic_cas(team + BUSY, VACANT, TAKEN) == VACANT:
            store(team + READY, 0)
            store(team + STOP, 1)
            atomic_add(team + NOW, 1)
            wake_all(team + NOW)
            _release(team)
            return
        pause()


def _pauses(count, tid, nt):
    """Pause ``count`` times; timed to learn how long a pause takes here."""
    for _ in range(count):
        pause()


def _ticks(args, tid, nt):
    """Write the ticks now to slot 0."""
    store(args, ticks(0))


def _nothing(args, tid, nt):
    """Do nothing: the cheapest step there is, for measuring overheads."""


_TELLS = "int64(int64,int64,int64)"
RUN_ALONE = KERNELS.add(Kernel(_run_alone, "run_alone", signature=_TELLS))
ENTER = KERNELS.add(Kernel(_enter, "enter", signature=_TELLS))
RUN_TEAM = KERNELS.add(Kernel(_run_team, "run_team", signature=_TELLS))
WORK = make_kernel(_work, "work")
STOP_TEAM = make_kernel(_stop, "stop")
PAUSES = make_kernel(_pauses, "pauses")
TICKS = make_kernel(_ticks, "ticks")
NOTHING = make_kernel(_nothing, "nothing")
