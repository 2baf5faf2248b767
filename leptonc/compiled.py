"""The compiled model that ``leptonc.compile`` returns, with its programs by input sizes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.text import Text
from torch import Tensor

from leptonc import meaning
from leptonc.backends.numba_cpu.emit import emit
from leptonc.backends.numba_cpu.lower.choices import Answer
from leptonc.backends.numba_cpu.lower.core import ConstPool
from leptonc.backends.numba_cpu.runtime import Executable, load
from leptonc.backends.numba_cpu.schedule import Schedule
from leptonc.backends.numba_cpu.scheduler import Options, schedule
from leptonc.bisect import Replay, Verdict, bisect, subject
from leptonc.bisect.judge import Metric
from leptonc.capture import Captured, CaptureRemark
from leptonc.capture.captured import arguments
from leptonc.check import UnitError
from leptonc.cost.flops import function_cost, known
from leptonc.errors import InputError
from leptonc.ir.core import Function
from leptonc.ir.specialize import specialize
from leptonc.pipeline import Step
from leptonc.rewrite.trace import Remark
from leptonc.road import Road, make_road
from leptonc.show import card
from leptonc.show.explain import explain
from leptonc.show.explorer.view import explore
from leptonc.show.place import explain_place
from leptonc.show.profile import Profile, profile

MAX_BINDINGS = 16  # programs kept for different sizes of one specialization
MAX_ARENAS = 256 * 2**20  # bytes of arena that they may hold together (the latest may be larger)
# Below this many operations and bytes (about 25 us on one core) meeting in every phase costs more
# than a second thread saves.
TEAM_WORK = 6_000_000
Sizes = Mapping[str, int]


@dataclass
class Specialization:
    """One captured program, optimized, with a native program for each set of sizes in use.

    Sizes inside the declared ranges share kernels and packed constants: a new set of sizes only
    lays out the arena and fills in records, which takes milliseconds.
    """

    captured: Captured
    function: Function
    stages: Callable[[], tuple[Step, ...]]
    remarks: list[Remark | CaptureRemark]
    threads: int
    precision: str
    pool: ConstPool = field(default_factory=ConstPool)
    retreat: dict[str, str] = field(default_factory=dict[str, str])
    answers: dict[str, Answer] = field(default_factory=dict[str, Answer])
    errors: dict[str, UnitError] = field(default_factory=dict[str, UnitError])
    bindings: OrderedDict[tuple[int, ...], Executable] = field(
        default_factory=OrderedDict[tuple[int, ...], Executable]
    )
    roads: dict[tuple[int, ...], Road] = field(default_factory=dict[tuple[int, ...], Road])
    lock: threading.Lock = field(default_factory=threading.Lock)
    replay: Replay | None = None
    bound: int = 0  # how many programs were laid out so far

    def bind(self, sizes: Sizes) -> Executable:
        """Return the program for ``sizes``; the least recently used ones are dropped."""
        key = self._key(sizes)
        with self.lock:
            found = self.bindings.get(key)
            if found is None:
                found = self.bindings[key] = self.build(specialize(self.function, sizes))
                self.bound += 1
                self._drop_oldest()
            self.bindings.move_to_end(key)
            return found

    def road(self, sizes: Sizes, program: Executable, args: tuple[Any, ...]) -> Road | None:
        """Return the straight road of calls like this one if there is one."""
        key = self._key(sizes)
        with self.lock:
            if key not in self.roads and key in self.bindings:
                made = make_road(self.captured, args, output_types(program), program)
                if made is not None:
                    self.roads[key] = made
            return self.roads.get(key)

    def _key(self, sizes: Sizes) -> tuple[int, ...]:
        return tuple(sizes[d.name] for d in self.function.dims)

    def _drop_oldest(self) -> None:
        """Drop the programs used longest ago while there are too many or they are too large."""
        held = sum(b.schedule.arena_bytes for b in self.bindings.values())
        while len(self.bindings) > 1 and (len(self.bindings) > MAX_BINDINGS or held > MAX_ARENAS):
            key, oldest = self.bindings.popitem(last=False)
            self.roads.pop(key, None)
            held -= oldest.schedule.arena_bytes

    def build(self, fn: Function) -> Executable:
        """Return a native program of ``fn``, which is static and partitioned."""
        plan = schedule(fn, self.pool, self.options(fn))
        # The first program is built from its emitted text; later sizes need not wait for one.
        return load(plan, None if self.bound else emit(plan))

    def options(self, fn: Function) -> Options:
        """Return what steers the lowering of ``fn``, which is static."""
        team = _team(fn, self.threads)
        return Options(team, self.precision, dict(self.retreat), answers=self.answers)

    def forget(self) -> None:
        """Drop every laid-out program (after a unit retreated).

        Packed constants go, too: a stored program asks for them in the order of its lowering.
        """
        with self.lock:
            self.pool = ConstPool()
            self.bindings.clear()
            self.roads.clear()


def _team(fn: Function, threads: int) -> int:
    """Return how many threads a static program is worth."""
    if threads == 1:
        return 1
    cost = function_cost(fn)
    return threads if known(cost.flops) + known(cost.bytes) >= TEAM_WORK else 1


def run_program(
    program: Executable, inputs: Sequence[Tensor], outputs: Sequence[tuple[tuple[int, ...], Any]]
) -> list[Tensor]:
    """Run on contiguous CPU tensors; ``outputs`` are (shape, torch dtype). Returns new tensors."""
    results = [torch.empty(shape, dtype=dtype) for shape, dtype in outputs]
    program(*[t.data_ptr() for t in inputs], *[t.data_ptr() for t in results])
    return results


def output_types(program: Executable) -> tuple[tuple[tuple[int, ...], Any], ...]:
    """Return shape and torch dtype of every result of a program."""
    return tuple((v.shape, meaning.TORCH_DTYPES[v.dtype]) for v in program.schedule.outputs)


Specialize = Callable[[tuple[Any, ...], dict[str, Any]], Specialization]


class CompiledModel:
    """A model compiled for one machine. Call it as the model is called.

    Attributes:
        stats: figures of the compile: seconds by stage, ops and units native and through torch,
            arena bytes and their lower bound, threads, specializations.
    """

    def __init__(
        self, name: str, make: Specialize, *, respecialize: bool, describe: Callable[..., str]
    ) -> None:
        self.name = name
        self._make: Specialize | None = make
        self._respecialize = respecialize
        self._describe = describe
        self._specializations: list[Specialization] = []
        self._road: Road | None = None  # of the latest signature that has one
        self._lock = threading.Lock()
        self._profile: Profile | None = None  # the latest
        self.stats: dict[str, Any] = {}

    # -- running ----------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the model returns for these arguments.

        Raises:
            InputError: an argument that does not fit: its name, what was expected and got.
            IndexError: an index out of range, as in eager.
        """
        road = self._road
        if road is not None and not kwargs:
            out = road(args)
            if out is not None:
                return out
        return self._general(args, kwargs)

    def _general(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        spec, leaves, tensors, sizes = self._select(args, kwargs)
        program = spec.bind(sizes)
        results = run_program(program, [_plain(t) for t in tensors], output_types(program))
        if not kwargs and (road := spec.road(sizes, program, args)) is not None:
            self._road = road
        return spec.captured.restore(results, leaves, sizes)

    def _select(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Specialization, list[Any], list[Tensor], Sizes]:
        """Return the specialization that takes these arguments, their leaves, tensors and sizes."""
        problem: InputError | None = None
        for spec in self._specializations:
            try:
                return _fit(spec, args, kwargs)
            except InputError as e:
                problem = problem or e
        if problem is not None and not self._respecialize:
            raise problem
        with self._lock:
            for spec in self._specializations:  # another thread may have been first
                with suppress(InputError):
                    return _fit(spec, args, kwargs)
            return _fit(self.specialize(args, kwargs), args, kwargs)

    def specialize(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Specialization:
        """Compile for the signature of these arguments, which no specialization takes yet."""
        if self._make is None:
            raise InputError(f"{self.name} was compiled for one signature and takes no other")
        spec = self._make(args, kwargs)
        self._specializations.append(spec)
        return spec

    def close(self) -> None:
        """Compile for no further signature: the model may go, and its weights with it."""
        self._make = None

    # -- looking ----------------------------------------------------------------------------------

    @property
    def specializations(self) -> tuple[Specialization, ...]:
        """Every captured signature, in order of compilation."""
        return tuple(self._specializations)

    @property
    def ir(self) -> Function:
        """The optimized program of the first signature. Raises InputError before the first call."""
        return self._first().function

    @property
    def stages(self) -> tuple[Step, ...]:
        """Every pass that ran, with the program before and after it.

        A program that came from the compile cache replays its passes when it is asked for this.
        """
        return self._first().stages()

    @property
    def errors(self) -> Mapping[str, UnitError]:
        """What the check measured of each unit, by name; of units that were not checked, nothing.

        ``verify="unit"`` and ``"pass"`` check every unit that runs natively, ``"final"`` only when
        the whole net is wrong.
        """
        return dict(self._first().errors)

    @property
    def schedule(self) -> Schedule:
        """The schedule that ran last."""
        return self._program().schedule

    @property
    def source(self) -> str:
        """The emitted Python module of the schedule that ran last."""
        return self._program().source.text

    def profile(self, *args: Any, **kwargs: Any) -> Profile:
        """Return where the time goes on these arguments, unit by unit and thread by thread.

        The program of their sizes runs for about a second, a clock read around every step.

        Raises:
            InputError: an argument that does not fit, as in a call.
        """
        spec, _, tensors, sizes = self._select(args, kwargs)
        self._profile = profile(self.name, spec.bind(sizes), [_plain(t) for t in tensors])
        return self._profile

    def explore(self, path: str | Path | None = None) -> Any:
        """Show every stage of the compile beside the model's source, the emitted code and times.

        In a notebook the explorer appears below the cell. With ``path`` it is written to a file
        and the path is returned: ``.html`` is the explorer in one file that needs no network,
        ``.json`` opens in Model Explorer, ``.dot`` in Graphviz. Times are those of the last
        ``profile``; without one, zeros of the sizes bound last are run.

        Raises:
            InputError: a model not compiled yet, or a file name with another suffix.
        """
        return explore(self, path, self._profile or self._profile_of_zeros())

    def bisect(self, inputs: Any, metric: Metric | None = None, drop: float = 0.0) -> Verdict:
        """Return who makes the result on ``inputs`` differ from the model's: pass, rule or unit.

        Args:
            inputs: a tensor, a tuple of positional arguments or a dict of keyword arguments.
            metric: judges what the model returns, more is better; by default every element counts,
                with the tolerance of the compile's check.
            drop: how much lower than the model's own the metric may be.

        Raises:
            InputError: an argument that does not fit, as in a call.
            LeptoncError: the model is gone; bisect captures it again, so keep it.
        """
        args, kwargs = arguments(inputs)
        spec, leaves, tensors, sizes = self._select(args, kwargs)
        if spec.replay is None:
            raise InputError(f"{self.name}: how it was compiled is not known")
        program = spec.bind(sizes)
        restore = partial(spec.captured.restore, leaves=leaves, sizes=sizes)
        seen = subject(self.name, spec, spec.replay, program, tensors, restore, args, kwargs)
        return bisect(seen, metric, drop)

    def _profile_of_zeros(self) -> Profile:
        program = self._program()
        views = program.schedule.inputs
        zeros = [torch.zeros(v.shape, dtype=meaning.TORCH_DTYPES[v.dtype]) for v in views]
        return profile(self.name, program, zeros)

    @property
    def last_profile(self) -> Profile | None:
        """The result of the last ``profile``, None before it."""
        return self._profile

    def report(self, remarks: bool = False, format: str = "text") -> str:
        """Return a report: what runs natively, time, memory, and with ``remarks`` why not.

        ``format="json"`` is for machines: every unit, stage, choice and remark; its keys are
        described in ``leptonc/show/record.py``.

        Raises:
            InputError: another format, or JSON of a model that is not compiled yet.
        """
        return self._describe(self, remarks=remarks, format=format)

    def explain(self, name: str | int | None = None) -> str:
        """Return, unit by unit, which ways there were to compute it, their times, and why one.

        With ``name``, everything about one place: the source line, what was captured there, what
        each pass did or refused, the unit it ended in, how that runs and why, times and checks.
        ``name`` is a module path, the name of a unit or of a value, or the index of a unit.

        Raises:
            InputError: nothing has that name; the text lists similar ones.
        """
        if name is None:
            return explain(self._program().schedule)
        self._first()
        return explain_place(self, name)

    def _first(self) -> Specialization:
        if not self._specializations:
            raise InputError(f"{self.name} is compiled at its first call; call it once first")
        return self._specializations[0]

    def _program(self) -> Executable:
        bindings = self._first().bindings
        if not bindings:
            raise InputError(f"{self.name} has no program yet; call it once first")
        return next(reversed(bindings.values()))

    def __repr__(self) -> str:
        """Return a one-line summary."""
        return card.line(self)

    def __rich__(self) -> Text:
        """Give rich the report in colour."""
        return card.text(self)

    def _repr_html_(self) -> str:
        """Return a card for notebooks, with the times of the last profile."""
        return card.html(self, self._profile)


def _fit(
    spec: Specialization, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Specialization, list[Any], list[Tensor], Sizes]:
    """Return what a call needs if ``spec`` takes these arguments. Raises InputError."""
    leaves = spec.captured.flatten(args, kwargs)
    tensors = spec.captured.tensors(leaves)
    for i, (t, p) in enumerate(zip(tensors, spec.function.params, strict=True)):
        name = p.hint or f"input {i}"
        want = meaning.TORCH_DTYPES[p.type.dtype]
        if t.dtype is not want:
            raise InputError(f"{name}: expected dtype {want}, got {t.dtype}; convert it first")
        if t.device.type != "cpu":
            raise InputError(f"{name}: expected a CPU tensor, got one on {t.device}; use .cpu()")
        if t.layout is not torch.strided:
            raise InputError(f"{name}: expected a dense tensor, got {t.layout}; use .to_dense()")
        if t.requires_grad and torch.is_grad_enabled():
            raise InputError(
                f"{name} requires grad, but a compiled model computes no gradients: "
                "call it under torch.no_grad(), or detach() the tensor"
            )
    return spec, leaves, tensors, meaning.bind_dims(spec.function, [t.shape for t in tensors])


def _plain(t: Tensor) -> Tensor:
    """Return ``t`` contiguous, conjugation and negation bits resolved."""
    return t.detach().resolve_conj().resolve_neg().contiguous()
