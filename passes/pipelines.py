"""The named pipelines ``O0`` to ``O3``: strings, in this one file."""

from __future__ import annotations

from collections.abc import Mapping

PIPELINES: Mapping[str, str] = {
    # every op a unit of its own, nothing rewritten
    "O0": "partition{max-ops=1}",
    # what is always worth it and keeps every bit or nearly so
    "O1": "simplify,cse,dce,fold-batchnorm,fuse,partition",
    "O2": (
        "fold-constants,simplify,recognize,cse,dce,"
        "fold-batchnorm,merge-linear,fold-constants,simplify,cse,dce,"
        "layout,fuse,partition"
    ),
    # O2, and sums may be reordered for speed
    "O3": (
        "fold-constants,simplify{reassociate=true},recognize,cse,dce,"
        "fold-batchnorm,merge-linear,fold-constants,simplify{reassociate=true},cse,dce,"
        "layout,fuse,partition"
    ),
}
