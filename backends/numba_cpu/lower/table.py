"""The table of lowerings: how each kind the backend claims becomes kernel calls.

``LOWER`` maps a kind to its claim and its lowering; ``UNITS`` maps the pattern of a unit to a
lowering of the whole body, which returns False to leave it to the ops one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from leptonc.backends.numba_cpu.legal import ClaimFn
from leptonc.backends.numba_cpu.lower import (
    attention,
    banded,
    code_rows,
    contract,
    conv,
    data,
    elementwise,
    norm,
    peaks,
    pool,
    quantized,
    recurrent,
    reduce,
    scaled,
    shape,
)
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.ir.core import Function, Kind, Op

LOWER: Mapping[type[Kind], tuple[ClaimFn, Callable[[Lowering, Op], None]]] = {
    **elementwise.LOWER,
    **shape.LOWER,
    **reduce.LOWER,
    **norm.LOWER,
    **data.LOWER,
    **contract.LOWER,
    **conv.LOWER,
    **pool.LOWER,
    **attention.LOWER,
    **recurrent.LOWER,
    **quantized.LOWER,
    **code_rows.LOWER,
}
UNITS: Mapping[str, Callable[[Lowering, Function], bool]] = {
    "peaks": peaks.lower_peaks,
    "banded": banded.lower_banded,
    "int8": quantized.lower_int_unit,
    "codes": code_rows.lower_code_rows,
    "pooled": pool.lower_pooled,
    "scaled": scaled.lower_scaled,
    "contract": contract.lower_contract,
    "chain": elementwise.lower_chain,
    "norm": norm.lower_norm_unit,
}
