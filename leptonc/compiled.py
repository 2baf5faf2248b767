"""The compiled model that ``leptonc.compile`` returns, with its programs by input sizes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.text import Text
from torch import Tensor

from leptonc import meaning
from leptonc.backends.numba_cpu.runtime import Executable
from leptonc.backends.numba_cpu.schedule import Schedule
from leptonc.bisect import Verdict, bisect, subject
from leptonc.bisect.judge import Metric
from leptonc.capture.captured import arguments
from leptonc.check import UnitError
from leptonc.errors import InputError
from leptonc.ir.core import Function
from leptonc.pipeline import Step
from leptonc.road import Road, holds_data
from leptonc.saving import save
from leptonc.show import card
from leptonc.show.explain import explain
from leptonc.show.explorer.view import explore
from leptonc.show.place import explain_place
from leptonc.show.profile import Profile, profile
from leptonc.specialization import Sizes, Specialization, output_types, run_program

Specialize = Callable[[tuple[Any, ...], dict[str, Any]], Specialization]


class CompiledModel:
    """A model compiled for one machine. Call it as the model is called.

    Attributes:
        stats: figures of the compile: seconds by stage, ops and units native and through torch,
            arena bytes and their lower bound, threads, specializations.
    """

    def __init__(
        self,
        name: str,
        make: Specialize,
        *,
        respecialize: bool,
        describe: Callable[..., str],
        specializations: Sequence[Specialization] = (),
    ) -> None:
        self.name = name
        self._make: Specialize | None = make
        self._respecialize = respecialize
        self._describe = describe
        self._specializations = list(specializations)
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

    def save(self, directory: str | Path) -> Path:
        """Write the net to ``directory``, for :func:`leptonc.load` to read; return that directory.

        A saved net needs neither the model nor its source. It holds IR as text, every constant
        plainly, so that kernels can be made anew on another machine, and the example inputs with
        their results, which a loaded net must repeat. A net that is there already is replaced.

        Raises:
            InputError: the model is not compiled yet.
            ArtifactError: the weights are gone with the model (keep it until the net is saved) or
                changed since; arguments that cannot be saved; something else in ``directory``.
        """
        return save(self.name, self.specializations, directory)

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
            raise InputError(
                f"{self.name}: how it was compiled is not known, as of every net that was loaded; "
                "bisect one that leptonc.compile returned"
            )
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
        if not holds_data(t):
            raise InputError(
                f"{name}: expected a tensor with memory of its own, got a fake one or one of a "
                "transform of torch.func; call the compiled model outside of it"
            )
        if t.requires_grad and torch.is_grad_enabled():
            raise InputError(
                f"{name} requires grad, but a compiled model computes no gradients: "
                "call it under torch.no_grad(), or detach() the tensor"
            )
    return spec, leaves, tensors, meaning.bind_dims(spec.function, [t.shape for t in tensors])


def _plain(t: Tensor) -> Tensor:
    """Return ``t`` contiguous, conjugation and negation bits resolved."""
    return t.detach().resolve_conj().resolve_neg().contiguous()
