"""The named pipelines ``O0`` to ``O3``: strings, in this one file."""

from __future__ import annotations

from collections.abc import Mapping

PIPELINES: Mapping[str, str] = {
    # every op a unit of its own, nothing rewritten
    "O0": "partition{max-ops=1}",
    # what is always worth it and keeps every bit, or nearly so
    "O1": "simplify,cse,dce,fold-batchnorm,fold-quant,decode-weights,fuse,partition",
    # all of it; the sign of a zero may change, and rounding where a pattern is recognised or folded
    "O2": (
        "fold-constants,simplify{signed-zeros=false},recognize,fold-constants,recognize,cse,dce,"
        "fold-batchnorm,merge-linear,fold-quant,fold-constants,simplify{signed-zeros=false},cse,"
        "dce,decode-weights,layout,fuse,partition"
    ),
    # O2, and constants of sums and products may be merged
    "O3": (
        "fold-constants,simplify{signed-zeros=false,reassociate=true},recognize,fold-constants,"
        "recognize,cse,dce,fold-batchnorm,merge-linear,fold-quant,fold-constants,"
        "simplify{signed-zeros=false,reassociate=true},cse,dce,decode-weights,layout,fuse,"
        "partition"
    ),
}
