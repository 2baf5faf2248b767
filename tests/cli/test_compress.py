"""``leptonc compress``: recipes as text, calibration from files, the ledger, the saved net."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

import leptonc
from leptonc.cli.compressing import _cut
from leptonc.compress import CompressError, LowRank, Prune, Quantize
from leptonc.compress.as_pass import recipes_of

from .test_cli import run

NET = """
import torch

def make():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Linear(64, 32), torch.nn.ReLU(),
        torch.nn.Linear(32, 4))
"""


@pytest.fixture
def net(tmp_path: Path) -> str:
    path = tmp_path / "small_net.py"
    path.write_text(NET)
    sys.modules.pop("small_net", None)
    return f"{path}:make"


def test_recipes_are_what_their_text_says() -> None:
    assert recipes_of("prune{ratio=0.25,skip=head+fc*},low-rank,quantize") == [
        Prune(0.25, skip=("head", "fc*")), LowRank(), Quantize(),
    ]  # fmt: skip
    assert recipes_of("quantize{forms=float+int8,method=mse}") == [
        Quantize(forms=("float", "int8"), method="mse")
    ]
    assert recipes_of("quantize{keep=faster}") == [Quantize(keep="faster")]
    for text, words in (("", "no recipe named"), ("dce", "dce is a pass"), ("O2", "is a pass")):
        with pytest.raises(CompressError, match=words):
            recipes_of(text)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(1, 4), st.integers(1, 4))
def test_files_are_cut_into_batches(widths: list[int], size: int, count: int) -> None:
    tensors = [torch.arange(size * count * w).reshape(-1, w) for w in widths]
    example = tuple(torch.zeros(size, w) for w in widths)
    batches = _cut(tuple(tensors), example)
    assert len(batches) == count
    for whole, *parts in zip(tensors, *batches, strict=True):
        assert all(p.shape[0] == size for p in parts) and torch.equal(torch.cat(parts), whole)
    named = _cut({str(i): t for i, t in enumerate(tensors)}, example)
    assert [list(b) for b in named] == [[str(i) for i in range(len(widths))]] * count
    uneven = tuple(t[1:] for t in tensors)
    assert size == 1 or _cut(uneven, example) == [uneven]


def test_it_prints_the_ledger_and_calibrates_on_files(net: str, tmp_path: Path) -> None:
    x = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    safetensors.torch.save_file({"input": x}, str(tmp_path / "data.safetensors"))
    np.savez(tmp_path / "data.npz", x.numpy())
    recipe = "prune{ratio=0.5},quantize{skip=4}"
    files = [tmp_path / "data.npz", tmp_path / "data.safetensors"]
    texts = [run("compress", net, recipe, "--input", "2x16", "--data", str(f)) for f in files]
    assert texts[0] == texts[1] and "calibrated on 3 batches" in texts[0]
    assert "32 of 64" in texts[0] and texts[0].count("weight to int8") == 2
    plain = run("compress", net, recipe, "--input", "2x16", "--remarks")
    assert "calibrated on the example inputs" in plain and plain.split("calib")[0] != texts[0]


@pytest.mark.numba
def test_what_is_saved_computes_what_was_compressed(net: str, tmp_path: Path) -> None:
    where = tmp_path / "net.leptonc"
    text = run("compress", net, "low-rank{error=0.5},quantize{forms=int8+w4}", "--input",
               "2x16", "--measure", "-o", str(where))  # fmt: skip
    assert f"saved: {where}" in text and "int8 ms" in text and "Quantize" in text
    torch.manual_seed(0)
    namespace: dict = {}
    exec(NET, namespace)
    x = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))  # as the command draws it
    wanted = namespace["make"]().eval()(x).detach()
    got = leptonc.load(where)(x)
    # rank by an error of 0.5 a layer, three layers; far from that of an unrelated net, about 1.4
    assert float((got - wanted).norm() / wanted.norm()) < 1.0
