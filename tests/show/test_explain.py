"""What explain tells of decisions made by hand."""

from __future__ import annotations

from dataclasses import replace

from show.plans import EVIL, function, schedule

from leptonc.backends.numba_cpu.lower.choices import MEASURED, Answer, Decision, Question, estimate
from leptonc.passes import pipeline
from leptonc.pipeline import PassManager
from leptonc.show.explain import explain

TWO = Question("conv 3x3: igemm, winograd2", {"igemm": 4000.0, "winograd2": 3000.0})
ONE = Question("conv 1x1: igemm", {"igemm": 5.0})


def test_explain_names_candidates_times_reasons_and_units() -> None:
    plan = schedule(PassManager(pipeline("cse,partition{max-ops=1}")).run(function()))
    first, second = plan.units
    won = Decision(TWO, Answer("igemm", MEASURED, {"igemm": 2e-6, "winograd2": 3e-6}))
    units = (
        replace(first, decisions=(won,)),
        replace(first, name="twin", decisions=(won,)),
        replace(first, name="narrow", decisions=(Decision(ONE, estimate(ONE)),)),
        replace(first, name="plain"),
        second,
    )
    assert explain(replace(plan, units=units), cycles_per_us=1000.0).splitlines() == [
        "net: ways to compute its units, 1 thread(s); * is chosen",
        f"  {EVIL}, twin",
        "    conv 3x3; measured",
        "      winograd2    estimated       3.0 us  measured       3.0 us",
        "    * igemm        estimated       4.0 us  measured       2.0 us",
        "  igemm, the only way: narrow",
        f"  act: through torch: no kernel {EVIL}",
        "  nothing to choose: 1 unit",
    ]
