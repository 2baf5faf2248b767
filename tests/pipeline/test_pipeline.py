"""Pipelines: strings, order checks, properties held to, instruments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonc import passes
from leptonc.errors import PassError, PipelineError, VerifyError
from leptonc.ir.core import Builder, Function, Op, Value
from leptonc.ir.kinds.unary import Relu
from leptonc.ir.text import parse
from leptonc.ir.types import DType, TensorType
from leptonc.passes.pipelines import PIPELINES
from leptonc.passes.simplify import Simplify
from leptonc.pipeline import (
    Pass,
    PassManager,
    Recorder,
    Step,
    Timing,
    format_pipeline,
)
from leptonc.rewrite import Exactness, Match, Node, Rule, Trace, Var, rewrite

FN = parse("""
func @f(%x: f32[2]) {
  %y = relu(%x) : f32[2]
  %z = relu(%y) : f32[2]
  return %z
}""")


@dataclass(frozen=True)
class Nothing(Pass):
    """Leave everything as it is."""

    size: int = 3
    bound: float | None = None
    fast: bool = False
    mode: str = "plain"
    table: tuple[int, ...] = field(default=(), metadata={"internal": True})
    NAME: ClassVar[str] = "nothing"

    def run(self, fn: Function, trace: Trace) -> Function:
        trace.note(fn.ops[0], "seen")
        return fn


@dataclass(frozen=True)
class Makes(Pass):
    NAME: ClassVar[str] = "makes"
    ESTABLISHES: ClassVar[frozenset[str]] = frozenset({"tidy"})

    def run(self, fn: Function, trace: Trace) -> Function:
        return fn


@dataclass(frozen=True)
class Needs(Makes):
    NAME: ClassVar[str] = "needs"
    REQUIRES: ClassVar[frozenset[str]] = frozenset({"tidy"})


@dataclass(frozen=True)
class Copies(Pass):
    """Make a new function of the same ops."""

    NAME: ClassVar[str] = "copies"

    def run(self, fn: Function, trace: Trace) -> Function:
        return Function(fn.name, fn.params, fn.ops, fn.returns, fn.dims)


@dataclass(frozen=True)
class Breaks(Copies):
    NAME: ClassVar[str] = "breaks"
    BREAKS: ClassVar[frozenset[str]] = frozenset({"tidy"})


@dataclass(frozen=True)
class Spoils(Pass):
    """Read a value that nobody makes."""

    NAME: ClassVar[str] = "spoils"

    def run(self, fn: Function, trace: Trace) -> Function:
        t = TensorType(DType.F32, (2,))
        op = Op(Relu(), (Value(t),), (Value(t),))
        return Function(fn.name, fn.params, (op,), op.results, fn.dims)


@dataclass(frozen=True)
class Raises(Pass):
    """Look something up that is not there."""

    NAME: ClassVar[str] = "raises"

    def run(self, fn: Function, trace: Trace) -> Function:
        raise KeyError("gone")


@dataclass(frozen=True)
class Rewrites(Pass):
    """Apply some rules."""

    rules: tuple[Rule, ...] = field(default=(), metadata={"internal": True})
    NAME: ClassVar[str] = "rewrites"

    def run(self, fn: Function, trace: Trace) -> Function:
        return rewrite(fn, self.rules, trace, max_sweeps=2)


class _Registry:
    def names(self):
        return ("nothing", "makes")

    def load(self, name):
        return {"nothing": Nothing, "makes": Makes}[name]

    def pipelines(self):
        return {"both": "makes,nothing{size=5}"}


def parsed(text: str) -> tuple[Pass, ...]:
    from leptonc.pipeline import parse_pipeline

    return parse_pipeline(text, _Registry())


# ----- strings ------------------------------------------------------------------------------------


def test_options_are_read_by_their_types() -> None:
    got = parsed("makes, nothing{size=7, bound=0.5, fast=true, mode=a}")
    assert got == (Makes(), Nothing(7, 0.5, True, "a"))
    assert parsed("nothing{bound=none}") == (Nothing(),)
    assert parsed("") == ()


def test_a_named_pipeline_expands() -> None:
    assert parsed("both,makes") == (Makes(), Nothing(5), Makes())


@given(
    st.builds(
        Nothing,
        st.integers(),
        st.none() | st.floats(allow_nan=False),
        st.booleans(),
        st.sampled_from("abc"),
    )
)
def test_format_round_trips(p: Nothing) -> None:
    assert parsed(format_pipeline((p, Makes()))) == (p, Makes())


def test_default_options_are_not_printed() -> None:
    assert str(Nothing()) == "nothing" and str(Nothing(size=4)) == "nothing{size=4}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nothin", "did you mean nothing?"),
        ("zzz", "There are: makes, nothing, both"),
        ("nothing{sise=1}", "did you mean size?"),
        ("nothing{table=1}", "unknown option"),
        ("nothing{size=big}", "expected int, got 'big'"),
        ("nothing{fast=1}", "expected bool"),
        ("nothing{size}", "has no value"),
        ("both{size=1}", "takes no options"),
        ("nothing}", "not a pass"),
    ],
)
def test_what_is_wrong_is_said(text: str, says: str) -> None:
    with pytest.raises(PipelineError, match=says.replace("?", r"\?")):
        parsed(text)


@pytest.mark.parametrize("name", PIPELINES)
def test_named_pipelines_load_and_order_holds(name: str) -> None:
    found = passes.pipeline(name)
    PassManager(found)
    assert passes.pipeline(format_pipeline(found)) == found


@pytest.mark.parametrize("name", passes.REGISTRY)
def test_every_registered_pass_loads(name: str) -> None:
    cls = passes.load(name)
    assert name == cls.NAME and cls.__doc__
    cls()  # every option has a default


# ----- order and properties -----------------------------------------------------------------------


def test_order_is_checked_before_anything_runs() -> None:
    with pytest.raises(PipelineError, match=r"needs .position 1. requires tidy; makes establishes"):
        PassManager((Needs(), Makes()))
    with pytest.raises(PipelineError, match="which breaks breaks before it"):
        PassManager((Makes(), Breaks(), Needs()))
    PassManager((Needs(),), given=frozenset({"tidy"}))
    PassManager((Makes(), Needs(), Breaks()))


def test_what_a_pass_establishes_is_checked_on_its_result() -> None:
    manager = PassManager((Makes(),), checks={"tidy": lambda fn: "two relus meet"})
    with pytest.raises(PipelineError, match=r"makes establishes 'tidy', but .* two relus meet"):
        manager.run(FN)


def test_a_pass_that_silently_breaks_a_property_is_caught() -> None:
    seen: list[Function] = []

    def tidy_once(fn: Function) -> str | None:
        seen.append(fn)
        return None if fn is FN else "it is another"

    with pytest.raises(PipelineError, match="copies does not say it breaks 'tidy'"):
        PassManager((Makes(), Copies()), checks={"tidy": tidy_once}).run(FN)
    PassManager((Makes(), Breaks()), checks={"tidy": tidy_once}).run(FN)


def test_each_result_is_verified() -> None:
    with pytest.raises(VerifyError, match="after pass spoils"):
        PassManager((Nothing(), Spoils())).run(FN)


# ----- instruments --------------------------------------------------------------------------------


def test_instruments_see_each_step() -> None:
    recorder, timing = Recorder(), Timing()
    ticks = iter(range(100))
    manager = PassManager(
        (Nothing(), Simplify()), (recorder, timing), clock=lambda: float(next(ticks))
    )
    after = manager.run(FN)
    first, second = recorder.steps
    assert repr(first).startswith(f"<Step 0 {first.name}: ") and "\n" not in repr(first)
    assert not first.changed and second.changed and second.after is after
    assert timing.seconds == {"nothing": 1.0, "simplify": 1.0}
    assert [r.reason for r in first.remarks] == ["seen"]
    assert second.fired == {"relu-idempotent": 1} and recorder.remarks


def test_what_a_pass_raises_names_the_pass_and_keeps_its_cause() -> None:
    with pytest.raises(PassError, match=r"pass raises failed on f: KeyError: 'gone'") as found:
        PassManager((Nothing(), Raises())).run(FN)
    assert isinstance(found.value.__cause__, KeyError)


def test_what_a_rule_raises_names_rule_op_and_source_line() -> None:
    def broken(m: Match, b: Builder) -> Value:
        raise ZeroDivisionError("nothing to divide by")

    fn = parse(
        "func @f(%x: f32[4]) {\n  %y = relu(%x) : f32[4]  // act (net.py:7)\n  return %y\n}\n"
    )
    rule = Rule("broken", "relu(x) = x", Exactness.BITWISE, Node(Relu, (Var("x"),)), broken)
    says = r"pass rewrites failed on f, in rule broken at act \(relu %y\): ZeroDivisionError"
    with pytest.raises(PassError, match=says):
        PassManager((Rewrites((rule,)),)).run(fn)


def test_a_step_prints_as_its_pass() -> None:
    step = Step(0, Nothing(size=9), FN, FN, 0.0, (), {})
    assert step.name == "nothing{size=9}"
