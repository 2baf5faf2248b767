"""Networks from other packages; transformers imports torchvision, whose ops may be missing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch

from leptonc.bench import vision

with contextlib.suppress(ImportError):
    vision.beside("torchvision.models")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.manual_seed(0)
    with torch.no_grad():
        yield
