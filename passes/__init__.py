"""Graph passes, one a file. ``REGISTRY`` and ``LOSSY`` map names to classes."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping

from leptonc.errors import PipelineError
from leptonc.passes.pipelines import PIPELINES
from leptonc.pipeline import Pass, parse_pipeline

REGISTRY: Mapping[str, str] = {
    "simplify": "leptonc.passes.simplify:Simplify",
    "recognize": "leptonc.passes.recognize:Recognize",
    "cse": "leptonc.passes.cse:Cse",
    "dce": "leptonc.passes.dce:Dce",
    "fold-constants": "leptonc.passes.fold_constants:FoldConstants",
    "fold-batchnorm": "leptonc.passes.fold_batchnorm:FoldBatchNorm",
    "fold-quant": "leptonc.passes.fold_quant:FoldQuant",
    "decode-weights": "leptonc.passes.decode_weights:DecodeWeights",
    "merge-linear": "leptonc.passes.merge_linear:MergeLinear",
    "layout": "leptonc.passes.layout:Layout",
    "fuse": "leptonc.passes.fuse:Fuse",
    "partition": "leptonc.passes.partition:Partition",
}

# Passes that change results, by recipes of compression; the laws of the others do not hold for
# them, and no pipeline of a level has them. Data-free: ``leptonc.compress`` has all options.
LOSSY: Mapping[str, str] = {
    "prune": "leptonc.compress.as_pass:PrunePass",
    "quantize": "leptonc.compress.as_pass:QuantizePass",
    "low-rank": "leptonc.compress.as_pass:LowRankPass",
}


class _Passes:
    """The registry that pipeline strings are read with."""

    def names(self) -> Iterable[str]:
        return (*REGISTRY, *LOSSY)

    def load(self, name: str) -> type[Pass]:
        return load(name)

    def pipelines(self) -> Mapping[str, str]:
        return PIPELINES


def load(name: str) -> type[Pass]:
    """Import and return the class of pass ``name``. Raises PipelineError on a wrong entry."""
    where = {**REGISTRY, **LOSSY}[name]
    module, _, cls = where.partition(":")
    found = getattr(importlib.import_module(module), cls)
    if not issubclass(found, Pass) or name != found.NAME:
        raise PipelineError(f"{where} is registered as {name!r}, calls itself otherwise")
    return found


def pipeline(text: str) -> tuple[Pass, ...]:
    """Return the passes of a pipeline string (``"O2"``, ``"cse,dce"``). Raises PipelineError."""
    return parse_pipeline(text, _Passes())
