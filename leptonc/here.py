"""What a program's steps and last bits depend on besides the program: machine, versions, code."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

import torch

from leptonc.backends.numba_cpu.kernels.machine_code import fingerprint
from leptonc.runtime.cache import cache_key
from leptonc.runtime.caches import read_caches


def here() -> str:
    """Return a hash (hex) of processor, its caches, versions of what compiles, and our own code.

    The sizes of the caches belong to the machine: they decide how a batch is cut, and a program of
    other steps would ask for stored constants in another order.
    """
    return cache_key(fingerprint(), read_caches(), torch.__version__, _sources())


@functools.cache
def _sources() -> str:
    """Return a hash of leptonc's own code: a changed pass or lowering may change every program."""
    sha = hashlib.sha256()
    # In a checkout some packages are links, which ``rglob`` does not follow.
    walk = os.walk(Path(__file__).parent, followlinks=True)
    for path in sorted(Path(d, name) for d, _, names in walk for name in names):
        if path.suffix == ".py":
            sha.update(path.name.encode() + path.read_bytes())
    return sha.hexdigest()
