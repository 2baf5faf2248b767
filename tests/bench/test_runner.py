"""A whole benchmark with stand-ins for the compiler and the peers: rows, tables, files, errors."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from leptonc.bench import busy, chart, peers, protocol, readme, record, runner, suites
from leptonc.errors import LeptoncError


class Compiled:
    """Stands for a compiled model: runs eager."""

    def __init__(self, model, inputs, threads) -> None:
        self.model, self.stats = model, {"threads": threads, "total_s": 0.25, "other": object()}

    def __call__(self, *inputs):
        return self.model(*inputs)


def _refuse(model, inputs, threads):
    raise LeptoncError("no such op\nmore text")


def _run(tmp_path: Path, compile_fn=Compiled, peer_text: str = "none"):
    console = Console(file=io.StringIO(), width=160)
    paths = tmp_path / "figures.json", tmp_path / "chart.png"
    rows = runner.main(compile_fn, ["tiny"], [1], [1, 2], peer_text, ["mlp"], 0.01, *paths, console)
    return rows, console.file.getvalue(), json.loads(paths[0].read_text()), paths[1]


def test_a_benchmark_prints_and_writes(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows, text, figures, png = _run(tmp_path)
    assert [(r.net, r.batch, r.threads) for r in rows] == [("mlp", 1, 1), ("mlp", 2, 1)]
    assert "x best peer" in text and "eager" in text and "1 discarded and 4 counted" in text
    row = figures["rows"][0]
    assert row["contestants"]["leptonc"]["error"] == 0.0
    assert row["contestants"]["leptonc"]["rounds"] >= 3
    assert row["stats"] == {"threads": 1, "total_s": 0.25}
    assert row["vs_eager"]["low"] <= row["vs_eager"]["value"] <= row["vs_eager"]["high"]
    assert figures["machine"]["versions"]["torch"] == torch.__version__
    assert png.read_bytes().startswith(b"\x89PNG")


def test_a_failing_contestant_is_a_blank_cell_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(peers, "missing", lambda p: "not here" if p == "openvino" else None)
    rows, text, figures, _ = _run(tmp_path, _refuse, "openvino")
    assert "leptonc: LeptoncError: no such op" in text and "openvino: not here" in text
    assert figures["rows"][0]["contestants"]["openvino"] == {"reason": "not here"}
    assert figures["rows"][0]["vs_best"] is None
    assert rows[0].times("eager") is not None


def test_wrong_results_are_marked() -> None:
    net = suites.pick(["tiny"], ["mlp"])[0]
    wrong = lambda m, i, threads: lambda *x: m(*x) + 1.0  # noqa: E731
    row = runner.Plan(wrong, ("eager",), 0.0, rest_s=0.0).run(net, 1, 1, lambda _: None)
    assert row.entries["leptonc"].error > 0.1


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"suite": ["huge"]}, "unknown suite 'huge'; there are: tiny, cnn, encoder"),
        ({"only": ["nope"]}, "no network 'nope' in tiny; there are: mlp, conv3"),
        ({"peer_text": "tvm"}, "unknown peer 'tvm'; there are: eager"),
        ({"threads": [4096]}, "4096 threads: this process may use 1 to"),
        ({"batches": [0]}, "batch sizes must be at least 1"),
        ({"seconds": 0.0}, "seconds must be positive"),
        ({"busy": -1}, "busy processes: expected 0 or more"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(change, text: str) -> None:
    arguments = {"suite": ["tiny"], "threads": [1], "batches": [1], **change}
    with pytest.raises(LeptoncError) as caught:
        runner.main(_refuse, **arguments)
    assert text in str(caught.value)


def test_chosen_peers() -> None:
    assert peers.chosen("all") == tuple(peers.PEERS)
    assert peers.chosen("none") == ("eager",)
    assert peers.chosen("openvino,eager") == ("eager", "openvino")


@pytest.mark.parametrize("net", suites.SUITES["tiny"], ids=lambda n: n.name)
def test_tiny_nets_run_and_are_seeded(net: suites.Net) -> None:
    if not net.available:
        pytest.skip(f"{net.needs} is not installed")
    x = net.inputs(2)
    with torch.no_grad():
        first, second = (protocol.tensors(suites.build(net)(*x)) for _ in range(2))
    assert first
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_net_never_answers_zero_to_everything() -> None:
    def zeros() -> torch.nn.Module:
        layer = torch.nn.Linear(4, 3)
        torch.nn.init.zeros_(layer.weight)
        return layer

    built = suites.build(suites.Net("zeros", zeros, suites._normal(4)))
    assert bool(built.weight.any())


def test_our_own_encoder_has_the_sizes_of_minilm() -> None:
    with torch.device("meta"):
        model = suites.Encoder(layers=6, width=384, heads=12)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(22.7e6, rel=0.01)
    small = suites.Encoder(layers=1, width=16, heads=2).eval()
    ids, mask = suites._tokens(5)(2)
    assert small(ids, mask).shape == (2, 5, 16)


def test_a_networks_name_tells_its_input() -> None:
    names = [n.name for nets in suites.SUITES.values() for n in nets]
    assert len(names) == len(set(names))


FIGURES = {
    "rows": [
        {
            "net": "mlp", "batch": 1, "threads": 1,
            "vs_eager": {"value": 4.0, "low": 3.5, "high": 4.5, "peer": "eager"},
            "vs_best": {"value": 0.9, "low": 0.8, "high": 1.1, "peer": "onnxruntime"},
            "contestants": {
                "leptonc": {"min_ms": 0.01, "median_ms": 0.011},
                "eager": {"min_ms": 0.04, "median_ms": 0.041},
                "onnxruntime": {"min_ms": 0.009, "median_ms": 0.01},
                "openvino": {"reason": "not installed"},
            },
        }
    ],
    "machine": {
        "versions": {"torch": "2"}, "processor": "P", "lanes": 8, "date": "D", "protocol": "X"
    },
}  # fmt: skip


def test_readme_table_is_rewritten_between_its_markers() -> None:
    before = f"head\n{readme.BEGIN}\nold\n{readme.END}\ntail\n"
    after = readme.rewrite(before, FIGURES, "docs/speed.png")
    assert after.startswith("head\n") and after.endswith("tail\n") and "old" not in after
    assert "| mlp | 0.01 | 4.00 | 0.90 [0.80, 1.10] onnxruntime |" in after
    assert "| tiny | 1 | 1 | 1 | 4.00 | 0.90 | 1 |" in after
    assert "openvino" not in after and "(docs/speed.png)" in after
    assert readme.rewrite(after, FIGURES, "docs/speed.png") == after
    with pytest.raises(LeptoncError, match="bench:begin"):
        readme.rewrite("no markers", FIGURES)


def test_the_full_page_has_every_row_and_peer() -> None:
    (row,) = FIGURES["rows"]
    more = {**FIGURES, "rows": [row, {**row, "batch": 8, "vs_best": None}]}
    page = readme.full(more)
    line = "0.01 | 0.04 | 0.009 | 4.00 | 0.90 [0.80, 1.10] onnxruntime |"
    assert f"| mlp | 1 | 1 | {line}" in page
    assert "| mlp | 8 | 1 | 0.01 | 0.04 | 0.009 | 4.00 |  |" in page
    assert "| mlp | 8 |" not in readme.rewrite(f"{readme.BEGIN}{readme.END}", more)


def test_a_row_measured_again_takes_the_place_of_the_earlier_one() -> None:
    first, second = (dict(FIGURES["rows"][0], stats={"run": n}) for n in (1, 2))
    runs = [{**FIGURES, "rows": [first, *FIGURES["rows"][1:]]}, {**FIGURES, "rows": [second]}]
    rows = readme.joined(runs)["rows"]
    assert len(rows) == len(FIGURES["rows"])
    assert rows[0]["stats"] == {"run": 2}
    other = {**FIGURES, "machine": {**FIGURES["machine"], "processor": "another"}}
    with pytest.raises(LeptoncError, match="another"):
        readme.joined([FIGURES, other])


def test_figures_of_several_runs_tell_each_protocol_once() -> None:
    shorter = {**FIGURES, "machine": {**FIGURES["machine"], "protocol": "Y"}}
    assert readme.joined([FIGURES, shorter, FIGURES])["machine"]["protocol"] == "X | Y"
    assert readme.joined([FIGURES])["machine"] == FIGURES["machine"]


def test_the_readme_has_its_markers() -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text()
    assert readme.BEGIN in text and readme.END in text


def test_chart_of_a_missing_peer(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    chart.draw(FIGURES, tmp_path / "new" / "a.png")
    assert (tmp_path / "new" / "a.png").stat().st_size > 1000
    with pytest.raises(LeptoncError, match="nothing to draw"):
        chart.draw({"rows": []}, tmp_path / "b.png")


def test_numbers_in_json_are_json() -> None:
    assert record._number(float("inf")) == "inf"
    assert record._number(1 / 3) == 0.333333


class Profiled(Compiled):
    """Stands for a compiled unit that can be profiled."""

    def profile(self, *inputs) -> SimpleNamespace:
        unit = SimpleNamespace(algorithm="igemm", us=2.0, flops=9, gflops=50.0, gbytes=3.0)
        other = SimpleNamespace(algorithm="copy", us=3.0, flops=0, gflops=0.0, gbytes=9.0)
        limits = SimpleNamespace(gflops=100.0, gbytes=30.0)
        return SimpleNamespace(units=(other, unit), limits=limits)


def test_a_single_unit_is_told_by_what_the_machine_can(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=160)
    only, path = ["call_overhead"], tmp_path / "f.json"
    rows = runner.main(
        Profiled, ["kernels"], [1], [1], "none", only, 0.01, path, console=console, busy=1
    )
    assert rows[0].stats["unit_us"] == 2.0
    (line,) = [t for t in console.file.getvalue().splitlines() if "igemm" in t]
    assert " ".join(line.split()) == "call_overhead 1 igemm 2.0 50.0 50 % 3.0 10 %"
    found = json.loads(path.read_text())
    assert found["rows"][0]["stats"]["peak_gflops"] == 100.0
    assert "1 process(es) spinning beside" in found["machine"]["protocol"]


def test_spinning_processes_end_with_the_block() -> None:
    def children() -> set[str]:
        return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())

    if not Path(f"/proc/self/task/{os.getpid()}/children").exists():
        pytest.skip("the system does not list children")
    before = children()
    with pytest.raises(RuntimeError), busy.spinning(2):
        assert len(children() - before) == 2
        raise RuntimeError
    assert children() == before


@pytest.mark.parametrize(
    "net",
    [n for n in suites.SUITES["kernels"] if not n.name.startswith(("product_1x", "product_2048"))],
    ids=lambda n: n.name,
)
def test_single_units_run_on_their_inputs(net: suites.Net) -> None:
    with torch.device("meta"):
        model = net.make().eval()
    assert model(*(x.to("meta") for x in net.inputs(2))).shape[0] == 2
