"""A part that was saved is the part, without the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

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
    (got,) = leptonc.run(parts, X).values()
    assert torch.equal(got, want)
    (got,) = leptonc.run(parts, {"x": X}, microbatches=2).values()
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert "Residual[1], loaded" in repr(parts[1])
    with pytest.raises(InputError, match=r"the parts: missing x; it takes \(x\)"):
        leptonc.run(parts, {})
    with pytest.raises(PartError, match="parts 0 to 2"):
        leptonc.run(parts[1:], X)


def test_weights_that_are_handed_on_are_saved(tmp_path: Path) -> None:
    net, ids = seeded(Tied), torch.arange(12).reshape(2, 6)
    parts = leptonc.split(net, 3, ids, cache=False, machine=Machine(link=1e12))
    want = leptonc.run(parts, ids)
    for part in parts:
        part.save(tmp_path / f"{part.index}")
        part.save(tmp_path / f"{part.index}")  # replaces itself
    loaded = _loaded(tmp_path)
    (got,) = leptonc.run(loaded, ids).values()
    assert torch.equal(got, want) and loaded[0].outputs == parts[0].outputs
    held = tmp_path / "0" / "held.safetensors"
    data = bytearray(held.read_bytes())
    data[-3] ^= 1
    held.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"held.safetensors: hash"):
        leptonc.Part.load(tmp_path / "0")


@pytest.mark.parametrize("change", [{"format": 99}, {"inputs": 3}, {"params": [["x", "f99[2]"]]}])
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
