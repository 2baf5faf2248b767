"""The check's shortcut never accepts what the float64 reference refuses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leptonc import check

_EPS = 2.0**-23
_RELATIVE = st.floats(0, 400 * _EPS)


def _tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


@given(
    st.sampled_from(sorted(check.FACTORS)),
    st.floats(1e-30, 1e30),
    st.lists(st.tuples(st.floats(-1, 1), _RELATIVE, _RELATIVE), min_size=1, max_size=5),
)
def test_what_is_surely_within_is_within(precision, scale, rows):
    eager = _tensor(*[scale * x for x, _, _ in rows])
    largest = float(eager.abs().max())
    got = _tensor(*[scale * x + d * largest for x, d, _ in rows])
    exact = (eager.double() - torch.tensor([s for _, _, s in rows], dtype=torch.float64) * largest,)
    if check.surely_within((eager,), (got,), precision):
        ref = check.Reference((), exact, (eager,), check.FACTORS[precision])
        assert ref.worst((got,)) is None


@pytest.mark.parametrize("precision", sorted(check.FACTORS))
def test_the_bound_is_sharp_where_eager_is_exact(precision):
    eager = torch.ones(1, dtype=torch.float32)
    for error, within in ((0.9, True), (1.1, False)):
        d = error * (check.FACTORS[precision] - 1) * 8 * _EPS
        assert check.surely_within((eager,), (eager + d,), precision) is within


def test_specials_shapes_and_integers():
    one, nan = _tensor(1.0, 2.0), _tensor(1.0, float("nan"))
    inf = _tensor(1.0, float("inf"))
    assert check.surely_within((one,), (one,), "fp32")
    for eager, got in ((nan, nan), (inf, inf), (one, nan), (one, inf), (one, one[:1])):
        assert not check.surely_within((eager,), (got,), "fp32")
    n = torch.arange(3)
    assert check.surely_within((n,), (n.clone(),), "fp32")
    assert not check.surely_within((n,), (n + 1,), "fp32")
    assert check.surely_within((n[:0].float(),), (n[:0].float(),), "fp32")
