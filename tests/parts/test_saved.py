"""A part that was saved is the part, without the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

import leptonc
from leptonc import Dim
from leptonc.errors import ArtifactError, InputError, PartError
from leptonc.parts.saved import LoadedPart
from leptonc.parts.weigh import Machine

from .dags import Residual, Tied, normal, seeded

pytest.importorskip("leptonc.saved")
X = normal(4, 3, 8, 8)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    folder = tmp_path_factory.mktemp("parts")
    sizes = {"x": {0: Dim("batch", max=64)}}
    parts = leptonc.split(seeded(Residual), 3, X, dynamic=sizes, cache=False)
    for part in parts:
        part.save(folder / f"{part.index}")
    return folder, leptonc.run(parts, X)


def _loaded(folder: Path, count: int = 3) -> list[LoadedPart]:
    return [leptonc.Part.load(folder / f"{i}") for i in range(count)]


def test_loaded_parts_are_the_model(saved) -> None:
    folder, want = saved
    parts = _loaded(folder)
    assert torch.equal(leptonc.run(parts, X), want)
    got = leptonc.run(parts, {"x": X}, microbatches=2)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert "Residual[1], loaded" in repr(parts[1])
    with pytest.raises(InputError, match="x"):
        leptonc.run(parts, {})
    with pytest.raises(PartError, match="parts 0 to 2"):
        leptonc.run(parts[1:], X)


class Arranged(nn.Module):
    """Two linear layers, whose values come back as ``arrange`` puts them."""

    def __init__(self, arrange: Callable[..., Any]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 5)
        self.arrange = arrange

    def forward(self, x: Tensor, scale: Tensor) -> Any:
        h = torch.tanh(self.first(x)) * scale
        return self.arrange(x, h, self.second(h))


ARRANGED: dict[str, Callable[..., Any]] = {
    "single": lambda x, h, y: y,
    "tuple": lambda x, h, y: (y, h),
    "list": lambda x, h, y: [h, y],
    "dict": lambda x, h, y: {"logits": y, "hidden": h},
    "nested": lambda x, h, y: {"out": (y, [h, None]), "rows": x.shape[0], "same": y},
    "input": lambda x, h, y: (x, y),
}


@pytest.mark.parametrize("how", ARRANGED)
def test_loaded_parts_return_what_the_model_returns(how: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = Arranged(ARRANGED[how]).eval(), (normal(4, 6), normal(8))
    parts = leptonc.split(model, 2, inputs, dynamic={"x": {0: Dim("batch", max=9)}}, cache=False)
    for part in parts:
        part.save(tmp_path / f"{part.index}")
    loaded, x = _loaded(tmp_path, 2), normal(6, 6)
    with torch.no_grad():
        want = model(x, inputs[1])
    for given in ((x, inputs[1]), {"scale": inputs[1], "x": x}):
        got = leptonc.run(loaded, given)
        assert pytree.tree_structure(got) == pytree.tree_structure(want)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_weights_that_are_handed_on_are_saved(tmp_path: Path) -> None:
    net, ids = seeded(Tied), torch.arange(12).reshape(2, 6)
    parts = leptonc.split(net, 3, ids, cache=False, machine=Machine(link=1e12))
    want = leptonc.run(parts, ids)
    for part in parts:
        part.save(tmp_path / f"{part.index}")
        part.save(tmp_path / f"{part.index}")  # replaces itself
    loaded = _loaded(tmp_path)
    assert torch.equal(leptonc.run(loaded, ids), want) and loaded[0].outputs == parts[0].outputs
    held = tmp_path / "0" / "held.safetensors"
    data = bytearray(held.read_bytes())
    data[-3] ^= 1
    held.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"held.safetensors: hash"):
        leptonc.Part.load(tmp_path / "0")


@pytest.mark.parametrize(
    "change", [{"format": 99}, {"inputs": 3}, {"params": [["x", "f99[2]"]]}, {"call": {}}]
)
def test_names_that_were_changed_are_refused(saved, tmp_path: Path, change: dict) -> None:
    folder, _ = saved
    said = json.loads((folder / "0" / "part.json").read_text())
    (tmp_path / "part.json").write_text(json.dumps(said | change))
    (tmp_path / "net").symlink_to(folder / "0" / "net")
    with pytest.raises(ArtifactError, match=r"part\.json"):
        leptonc.Part.load(tmp_path)


def test_nothing_else_is_overwritten(saved, tmp_path: Path) -> None:
    parts = leptonc.split(seeded(Residual), 2, X, cache=False)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="is no saved part"):
        parts[0].save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(ArtifactError, match="cannot be read"):
        leptonc.Part.load(tmp_path)
