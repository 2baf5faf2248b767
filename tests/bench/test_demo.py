"""The demo: its photos, its answers, and (slow) the whole of it."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from leptonc import demo
from leptonc.bench import photos as module
from leptonc.errors import LeptoncError

_absent = [p for p in module.PACKAGES if importlib.util.find_spec(p) is None]
needs_packages = pytest.mark.skipif(bool(_absent), reason=f"not installed: {', '.join(_absent)}")


@needs_packages
def test_photos_are_prepared_as_published() -> None:
    photos = module.load_photos()
    assert photos.images.shape == (20, 3, 224, 224) and photos.images.dtype is torch.float32
    assert photos.images.abs().max() <= 1.0
    assert photos.labels[:3].tolist() == [243, 559, 438]


def test_answers_count_labels() -> None:
    images = torch.zeros(3, 3, 2, 2)
    logits = torch.tensor([[9.0, 1, 2, 3, 4, 5]])
    found = demo.answers(lambda x: logits, module.Photos(images, torch.tensor([0, 1, 2])))
    assert (found.top1, found.top5) == (1, 2)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LeptoncError, match=r"foolbox.*make demo"):
        module.load_photos()


@needs_packages
@pytest.mark.slow
@pytest.mark.numba
def test_the_whole_demo(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=160)
    report = tmp_path / "report.html"
    _, eager, ours = demo.demo(console, [1], "none", 0.5, report)
    assert (eager.top1, eager.top5) == (18, 19) == (ours.top1, ours.top5)
    assert "_conv_stem" in report.read_text()
    assert "top-1 18/20" in console.file.getvalue()
