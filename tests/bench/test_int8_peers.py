"""Peers quantize a small net from given inputs; what cannot be asked has a row that says why."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leptonc.bench import int8_peers, quality
from leptonc.capture.frontend import capture

NEEDED = ("onnx", "onnxruntime", "onnxscript")


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)
    return nn.Sequential(*layers).eval()


def batches(count: int, seed: int) -> list[tuple[Tensor, ...]]:
    g = torch.Generator().manual_seed(seed)
    return [(torch.randn(1, 3, 8, 8, generator=g),) for _ in range(count)]


@pytest.mark.skipif(
    any(importlib.util.find_spec(p) is None for p in NEEDED), reason="not installed: onnxruntime"
)
def test_a_peer_quantizes_with_the_inputs_it_is_given(tmp_path: Path) -> None:
    model, (checked,) = net(), batches(1, 1)
    errors = []
    for name, scale in (("fits", 1.0), ("clips", 0.01)):
        folder = tmp_path / name
        folder.mkdir()
        given = [(x * scale,) for (x,) in batches(8, 0)]
        job = int8_peers.Job(model, checked, given, 1, folder)
        runs, notes = int8_peers.prepared({"onnxruntime": int8_peers.PEERS["onnxruntime"]}, job)
        assert not notes
        (found,) = runs["onnxruntime"](checked)
        wanted = model(*checked).detach()
        errors.append(float((found - wanted).norm() / wanted.norm()))
    assert errors[0] < 0.05 < 0.5 < errors[1]  # ranges of a hundredth clip nearly everything


def test_a_contestant_that_throws_has_a_note(tmp_path: Path) -> None:
    def absent(job: int8_peers.Job) -> Any:
        raise ModuleNotFoundError("No module named 'that'\nand more")

    job = int8_peers.Job(net(), batches(1, 0)[0], batches(1, 0), 1, tmp_path)
    runs, notes = int8_peers.prepared({"that": absent}, job)
    assert not runs and notes == {"that": "ModuleNotFoundError: No module named 'that'"}


def subject(peers: nn.Module | None) -> quality.Subject:
    model, data = net(), batches(2, 0)

    def judge(run: Any) -> tuple[float, str, Tensor]:
        found = torch.cat([run(*x) for x in batches(3, 1)])
        return float(len(found)), "", found

    return quality.Subject("small", "rows", capture(model, data[0]), data, judge, {}, peers)


def test_figures_of_peers_stand_behind_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def double(job: int8_peers.Job) -> Any:
        return lambda inputs: [2 * job.model(*inputs)]

    def absent(job: int8_peers.Job) -> Any:
        raise ModuleNotFoundError("No module named 'that'")

    monkeypatch.setattr(int8_peers, "PEERS", {"double": double, "that": absent})
    with torch.no_grad():
        rows = list(quality.figures(subject(net())))
        assert [r.variant for r in quality.figures(subject(None))] == ["float32"]
    assert [r.variant for r in rows] == ["float32", "double", "that"]
    assert rows[0].error == 0 and rows[1].error == pytest.approx(1) and rows[1].value == 3
    assert rows[2].value is None and "that" in rows[2].note
    assert quality.table(rows).row_count == 3


def test_a_net_without_its_packages_is_a_row_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> quality.Subject:
        quality.folder("no_such_package")
        raise AssertionError

    monkeypatch.setattr(quality, "SUBJECTS", {"small": absent})
    (row,) = quality.rows_of("small")
    assert row.value is None and "no-such-package" in row.note
