"""The named pipelines ``O0`` to ``O3``: strings, in this one file."""

from __future__ import annotations

from collections.abc import Mapping

PIPELINES: Mapping[str, str] = {
    # every op a unit of its own, nothing rewritten
    "O0": "partition{max-ops=1}",
    # what is always worth it and keeps every bit or nearly so
    "O1": "simplify,cse,dce,fold-batchnorm,fuse,partition",
    # all of it; only the sign of a zero may change, and sums only where a kind is recognised
    "O2": (
        "fold-constants,simplify{signed-zeros=false},recognize,cse,dce,"
        "fold-batchnorm,merge-linear,fold-constants,simplify{signed-zeros=false},cse,dce,"
        "layout,fuse,partition"
    ),
    # O2, and sums may be reordered for speed
    "O3": (
        "fold-constants,simplify{signed-zeros=false,reassociate=true},recognize,cse,dce,"
        "fold-batchnorm,merge-linear,fold-constants,simplify{signed-zeros=false,reassociate=true},cse,dce,"
        "layout,fuse,partition"
    ),
}
