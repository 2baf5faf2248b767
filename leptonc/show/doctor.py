"""What ``leptonc doctor`` prints: processor, cores and quota, threading, versions, cache."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator

from leptonc.backends.numba_cpu.kernels.machine_code import host_features, lanes
from leptonc.runtime.cache import CompileCache
from leptonc.runtime.governor import Governor

_WANTED = ("avx512f", "avx512vnni", "avxvnni", "amx-bf16", "avx2", "fma", "f16c", "sse4.2", "neon")
_PACKAGES = ("leptonc", "torch", "numba", "llvmlite", "numpy", "sympy", "networkx")


def facts() -> Iterator[tuple[str, str]]:
    """Yield pairs of a title and a line of text."""
    yield (
        "machine",
        f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
    )
    features = host_features()
    found = [f for f in _WANTED if f"+{f}" in features]
    yield "vectors", f"{lanes()} float32 lanes; {', '.join(found) or 'no vector features'}"
    yield "threads", str(Governor().decision)
    yield "worker pool", "own threads with spin barriers; no OpenMP runtime is started"
    for name in _PACKAGES:
        yield name, _version(name)
    yield "cache", str(CompileCache().report())


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
