"""Compression on the IR: recipes of lossy steps, their ledger, modules raised from IR.

A recipe (:mod:`recipe`) plans edits of a Function; :mod:`road` makes them one after another and
keeps a :mod:`ledger`; :mod:`raised` turns the result into a ``torch.nn.Module`` that trains, is
captured again exactly, and compiles.

The package is also the public function ``leptonc.compress``, as ``leptonc.capture`` is.
"""

import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from leptonc.api import Dynamic
from leptonc.capture.frontend import capture
from leptonc.compress.distill import Distill
from leptonc.compress.finetune import finetune
from leptonc.compress.ledger import Entry, Ledger
from leptonc.compress.lowrank import LowRank
from leptonc.compress.prune import Prune, PruneSchedule
from leptonc.compress.quantize import FreezeQuant, Quantize, freeze
from leptonc.compress.raised import Raised, raise_
from leptonc.compress.recipe import CompressError, Recipe
from leptonc.compress.road import Compressed, median_ms
from leptonc.compress.road import compress as _compress
from leptonc.compress.store import Store
from leptonc.show.progress import Progress

__all__ = [
    "CompressError", "Compressed", "Distill", "Entry", "FreezeQuant", "Ledger", "LowRank", "Prune",
    "PruneSchedule", "Quantize", "Raised", "Recipe", "Store", "finetune", "freeze", "raise_",
]  # fmt: skip


def compress(
    model: Any,
    example_inputs: Any,
    *recipes: Recipe,
    data: Iterable[Any] | None = None,
    seed: int = 0,
    dynamic: Dynamic = None,
) -> Compressed:
    """Return ``model`` made smaller by ``recipes``, as a module with a ledger of lossy steps.

    The module trains with any optimizer, has a plain ``state_dict``, and compiles.

    Args:
        model: an ``nn.Module`` in evaluation mode, as ``leptonc.compile`` takes it.
        example_inputs: a tensor, a tuple of positional arguments or a dict of keyword arguments.
        recipes: ``Prune``, ``Quantize``, ``LowRank``, ``Distill``, applied in order.
        data: calibration inputs, an iterable of batches as a DataLoader gives them.
        seed: of whatever recipes draw.
        dynamic: sizes that may change, as ``leptonc.compile`` takes them: ``{"x": {0:
            Dim("batch", max=64)}}``; the module and its data then have any of these, and it
            compiles for all of them. Times are measured at the example's.

    Raises:
        CompressError: nothing to do, calibration data that is missing or does not fit, an option
            out of range, a name that matches nothing.
        CaptureError: the model cannot be captured.
    """
    named = isinstance(example_inputs, Mapping)
    args, kwargs = ((), dict(example_inputs)) if named else (example_inputs, {})
    captured = capture(model, args, kwargs, dynamic=dynamic)
    args = args if isinstance(args, tuple) else (args,)
    example = captured.tensors(captured.flatten(args, kwargs))
    name = type(model).__name__
    with Progress(f"compressing {name}") as progress:
        return _compress(
            captured, recipes, example, data, seed=seed, timer=median_ms, progress=progress
        )


class _Callable(ModuleType):
    """Type of the package itself, which makes it callable."""

    def __call__(self, *args: Any, **kwargs: Any) -> Compressed:
        """Call :func:`compress`."""
        return compress(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
