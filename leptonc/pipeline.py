"""Pipeline: what a pass is, the manager that runs a row of them, pipeline strings, instruments.

A pipeline is text, ``fold-batchnorm,simplify{max-sweeps=8},cse``: pass names with their options.
``parse_pipeline`` needs a registry of passes; ``leptonc.passes`` holds the real one.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import time
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, ClassVar, Protocol, TypeAlias

from leptonc.errors import PassError, PipelineError, VerifyError
from leptonc.ir.core import Function
from leptonc.ir.kinds.data import Constant, Full
from leptonc.ir.kinds.norm import BatchNorm
from leptonc.ir.kinds.region import Unit
from leptonc.ir.types import split_top
from leptonc.ir.verify import verify
from leptonc.rewrite.trace import Remark, Trace

Properties: TypeAlias = "frozenset[str]"
PropertyCheck: TypeAlias = "Callable[[Function], str | None]"  # what is wrong, or None


@dataclass(frozen=True)
class Pass:
    """Function in, Function out; subclasses are frozen dataclasses whose fields are options.

    Options are ints, floats, bools, strings or None; a field with ``metadata={"internal": True}``
    is none and cannot be set in a pipeline string.
    """

    NAME: ClassVar[str] = ""
    REQUIRES: ClassVar[Properties] = frozenset()
    ESTABLISHES: ClassVar[Properties] = frozenset()
    BREAKS: ClassVar[Properties] = frozenset()

    def run(self, fn: Function, trace: Trace) -> Function:
        """Return the rewritten function, ``fn`` itself if unchanged; ``trace`` gets the remarks."""
        raise NotImplementedError(type(self).__name__)

    def __call__(self, fn: Function) -> Function:
        """Run alone, without a manager, dropping the remarks."""
        return self.run(fn, Trace(self.NAME))

    def __str__(self) -> str:
        """Return the pass as it stands in a pipeline string: options that differ from default."""
        set_ = [
            f"{f.name.replace('_', '-')}={_option_text(getattr(self, f.name))}"
            for f in options(type(self))
            if getattr(self, f.name) != f.default
        ]
        return self.NAME + (f"{{{','.join(set_)}}}" if set_ else "")


def options(cls: type[Pass]) -> tuple[dataclasses.Field[Any], ...]:
    """Return the fields of ``cls`` that a pipeline string may set."""
    return tuple(f for f in dataclasses.fields(cls) if not f.metadata.get("internal"))


# ----- properties ---------------------------------------------------------------------------------


def _every_op_a_unit(fn: Function) -> str | None:
    for op in fn.ops:
        if not isinstance(op.kind, Unit | Constant | Full):
            return f"{op.kind.NAME} stands outside every unit"
    return None


def _no_batchnorm(fn: Function) -> str | None:
    found = next((op for op in fn.ops if isinstance(op.kind, BatchNorm)), None)
    return None if found is None else f"batch_norm at {found.origin} is left"


# Properties whose truth can be looked up on a function. A pass that ESTABLISHES one of these is
# held to it on its result, and so is every later pass that does not list it in BREAKS.
PROPERTY_CHECKS: Mapping[str, PropertyCheck] = {
    "partitioned": _every_op_a_unit,
    "no-batchnorm": _no_batchnorm,
}


# ----- the manager --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One pass that ran: what it got, made, took in seconds, and said."""

    index: int
    pass_: Pass
    before: Function
    after: Function
    seconds: float
    remarks: tuple[Remark, ...]
    fired: Mapping[str, int]

    @property
    def name(self) -> str:
        """The pass as it stands in the pipeline string."""
        return str(self.pass_)

    @property
    def changed(self) -> bool:
        """Whether the pass made a new function."""
        return self.after is not self.before

    def __repr__(self) -> str:
        before, after = len(self.before.ops), len(self.after.ops)
        change = f"{before} -> {after} ops" if self.changed else "no change"
        said = f", {len(self.remarks)} remark{'s' * (len(self.remarks) != 1)}"
        return f"<Step {self.index} {self.name}: {change}, {self.seconds * 1e3:.1f} ms{said}>"


