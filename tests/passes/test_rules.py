"""Every rule of ``simplify`` and ``fold-quant`` is held to its declared law, from its pattern."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies.rule_checks import check_law, firing_instance

from leptonc.passes.rules import ALL_RULES, quants
from leptonc.passes.simplify import Simplify
from leptonc.rewrite import Rule

RULES = (*Simplify(signed_zeros=False, reassociate=True).rules, *quants.RULES)
each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)


@each_rule
@settings(suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_rule_keeps_its_law(rule: Rule, data: st.DataObject) -> None:
    check_law(rule, data)


@each_rule
def test_rule_can_fire(rule: Rule) -> None:
    """A rule that nothing can trigger is dead code: find one instance that it changes."""
    firing_instance(rule)


def test_names_are_distinct() -> None:
    names = [r.name for r in ALL_RULES]
    assert len(set(names)) == len(names)


def test_each_rule_states_its_law() -> None:
    for rule in ALL_RULES:
        assert "=" in rule.law and rule.name == rule.name.lower()


def test_every_rule_here_is_among_all_rules() -> None:
    assert set(RULES) <= set(ALL_RULES)
