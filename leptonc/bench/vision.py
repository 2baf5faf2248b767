"""torchvision's networks by name, also where torchvision stands beside a CPU build of torch."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import torch
from torch import nn

# torchvision's import registers fake kernels for two ops of its C++ library. That library does not
# load beside a torch of another build, and the import then fails unless the ops are declared first.
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_NO_ARGUMENT_FOR_LOGITS = ("googlenet", "inception_v3")


@functools.cache
def _declared() -> Any:
    """Declare the two ops and return the library that keeps them alive."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        library.define(schema)
    return library


@functools.cache
def beside(module: str) -> Any:
    """Return a module that imports torchvision. Raises ImportError if it is not installed."""
    try:
        importlib.import_module("torchvision")
    except ImportError:
        pass
    except RuntimeError as e:
        if "does not exist" not in str(e):
            raise
        _declared()
    return importlib.import_module(module)


def make(name: str) -> nn.Module:
    """Return torchvision's network ``name`` with random weights."""
    extra = {"init_weights": False} if name in _NO_ARGUMENT_FOR_LOGITS else {}
    return beside("torchvision.models").get_model(name, weights=None, **extra)
