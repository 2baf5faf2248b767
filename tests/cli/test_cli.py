"""The command line as a user meets it: what it prints, and one line for every mistake."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from leptonc.cli import app
from leptonc.errors import LeptoncError

NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(4, 3)

    def forward(self, x):
        return torch.relu(self.fc(x)) * 1.0

READY = Net()
NUMBER = 3

def number():
    return 3

def broken():
    raise RuntimeError("no weights here")
"""


@pytest.fixture
def net(tmp_path: Path) -> str:
    path = tmp_path / "net.py"
    path.write_text(NET)
    sys.modules.pop("net", None)
    return str(path)


def run(*arguments: str) -> str:
    """Return what a command prints; a LeptoncError is raised as ``main`` would meet it."""
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_passes_lists_every_pass_with_its_options() -> None:
    text = run("passes")
    assert "fold-batchnorm" in text and "max-sweeps=16" in text and "O2: " in text


def test_doctor_says_what_it_sees() -> None:
    text = run("doctor")
    for word in ("machine", "float32 lanes", "affinity allows", "torch", "cache"):
        assert word in text


def test_ir_before_and_after(net: str) -> None:
    shape = ("--input", "2x4")
    before = run("ir", f"{net}:Net", *shape, "--before")
    assert "func @" in before and "mul" in before and "net.py:" in before
    assert "mul" not in run("ir", f"{net}:Net", *shape, "--after", "dce")
    assert "unit" in run("ir", f"{net}:READY", *shape, "--pipeline", "O2")


def test_version() -> None:
    assert run("--version").startswith("leptonc 0.")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("ir", "{net}", "--input", "1x4"), "expected MODULE:CALLABLE"),
        (("ir", "nowhere_at_all:x", "--input", "1x4"), "cannot import 'nowhere_at_all'"),
        (("ir", "missing.py:x", "--input", "1x4"), "there is no file missing.py"),
        (("ir", "{net}:Nett", "--input", "1x4"), "has no 'Nett'; did you mean Net?"),
        (("ir", "{net}:NUMBER", "--input", "1x4"), "NUMBER is int; expected a module"),
        (("ir", "{net}:number", "--input", "1x4"), "gives int; expected a torch.nn.Module"),
        (("ir", "{net}:broken", "--input", "1x4"), "RuntimeError: no weights here"),
        (("ir", "torch.nn:Linear", "--input", "1x4"), "It is called without arguments"),
        (("ir", "{net}:Net"), "give the shape of each input"),
        (("ir", "{net}:Net", "--input", "1y4"), "expected a shape, 1x3x224x224"),
        (("ir", "{net}:Net", "--input", "1x4:f99"), "the types are"),
        (("ir", "{net}:Net", "--input", "1x4", "--pipeline", "simplfy"), "did you mean simplify?"),
        (
            ("ir", "{net}:Net", "--input", "1x4", "--pipeline", "simplify{max-sweps=1}"),
            "did you mean max-sweeps?",
        ),
        (("ir", "{net}:Net", "--input", "1x4", "--after", "nope"), "it has: fold-constants, "),
        (("compile", "{net}:Net", "--input", "1x4", "--target", "tpu"), "unknown target 'tpu'"),
        (("compile", "{net}:Net", "--input", "1x4", "--verify", "maybe"), "off, final"),
        (("explore", "{net}:Net", "--input", "1x4", "-o", "/no/dir/a.html"), "no directory"),
        (("explore", "{net}:Net", "--input", "1x4", "-o", "a.pdf"), "ends in .html, .json, .dot"),
        (("profile", "{net}:Net", "--input", "1x4", "--trace", "/no/dir/a.json"), "no directory"),
        (("bisect", "{net}:Net", "--input", "nowhere.pt"), "there is no file nowhere.pt"),
        (("bisect", "{net}:Net", "--input", "1x4", "--write", "/no/dir/t.py"), "no directory"),
        (("bisect", "{net}:Net", "--input", "1x4", "--metric", "{net}:No"), "has no 'No'"),
        (("compress", "{net}:Net", "prune{ratio=2}", "--input", "1x4"), "ratio=2"),
        (("compress", "{net}:Net", "prun", "--input", "1x4"), "did you mean prune?"),
        (("compress", "{net}:Net", "cse", "--input", "1x4"), "cse is a pass, not a recipe"),
        (("compress", "{net}:Net", "", "--input", "1x4"), "no recipe named"),
        (("compress", "{net}:Net", "quantize{form=int8}", "--input", "1x4"), "mean forms?"),
        (("compress", "{net}:Net", "quantize{forms=int8}", "--input", "1x4"), "one leaves no"),
        (("compress", "{net}:Net", "quantize", "--input", "1x4", "--data", "no.npz"), "no file"),
        (("compress", "{net}:Net", "quantize", "--input", "1x4", "-o", "/no/dir/a"), "directory"),
        (("bench", "--suite", "huge"), "unknown suite 'huge'"),
        (("plan", "llama-2-7b"), "give --cluster"),
        (("plan", "llama-2-7b", "--cluster", "2xa100", "--target", "cpu:2"), "give --cluster"),
        (("plan", "llama-7b", "--cluster", "2xa100"), "llama-2-7b"),
        (("plan", "llama-2-7b", "--cluster", "2xa10"), "did you mean"),
        (
            ("plan", "llama-2-7b", "--cluster", "2xl4", "--tokens", "9"),
            "expected prompt and answer",
        ),
        (("plan", "llama-2-7b", "--cluster", "2xl4", "--objective", "fun"), "unknown objective"),
        (("plan", "{net}:Net", "--cluster", "2xl4"), "give the shape of each input"),
        (("plan", "gpt-175b", "--cluster", "2xl4"), "no layout of 2 x l4 fits"),
        (("bench", "--threads", "two"), "--threads two: expected whole numbers"),
        (("bench", "--peers", "tvm"), "unknown peer 'tvm'"),
        (("bench", "--only", "nope"), "no network 'nope' in tiny"),
    ],
)
def test_a_mistake_is_told_in_one_line(net: str, arguments: tuple[str, ...], text: str) -> None:
    with pytest.raises(LeptoncError) as caught:
        run(*(a.format(net=net) if "{net}" in a else a for a in arguments))
    assert text in str(caught.value)


