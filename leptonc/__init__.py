"""leptonc: an optimizing compiler for PyTorch inference. Public names, imported when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leptonc import capture, compress
    from leptonc.api import compile, optimize
    from leptonc.capture import Dim
    from leptonc.compiled import CompiledModel
    from leptonc.compress.distill import Distill
    from leptonc.compress.finetune import finetune
    from leptonc.compress.lowrank import LowRank
    from leptonc.compress.prune import Prune, PruneSchedule
    from leptonc.compress.quantize import FreezeQuant, Quantize
    from leptonc.compress.store import Store
    from leptonc.errors import LeptoncError
    from leptonc.parts.parallel import Parallel
    from leptonc.parts.part import Part
    from leptonc.parts.pool import Pool
    from leptonc.parts.run import run
    from leptonc.parts.split import split
    from leptonc.saved import load
    from leptonc.shard.hints import Spatial
    from leptonc.shard.placement import Replicate, Shard
    from leptonc.shard.simulate import simulate
    from leptonc.sharded import ShardedModel
    from leptonc.sharding import Sharding, plan

__version__ = "0.1.0"
_CALLABLE = ("capture", "compress")  # packages that are functions, too
_WHERE = {
    "compile": "leptonc.api",
    "optimize": "leptonc.api",
    "CompiledModel": "leptonc.compiled",
    "Dim": "leptonc.capture",
    "LeptoncError": "leptonc.errors",
    "Distill": "leptonc.compress.distill",
    "FreezeQuant": "leptonc.compress.quantize",
    "LowRank": "leptonc.compress.lowrank",
    "Parallel": "leptonc.parts.parallel",
    "Part": "leptonc.parts.part",
    "Pool": "leptonc.parts.pool",
    "Prune": "leptonc.compress.prune",
    "PruneSchedule": "leptonc.compress.prune",
    "Quantize": "leptonc.compress.quantize",
    "Store": "leptonc.compress.store",
    "finetune": "leptonc.compress.finetune",
    "load": "leptonc.saved",
    "Replicate": "leptonc.shard.placement",
    "Shard": "leptonc.shard.placement",
    "ShardedModel": "leptonc.sharded",
    "Sharding": "leptonc.sharding",
    "Spatial": "leptonc.shard.hints",
    "plan": "leptonc.sharding",
    "run": "leptonc.parts.run",
    "simulate": "leptonc.shard.simulate",
    "split": "leptonc.parts.split",
}
__all__ = [
    "CompiledModel", "Dim", "Distill", "FreezeQuant", "LeptoncError", "LowRank", "Parallel",
    "Part", "Pool", "Prune", "PruneSchedule", "Quantize", "Replicate", "Shard", "ShardedModel",
    "Sharding", "Spatial", "Store", "capture", "compile", "compress", "finetune", "load",
    "optimize", "plan", "run", "simulate", "split",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import what is asked for: ``import leptonc`` alone loads neither torch nor numba."""
    if name in _CALLABLE:
        return importlib.import_module(f"leptonc.{name}")
    if name not in _WHERE:
        raise AttributeError(f"module 'leptonc' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
