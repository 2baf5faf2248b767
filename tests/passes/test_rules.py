"""Every rule of the project is held to its own declared law, from its own pattern."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, find, given, settings
from hypothesis import strategies as st
from strategies import arrays_for
from strategies.instances import assert_equal, instances, nudged

from leptonc import meaning
from leptonc.ir.core import Function
from leptonc.ir.verify import verify
from leptonc.passes.rules import ALL_RULES
from leptonc.rewrite import Level, Rule, Trace, rewrite

_QUIET = settings(suppress_health_check=list(HealthCheck))
each_rule = pytest.mark.parametrize("rule", ALL_RULES, ids=lambda r: r.name)


def evaluate(fn: Function, args: tuple[torch.Tensor, ...], precision=None):
    try:
        return meaning.run(fn, *args, precision=precision)
    except (RuntimeError, IndexError, ValueError):
        assume(False)  # torch has no such op for these types: no law to keep
        raise


@each_rule
@_QUIET
@given(data=st.data())
def test_rule_keeps_its_law(rule: Rule, data: st.DataObject) -> None:
    before = data.draw(instances(rule))
    strict = rule.exact.level in (Level.BITWISE, Level.VALUE)
    args = data.draw(arrays_for(before, special=strict))
    if not strict:  # sums of whole numbers are exact in any order: make them fractions
        factor = data.draw(st.sampled_from([1.0, 0.37, -1.9]))
        args = tuple(a * factor if a.is_floating_point() else a for a in args)
    after = rewrite(before, (rule,), Trace("test"), max_sweeps=16)
    verify(after)
    truth = evaluate(before, args, "f64")
    moved = evaluate(before, nudged(args), "f64")
    assert_equal(evaluate(before, args), evaluate(after, args), truth, rule.exact, moved)


@each_rule
def test_rule_can_fire(rule: Rule) -> None:
    """A rule that nothing can trigger is dead code: find one instance that it changes."""
    find(
        instances(rule),
        lambda fn: rewrite(fn, (rule,), Trace("test"), max_sweeps=16) is not fn,
        settings=settings(
            max_examples=400, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip


def test_names_are_distinct() -> None:
    names = [r.name for r in ALL_RULES]
    assert len(set(names)) == len(names)


def test_each_rule_states_its_law() -> None:
    for rule in ALL_RULES:
        assert "=" in rule.law and rule.name == rule.name.lower()
