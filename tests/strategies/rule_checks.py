"""The two tests that are derived from a rule: it keeps its law, and something can trigger it."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, find, settings
from hypothesis import strategies as st

from leptonc import meaning
from leptonc.ir.core import Function
from leptonc.ir.verify import verify
from leptonc.rewrite import Level, Rule, Trace, rewrite

from .arrays import arrays_for
from .instances import assert_equal, instances, nudged
from .laws import results

_FINDING = settings(
    max_examples=400, database=None, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


def check_law(rule: Rule, data: st.DataObject) -> None:
    """Draw an instance of the left side, apply the rule, compare under the rule's exactness."""
    before = data.draw(instances(rule))
    strict = rule.exact.level in (Level.BITWISE, Level.VALUE)
    args = data.draw(arrays_for(before, special=strict))
    if not strict:  # sums of whole numbers are exact in any order: make them fractions
        factor = data.draw(st.sampled_from([1.0, 0.37, -1.9]))
        args = tuple(a * factor if a.is_floating_point() else a for a in args)
    after = rewrite(before, (rule,), Trace("test"), max_sweeps=16)
    verify(after)
    if after is before:
        return
    want, got = results(before, args), results(after, args)
    if strict:
        assert_equal(want, got, want, rule.exact)
        return
    truth = meaning.run(before, *args, precision="f64")
    moved = meaning.run(before, *nudged(args), precision="f64")
    assert_equal(want, got, truth, rule.exact, moved, args)


def firing_instance(rule: Rule) -> Function:
    """Return an instance that ``rule`` changes. Raises NoSuchExample when none is found."""

    def fires(fn: Function) -> bool:
        return rewrite(fn, (rule,), Trace("test"), max_sweeps=16) is not fn

    return find(instances(rule), fires, settings=_FINDING)
