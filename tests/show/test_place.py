"""What explain tells of one place, and what names find it."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from show.plans import EVIL, function, schedule

from leptonc.backends.numba_cpu.lower.choices import MEASURED, Answer, Decision, Question
from leptonc.errors import InputError
from leptonc.ir.core import Builder, Function, Origin
from leptonc.ir.kinds.contract import Linear
from leptonc.ir.kinds.unary import Relu
from leptonc.ir.types import DType, TensorType
from leptonc.passes import pipeline
from leptonc.pipeline import PassManager, Recorder
from leptonc.rewrite.trace import Remark, RemarkKind
from leptonc.show.choices import sentence
from leptonc.show.place import explain_place
from leptonc.show.record import record
from leptonc.show.remarks import grouped, shape_of
from leptonc.show.report import describe
from leptonc.show.summary import RemarkRow

WAYS = Question("conv 3x3: igemm, winograd2", {"igemm": 4000.0, "winograd2": 3000.0})


def _captured() -> Function:
    b = Builder("net")
    f32 = TensorType(DType.F32, (2, 8))
    x, w = b.param(f32, "x"), b.param(TensorType(DType.F32, (4, 8)), "w")
    b.origin = Origin("block.fc", "net.py:1")
    (y,) = b.emit(Linear(), x, w, hint="linear")
    b.origin = Origin("block", "net.py:2")
    (z,) = b.emit(Relu(), y, hint="relu")
    return b.finish(z)


def _net(**more: Any) -> Any:
    fn, recorder = _captured(), Recorder()
    after = PassManager(pipeline("fuse,partition"), (recorder,)).run(fn)
    plan = schedule(PassManager(pipeline("partition{max-ops=1}")).run(function()))
    first, second = plan.units
    decision = Decision(WAYS, Answer("igemm", MEASURED, {"igemm": 2e-6, "winograd2": 3e-6}))
    info = replace(first, op=after.ops[-1], name="block.fc+relu", decisions=(decision,), reason="")
    plan = replace(plan, units=(info, second))
    other = Remark("fold", RemarkKind.MISSED, "conv %other", "far away", Origin("elsewhere"))
    spec = SimpleNamespace(
        captured=SimpleNamespace(function=fn, files={"net.py:1": __file__}, remarks=()),
        remarks=[*recorder.remarks, other],
        retreat={},
        errors={},
    )
    values = {
        "name": "Net", "specializations": (spec,), "schedule": plan, "last_profile": None,
        "stats": {"verify_s": 0.1}, "stages": tuple(recorder.steps),
    }  # fmt: skip
    return SimpleNamespace(**{**values, **more})


@pytest.mark.parametrize(
    "name", ["block.fc", "block", "block.fc+relu", "linear", "%relu", "relu", 0, "0"]
)
def test_every_name_of_a_place_leads_to_its_unit(name: str | int) -> None:
    text = explain_place(_net(), name, rate=1000.0)
    for part in ("unit 0 of 2: block.fc+relu", "ops       linear, relu", "by igemm[6] (2 times)",
                 "keeps direct convolution: Winograd F(2x2) measured 1.50x slower",
                 "* igemm        estimated       4.0 us  measured       2.0 us",
                 "time      not measured yet", "checked   as part of the whole"):  # fmt: skip
        assert part in text, (part, text)
    assert "far away" not in text


def test_a_place_tells_its_source_capture_and_passes_in_order() -> None:
    text = explain_place(_net(), "block", rate=1000.0)
    parts = ("source    net.py:1  \"\"\"What explain tells", "captured  %linear = linear(%x, %w)",
             "captured  %relu = relu(%linear)", "fuse/contract  applied", "unit 0")  # fmt: skip
    at = [text.find(part) for part in parts]
    assert -1 not in at and at == sorted(at), text


def test_a_place_tells_times_errors_and_retreats() -> None:
    net = _net()
    times = [SimpleNamespace(index=i, us=5.0, share=0.5, flops=9, gflops=1.8) for i in (0, 1)]
    net.last_profile = SimpleNamespace(units=times)
    net.specializations[0].retreat["act"] = "misses the reference"
    net.specializations[0].errors = {
        "block.fc+relu": SimpleNamespace(error=1e-7, tolerance=2e-6, probe="zeros")
    }
    first, second = explain_place(net, 0, rate=1.0), explain_place(net, "act", rate=1.0)
    assert "time      5.0 us, 50.0 % of the run, 1.8 GFLOP/s" in first
    assert "checked   error 1e-07 where 2e-06 is allowed, on zeros" in first
    assert "checked   failed, so it runs through torch: misses the reference" in second
    assert "runs      through torch: no kernel" in second


@pytest.mark.parametrize(
    ("name", "why"),
    [("block.fx", "did you mean block.fc"), ("7", "numbered 0 to 1"), ("", "explain\\(\\) lists"),
     ("%liner", "did you mean linear"), (9, "no unit 9")],
)  # fmt: skip
def test_unknown_names_are_told_with_similar_ones(name: str | int, why: str) -> None:
    with pytest.raises(InputError, match=why):
        explain_place(_net(), name, rate=1.0)


@pytest.mark.parametrize(
    ("answer", "says", "why"),
    [
        (Answer("igemm", MEASURED, {"igemm": 2.0, "winograd2": 2.16}), "missed",
         "keeps direct convolution: Winograd F(2x2) measured 1.08x slower"),
        (Answer("igemm", MEASURED, {"igemm": 2.06, "winograd2": 2.0}), "missed",
         "keeps direct convolution: Winograd F(2x2) measured 1.03x faster, too little to go by"),
        (Answer("winograd2", "estimated: not timed"), "applied",
         "runs as Winograd F(2x2): direct convolution estimated 1.33x slower"),
        (Answer("winograd2", "estimated: busy", {"igemm": 1.0, "winograd2": 2.0}), "applied",
         "runs as Winograd F(2x2): direct convolution estimated 1.33x slower"),
    ],
)  # fmt: skip
def test_choices_become_sentences(answer: Answer, says: str, why: str) -> None:
    assert sentence(Decision(WAYS, answer)) == (says, why)


def test_like_remarks_are_told_once_with_their_places() -> None:
    rows = [
        RemarkRow("fuse", "missed", f"conv %c{i}", f"not run with l{i}.add (add %a{i}): l{i} does",
                  f"l{i}.conv")
        for i in range(6)
    ]  # fmt: skip
    rows += [RemarkRow("cse", "applied", "relu %r", "computed once", "act", "net.py:3")]
    assert list(grouped(rows)) == [
        "not done: 6",
        "  fuse, 6 times: not run with l0.add (add %a0): l0 does (and the like)",
        "    l0.conv, l1.conv, l2.conv, l3.conv and 2 more",
        "done: 1",
        "  cse: relu %r at act (net.py:3): computed once",
    ]
    assert shape_of("%a is also read by x.y (add %b)") == shape_of("%c is also read by z (add %d)")
    assert shape_of("no kernel for f32") != shape_of("no kernel for bool")


def test_the_json_report_has_stable_keys() -> None:
    net = _net()
    found = json.loads(describe(net, format="json"))
    assert found == json.loads(json.dumps(record(net)))
    assert set(found) == {
        "version", "name", "threads", "specializations", "stats", "work", "memory", "passes",
        "units", "remarks",
    }  # fmt: skip
    unit, remark = found["units"][0], found["remarks"][0]
    assert set(unit) == {
        "index", "name", "pattern", "module", "source", "runs", "why", "flops", "bytes", "steps",
        "kernels", "us", "choices",
    }  # fmt: skip
    assert set(unit["choices"][0]) == {"about", "why", "chosen", "cycles", "us"}
    assert set(remark) == {"by", "says", "what", "where", "module", "source", "why", "n"}
    assert set(found["passes"][0]) == {
        "name", "seconds", "ops_before", "ops_after", "changed", "fired",
    }  # fmt: skip
    assert unit["choices"][0]["us"] == {"igemm": 2.0, "winograd2": 3.0}
    last = [r for r in found["remarks"] if r["by"] in ("choose", "schedule")]
    assert [r["what"] for r in last] == ["block.fc+relu", "act"]
    assert {r["says"] for r in last} == {"missed"}
    assert last[1]["why"] == f"runs through torch: no kernel {EVIL}"


def test_reports_of_other_formats_and_of_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="'text' or 'json'"):
        describe(_net(), format="yaml")
    with pytest.raises(InputError, match="call it once first"):
        describe(_net(specializations=()), format="json")
