"""Units choose a form by measured time: who wins, who stays float, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import leptonc
from leptonc.compress.choice import MARGIN, Timing, choose
from leptonc.compress.quantize import measured
from leptonc.compress.recipe import CompressError
from leptonc.ir.kinds.quantize import Dequantize

pytestmark = pytest.mark.numba
X = torch.randn(2, 8, 10, 10, generator=torch.Generator().manual_seed(0))
FORMS = ("int8", "w4", "float", "w8", "dynamic")  # in any order


def net() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(8, 8, 3), torch.nn.Conv2d(8, 16, 1), torch.nn.Flatten(),
        torch.nn.Linear(1024, 8),
    ).eval()  # fmt: skip


def compressed(
    times: Sequence[Sequence[float]], patch: pytest.MonkeyPatch, recipe: leptonc.Quantize
):
    """Return the net compressed by a clock that gives ``times``, a row a unit."""
    left: Iterator[Sequence[float]] = iter(times)
    patch.setattr(measured, "timings", lambda fns: [Timing(ms) for ms in next(left)])
    return leptonc.compress.compress(net(), X, recipe, data=[X])


# ----- the choice ---------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0.1, 9.0), st.floats(0.0, 1.0)), min_size=1, max_size=6))
def test_the_most_exact_of_those_that_the_fastest_does_not_beat(
    drawn: list[tuple[float, float]],
) -> None:
    times = {str(i): Timing(*t) for i, t in enumerate(drawn)}
    made = choose("unit", times)
    fastest = min(times.values(), key=lambda t: t.ms)
    before = [t for name, t in times.items() if int(name) < int(made.chosen)]
    assert all(fastest.ms + fastest.noise < t.ms - t.noise for t in before)
    assert all(fastest.ms <= MARGIN * t.ms for t in before)
    assert not fastest.beats(times[made.chosen])


def test_noise_is_that_of_a_median() -> None:
    calls = torch.randn(20000, generator=torch.Generator().manual_seed(0)) + 10
    timing = Timing.of(calls.tolist())
    # the standard error of a normal median is 1.2533 / sqrt(n); the notch is 1.7 times that
    assert timing.noise == pytest.approx(1.7 * 1.2533 / 20000**0.5, rel=0.05)
    assert abs(timing.ms - 10) < 2 * timing.noise
    assert Timing.of([1.0, 1.0, 1.0, 1.0]) == Timing(1.0, 0.0)


# ----- keep="faster" ------------------------------------------------------------------------------


def test_a_unit_that_loses_stays_float(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = leptonc.Quantize(keep="faster", skip="3")
    small = compressed([(1.0, 0.5), (1.0, 1.25)], monkeypatch, recipe)
    assert [e.where for e in small.ledger] == ["0"]
    lost = "stays float, 1.000 ms: codes takes 1.250 ms (+25 %)"
    assert any(lost in str(r) for r in small.remarks)
    codes = [op for op in small.function.ops if isinstance(op.kind, Dequantize)]
    assert len(codes) == 2  # the activation's and the weight's of one unit


def test_none_faster_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        CompressError, match=r"no unit is faster with codes: 0 stays float, 1.000 ms"
    ):
        compressed([(1.0, 0.99), (1.0, 2.0), (1.0, 1.0)], monkeypatch,
                   leptonc.Quantize(keep="faster"))  # fmt: skip


# ----- forms --------------------------------------------------------------------------------------


def test_each_unit_takes_its_fastest_form(monkeypatch: pytest.MonkeyPatch) -> None:
    # float, w8, int8, w4; the linear layer takes dynamic scales, too, after w8
    times = [(1.0, 1.1, 0.5, 0.9), (1.0, 0.98, 1.2, 1.3), (1.0, 0.6, 0.55, 0.7, 0.3)]
    small = compressed(times, monkeypatch, leptonc.Quantize(forms=FORMS))
    assert [(c.where, c.chosen) for c in small.ledger.choices] == [
        ("0", "int8"), ("1", "float"), ("3", "w4"),
    ]  # fmt: skip
    assert [(e.where, e.what) for e in small.ledger] == [
        ("0", "weight to int8 by channel, inputs u8"), ("3", "weight to int4 by channel, "
         "inputs float"),
    ]  # fmt: skip
    text = str(small.ledger)
    assert "1.200 (+20 %)" in text and "0.600 (+100 %)" in text
    assert "1.200 (+20 %)" in small.ledger._repr_html_()
    assert any("becomes int8, 0.500 ms: float takes 1.000 ms (+100 %)" in str(r)
               for r in small.remarks)  # fmt: skip
    less = small.ledger.undo(0)
    assert [e.where for e in less.ledger] == ["3"]
    assert len(less.ledger.choices) == 3


def test_a_tie_goes_to_the_more_exact_form(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = leptonc.Quantize(forms=("w4", "int8", "w8"), only="3")
    small = compressed([(1.0, 0.99, 0.98)], monkeypatch, recipe)
    assert small.ledger.choices[0].chosen == "w8"


def test_names_and_methods_hold_for_every_form(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = leptonc.Quantize(forms=("float", "w4a8"), group=64, method="mse", skip="0")
    small = compressed([(1.0, 0.5)], monkeypatch, recipe)
    assert [(e.where, e.what) for e in small.ledger] == [
        ("3", "weight to int4 by group, inputs i8 by row")
    ]
    assert any("only linear layers" in r.reason for r in small.remarks)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"forms": ("float", "int5")}, r"no \['int5'\]; there are float, w8"),
        ({"forms": "int8"}, "one leaves nothing to choose"),
        ({"forms": ("float", "w4"), "weights": 4}, "forms decide weights"),
        ({"forms": ("float", "w4"), "keep": "faster"}, "forms decide keep"),
    ],
)
def test_forms_that_make_no_sense(options: dict, words: str) -> None:
    with pytest.raises(CompressError, match=words):
        leptonc.Quantize(**options)


def test_units_are_really_timed() -> None:
    recipe = leptonc.Quantize(forms=FORMS[:2], only="1")
    (choice,) = leptonc.compress.compress(net(), X, recipe, data=[X]).ledger.choices
    assert all(0.0 < t.ms < 1000.0 for t in choice.times.values())