def test_a_mistake_ends_the_process_without_a_traceback() -> None:
    code = "from leptonc.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "ir", "missing[red].py:x"], capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == "leptonc: there is no file missing[red].py\n"


@pytest.mark.numba
def test_compile_prints_a_report(net: str) -> None:
    text = run("compile", f"{net}:Net", "--input", "2x4", "--source", "--explain", "--no-tune")
    assert "100.0 % native" in text and "def build" in text
    assert "ways to compute its units" in text and "nothing to choose: 1 unit" in text


@pytest.mark.numba
def test_explore_writes_a_page(net: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    text = run("explore", f"{net}:Net", "--input", "2x4", "-o", str(page), "--no-tune")
    assert text == f"explorer: {page}\n"
    assert page.read_text().startswith("<!doctype html>")


def test_ir_is_text_where_there_is_no_terminal(net: str) -> None:
    text = run("ir", f"{net}:Net", "--input", "2x4", "--before")
    assert text.startswith("func @") and "\x1b" not in text
    assert "net.py:" in text


def test_plan_says_how_a_decoder_is_best_divided() -> None:
    text = run("plan", "llama-2-70b", "--cluster", "4xh100", "--tokens", "64+32", "--price", "2")
    lines = text.splitlines()
    assert lines[0] == (
        "llama-2-70b, 64 + 32 tokens on 4 x h100-80 over nvlink4, searched for latency"
    )
    assert lines[1] == "  best        1 stage x 4 ranks x 1 replica: 4 of 4 devices"
    assert "one device has too little memory" in lines[2] and "tokens/s" in lines[3]
    assert "at $8 an hour" in text and "runners-up" in text and "  devices     all" in text


def test_plan_says_that_a_small_model_needs_one_device(net: str) -> None:
    text = run("plan", f"{net}:Net", "--input", "2x4", "--cluster", "8xa100", "--batch", "3")
    assert "1 of 8 devices" in text and "fewer are better: one copy on all 8 has" in text
    assert text.startswith(f"{net}:Net of 2x4 on 8 x a100-80 over nvlink3, batch 3, searched for")


def test_plan_explains_this_machine(net: str) -> None:
    text = run("plan", f"{net}:Net", "--input", "2x4", "--target", "cpu:2")
    assert text.startswith("cpu:2: 2 processes of this machine") and "predicted" in text


@pytest.mark.numba
def test_profile_prints_a_table_and_writes_figures(net: str, tmp_path: Path) -> None:
    figures, timeline = tmp_path / "figures.json", tmp_path / "trace.json"
    text = run("profile", f"{net}:Net", "--input", "2x4", "--json", str(figures), "--trace",
               str(timeline))  # fmt: skip
    assert "of the measured peak" in text and "by kernel" in text and "trace: " in text
    assert json.loads(figures.read_text())["inputs"] == ["f32[2,4]"]
    assert {e["ph"] for e in json.loads(timeline.read_text())["traceEvents"]} == {"M", "X"}


@pytest.mark.numba
def test_bisect_of_a_right_model(net: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save(torch.randn(2, 4), tmp_path / "x.pt")
    test = tmp_path / "test_found.py"
    text = run("bisect", f"{net}:READY", "--input", str(tmp_path / "x.pt"), "--write", str(test))
    assert "nothing" in text and not test.exists()
    assert "nothing" in run("bisect", f"{net}:READY", "--input", "2x4")


@pytest.mark.numba
def test_bisect_of_a_wrong_model_writes_a_test_and_exits_with_1(
    net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from leptonc.ir.kinds.unary import Neg
    from leptonc.passes import simplify
    from leptonc.passes.rules.build import emit

    rules = tuple(
        dataclasses.replace(r, rhs=emit(Neg(), "x")) if r.name == "mul-one" else r
        for r in simplify.ALWAYS
    )
    monkeypatch.setattr(simplify, "ALWAYS", rules)
    test = tmp_path / "test_found.py"
    arguments = ["bisect", f"{net}:READY", "--input", "2x4", "--write", str(test)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1 and f"test: {test}" in done.output
    assert "mul-one, application 1 of 1" in done.output and "(net.py:" in done.output
    assert "CASE.problem() is None" in test.read_text()