class Instrument(Protocol):
    """Sees each step after it was verified; never changes it; may raise."""

    def __call__(self, step: Step, /) -> None:
        """Look at one step."""
        ...


@dataclass(frozen=True)
class PassManager:
    """Checks a pipeline's order once, before anything runs, then runs it, verifying each result.

    ``given`` names properties that the input is known to have. ``checks`` holds the property
    checkers; a pass's ESTABLISHES is checked on its result wherever there is one.

    Raises:
        PipelineError: a pass requires what no earlier pass establishes (or what one breaks).
    """

    passes: tuple[Pass, ...]
    instruments: tuple[Instrument, ...] = ()
    given: Properties = frozenset()
    checks: Mapping[str, PropertyCheck] = field(default_factory=lambda: PROPERTY_CHECKS)
    clock: Callable[[], float] = field(default=time.perf_counter)

    def __post_init__(self) -> None:
        have = self.given
        for i, p in enumerate(self.passes):
            if missing := p.REQUIRES - have:
                raise PipelineError(self._order_message(i, sorted(missing)))
            have = (have - p.BREAKS) | p.ESTABLISHES

    def _order_message(self, at: int, missing: list[str]) -> str:
        p = self.passes[at]
        text = f"pass {p.NAME} (position {at + 1}) requires {', '.join(missing)}"
        breakers = [q.NAME for q in self.passes[:at] if q.BREAKS & set(missing)]
        makers = [q.NAME for q in self.passes[at + 1 :] if q.ESTABLISHES & set(missing)]
        if breakers:
            text += f", which {breakers[-1]} breaks before it"
        if makers:
            text += f"; {makers[0]} establishes that: put it before {p.NAME}"
        return text

    def run(self, fn: Function) -> Function:
        """Return ``fn`` after every pass in order.

        Raises:
            VerifyError: a pass broke an invariant; the text names pass and op.
            PassError: a pass raised; the text names pass, rule and op, the cause is chained.
            PipelineError: a result lacks a property that its pass establishes or should keep.
        """
        verify(fn)
        have = self.given
        for i, p in enumerate(self.passes):
            trace = Trace(p.NAME)
            start = self.clock()
            after = _run(p, fn, trace)
            seconds = self.clock() - start
            if after is not fn:
                _verify_after(p, after)
            have = self._check_properties(p, after, have, changed=after is not fn)
            step = Step(i, p, fn, after, seconds, trace.remarks, dict(trace.fired))
            for seen in self.instruments:
                seen(step)
            fn = after
        return fn

    def _check_properties(
        self, p: Pass, after: Function, have: Properties, *, changed: bool
    ) -> Properties:
        kept = have - p.BREAKS
        todo = p.ESTABLISHES | kept if changed else p.ESTABLISHES
        for name in sorted(todo & self.checks.keys()):
            if (wrong := self.checks[name](after)) is not None:
                verb = "establishes" if name in p.ESTABLISHES else "does not say it breaks"
                raise PipelineError(f"pass {p.NAME} {verb} {name!r}, but in its result {wrong}")
        return kept | p.ESTABLISHES


def _run(p: Pass, fn: Function, trace: Trace) -> Function:
    try:
        return p.run(fn, trace)
    except Exception as e:  # whatever a pass raises, its user learns which one it was
        where = "".join(f", {note}" for note in getattr(e, "__notes__", ()))
        raise PassError(
            f"pass {p} failed on {fn.name}{where}: {type(e).__name__}: {e}; "
            f"a pipeline without {p.NAME} goes on"
        ) from e


def _verify_after(p: Pass, fn: Function) -> None:
    try:
        verify(fn)
    except VerifyError as e:
        raise VerifyError(f"after pass {p.NAME}: {e}") from e


