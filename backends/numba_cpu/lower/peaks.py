"""numba_cpu > lower > peaks: a convolution and the 2x2 max-pool of its result."""

from __future__ import annotations

from leptonc.backends.numba_cpu.legal import No
from leptonc.backends.numba_cpu.lower.contract import claim, function_of, lower_contract
from leptonc.backends.numba_cpu.lower.conv import lower_peaks as lower_conv_peaks
from leptonc.backends.numba_cpu.lower.core import Lowering
from leptonc.backends.numba_cpu.lower.epilogue import match
from leptonc.backends.numba_cpu.lower.pool import lower_pool
from leptonc.ir.core import Function
from leptonc.ir.kinds.contract import Conv
from leptonc.ir.kinds.data import Constant, Full
from leptonc.ir.kinds.reduce import MaxPool
from leptonc.passes.fusing.peaks import is_two_by_two


def lower_peaks(ctx: Lowering, body: Function) -> bool:
    """Lower a convolution, its epilogue and the pool; one step where a kernel does all of it.

    Returns:
        False if the body is of another form; nothing has been lowered then.
    """
    *ops, pool = (op for op in body.ops if not isinstance(op.kind, (Constant, Full)))
    if not isinstance(pool.kind, MaxPool) or not is_two_by_two(pool.kind):
        return False
    if body.returns != (pool.result,):
        return False
    rest = function_of(body, ops)
    found = match(ctx, rest)
    if found is None or not isinstance(found[0].kind, Conv) or isinstance(claim(found[0]), No):
        return False
    root, _, epilogue = found
    if not lower_conv_peaks(ctx, root, pool.result, epilogue):
        lower_contract(ctx, rest)
        lower_pool(ctx, pool)
    return True
