"""The explorer's document and exports: what they hold of a program laid out by hand."""

from __future__ import annotations

import json
import math
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from show.plans import EVIL, Checker, function, schedule

from leptonc.backends.numba_cpu.emit import emit
from leptonc.check import UnitError
from leptonc.errors import InputError
from leptonc.passes import pipeline
from leptonc.pipeline import PassManager, Recorder
from leptonc.rewrite.trace import Remark, RemarkKind
from leptonc.show.explorer import export
from leptonc.show.explorer.document import document
from leptonc.show.explorer.listing import program_lines
from leptonc.show.explorer.page import embedded, frame, page
from leptonc.show.explorer.sources import MARGIN, excerpts
from leptonc.show.explorer.view import explore


def net(stages: bool = True) -> Any:
    recorder = Recorder()
    fn = PassManager(pipeline("cse,partition{max-ops=1}"), (recorder,)).run(function())
    plan = schedule(fn)
    spec = SimpleNamespace(
        remarks=[Remark("fuse", RemarkKind.MISSED, "linear %y", "a & b")],
        captured=SimpleNamespace(files={"net.py:7": __file__, "net.py:8": "/nowhere/net.py"}),
        retreat={},
        errors={EVIL: UnitError(2e-6, 1e-5, "zeros"), "act": UnitError(math.inf, 0.0, "NaN")},
    )
    return SimpleNamespace(
        name=f"Net{EVIL}", specializations=(spec,), stats={"governor": "1 thread: tests"},
        stages=tuple(recorder.steps) if stages else (), schedule=plan, ir=fn,
        source=emit(plan).text,
    )  # fmt: skip


def test_every_stage_and_op_is_there() -> None:
    doc = document(net())
    assert [s["name"] for s in doc["stages"]] == ["captured", "cse", "partition{max-ops=1}"]
    assert doc["stages"][1]["same"], "cse finds nothing to merge"
    first, last = doc["stages"][0]["rows"], doc["stages"][2]["rows"]
    kinds = [doc["ops"][r[0]]["kind"] for r in first]
    assert kinds == ["constant", "linear", "relu"]
    assert [doc["ops"][r[0]]["kind"] for r in last if r[2] == 0].count("unit") == 2
    inside = [doc["strings"][r[1]].split("\t")[0] for r in last if r[2] == 1]
    outside = [doc["strings"][r[1]].split("\t")[0] for r in first]
    assert set(inside) & set(outside), "values keep their names from stage to stage"


def test_operands_point_at_the_rows_that_make_them() -> None:
    doc = document(net())
    for stage in doc["stages"]:
        rows = stage.get("rows", [])
        for at, (_, line, _, reads) in enumerate(rows):
            assert all(r < at for r in reads)
            operands = doc["strings"][line].split("\t")[2]
            assert len(reads) <= len([o for o in operands.split(", ") if o])
    rows = doc["stages"][2]["rows"]
    inner = next(r for r in rows if doc["ops"][r[0]]["kind"] == "relu")
    assert inner[3], "a body's parameter leads to what makes the unit's operand"


def test_errors_of_units_are_numbers_that_json_can_hold() -> None:
    first, second = document(net())["units"]
    assert (first["error"], first["tolerance"]) == (2e-6, 1e-5)
    assert (second["error"], second["tolerance"]) == (sys.float_info.max, 0.0)
    unchecked = net()
    unchecked.specializations[0].errors.clear()
    assert [u["error"] for u in document(unchecked)["units"]] == [None, None]


def test_code_lines_of_units() -> None:
    n = net()
    lines = n.source.split("\n")
    for unit, (first, last) in program_lines(n.source).items():
        assert f"# unit {unit}: " in lines[first]
        assert lines[last].strip() and not any("# unit" in x for x in lines[first + 1 : last + 1])


def test_sources_hold_the_lines_around_what_made_an_op() -> None:
    found = excerpts({"a.py:40": __file__, "b.py:3": "/nowhere/b.py"}, ["a.py:40", "b.py:3", "c:1"])
    assert list(found) == ["a.py"]
    numbers = [n for n, _ in found["a.py"]["lines"]]
    assert numbers == list(range(40 - MARGIN, 40 + MARGIN + 1))


def test_the_page_is_whole_loads_nothing_and_carries_the_document() -> None:
    doc = document(net())
    text = page(doc)
    checker = Checker()
    checker.feed(text)
    assert checker.stack == [] and checker.loads == []
    assert "http" not in text.replace('"http:" + "//www.w3.org', "") and "@import" not in text
    assert EVIL not in text
    start = text.index('id="document">') + len('id="document">')
    assert json.loads(text[start : text.index("</script>", start)]) == doc
    assert "sandbox" in frame(doc)


def test_a_document_cannot_close_its_script() -> None:
    assert "</script>" not in embedded({"name": "</script>"})
    assert json.loads(embedded({"name": "</script>\u2028"})) == {"name": "</script>\u2028"}


def test_dot_and_model_explorer_have_a_node_for_each_op_and_an_edge_for_each_operand() -> None:
    n = net()
    found = export.nodes(n.ir)
    assert [x.label for x in found] == ["input", "constant", "linear", "relu", "output 0"]
    assert found[2].reads == ((0, 0), (1, 0)) and found[3].reads == ((2, 0),)
    text = export.dot(n.ir)
    assert text.count(" -> ") == 4 and text.count("subgraph") == 2 and text.count("{") == 3
    assert '\\"x\\"' in text, "quotes of a module's name are escaped"
    graphs = export.model_explorer("net", [("optimized", n.ir)])
    nodes = graphs["graphs"][0]["nodes"]
    ids = {x["id"] for x in nodes}
    assert all(e["sourceNodeId"] in ids for x in nodes for e in x["incomingEdges"])


def test_files_by_suffix(tmp_path: Any) -> None:
    for name in ("a.html", "a.json", "a.dot"):
        assert explore(net(), tmp_path / name, None).stat().st_size > 100
    with pytest.raises(InputError, match=r"\.html"):
        explore(net(), tmp_path / "a.pdf", None)
    with pytest.raises(InputError, match="first call"):
        document(SimpleNamespace(name="n", specializations=()))


def test_a_net_from_the_cache_without_its_model_shows_what_there_is() -> None:
    doc = document(net(stages=False))
    assert [s["name"] for s in doc["stages"]] == ["optimized"]


def test_widget_holds_the_document() -> None:
    pytest.importorskip("anywidget")
    n = net()
    found = explore(n, None, None)
    assert json.loads(found.document) == document(n)
    assert found.height > 0 and "export default" in str(found.trait_values()["_esm"])