# ----- instruments --------------------------------------------------------------------------------


@dataclass
class Recorder:
    """Instrument that keeps every step, for reports and before/after views."""

    steps: list[Step] = field(default_factory=list[Step])

    def __call__(self, step: Step, /) -> None:
        """Keep ``step``."""
        self.steps.append(step)

    @property
    def remarks(self) -> tuple[Remark, ...]:
        """Every remark of every step."""
        return tuple(r for s in self.steps for r in s.remarks)


@dataclass
class Timing:
    """Instrument that adds up the seconds of each pass name."""

    seconds: dict[str, float] = field(default_factory=dict[str, float])

    def __call__(self, step: Step, /) -> None:
        """Add the step's time."""
        name = step.pass_.NAME
        self.seconds[name] = self.seconds.get(name, 0.0) + step.seconds


# ----- pipeline strings ---------------------------------------------------------------------------

_ITEM = re.compile(r"([A-Za-z][\w\-]*)\s*(?:\{(.*)\})?", re.DOTALL)


class Registry(Protocol):
    """Where pass classes and named pipelines are looked up."""

    def names(self) -> Iterable[str]:
        """Every pass name."""
        ...

    def load(self, name: str) -> type[Pass]:
        """Return the class of ``name``."""
        ...

    def pipelines(self) -> Mapping[str, str]:
        """Named pipelines such as ``O2``, as pipeline strings."""
        ...


def parse_pipeline(text: str, registry: Registry) -> tuple[Pass, ...]:
    """Return the passes that ``text`` names; ``""`` is none.

    Raises:
        PipelineError: an unknown pass, pipeline or option, or a value that does not fit.
    """
    return tuple(p for item in split_top(text) if item for p in _parse_item(item, registry))


def format_pipeline(passes: Iterable[Pass]) -> str:
    """Return the pipeline string of ``passes``; ``parse_pipeline`` reads it back."""
    return ",".join(map(str, passes))


def _parse_item(item: str, registry: Registry) -> tuple[Pass, ...]:
    if (m := _ITEM.fullmatch(item)) is None:
        raise PipelineError(f"not a pass: {item!r}; expected name or name{{option=value,...}}")
    name, body = m[1], m[2]
    named = registry.pipelines()
    if name in named:
        if body:
            raise PipelineError(f"pipeline {name} takes no options")
        return parse_pipeline(named[name], registry)
    known = sorted(registry.names())
    if name not in known:
        raise PipelineError(_unknown("pass", name, [*known, *named]))
    cls = registry.load(name)
    return (cls(**_parse_options(cls, body or "")),)


def _parse_options(cls: type[Pass], body: str) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    known = {f.name.replace("_", "-"): f.name for f in options(cls)}
    found: dict[str, Any] = {}
    for part in split_top(body):
        key, eq, value = (s.strip() for s in part.partition("="))
        if key not in known:
            raise PipelineError(_unknown(f"option of {cls.NAME}", key, sorted(known)))
        if not eq:
            raise PipelineError(f"option {key} of {cls.NAME} has no value: write {key}=...")
        found[known[key]] = _option_value(cls, key, value, hints[known[key]])
    return found


def _unknown(what: str, name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"unknown {what}: {name!r}{hint} There are: {', '.join(known) or 'none'}"


_WORDS: Mapping[str, bool] = {"true": True, "false": False, "yes": True, "no": False}


def _option_value(cls: type[Pass], key: str, text: str, hint: Any) -> Any:
    kinds = typing.get_args(hint) or (hint,)
    if NoneType in kinds and text.lower() == "none":
        return None
    for kind in (k for k in (bool, int, float, str) if k in kinds):
        try:
            return _WORDS[text.lower()] if kind is bool else kind(text)
        except (KeyError, ValueError):
            continue
    want = " or ".join(k.__name__ for k in kinds)
    raise PipelineError(f"option {key} of {cls.NAME}: expected {want}, got {text!r}")


def _option_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)
