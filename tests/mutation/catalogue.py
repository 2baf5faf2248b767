"""mutation > catalogue: every fault, cheap layers first."""

from __future__ import annotations

from mutation import (
    in_compression,
    in_kernels,
    in_lowering,
    in_passes,
    in_rules,
    in_runtime,
    in_sharding,
)
from mutation.fault import Fault

FAULTS: tuple[Fault, ...] = (
    *in_rules.FAULTS,
    *in_passes.FAULTS,
    *in_lowering.FAULTS,
    *in_runtime.FAULTS,
    *in_kernels.FAULTS,
    *in_compression.FAULTS,
    *in_sharding.FAULTS,
)

# Run, after a fault's own tests, until one fails.
BROADER: dict[str, tuple[str, ...]] = {
    "rule": ("tests/passes", "tests/lir", "tests/pipeline"),
    "pass": ("tests/passes", "tests/lir", "tests/pipeline", "tests/test_api.py"),
    "lowering": ("tests/backends/numba_cpu/test_contract.py", "tests/test_api.py"),
    "kernel": ("tests/backends/numba_cpu/test_contract.py", "tests/test_api.py"),
    "planner": ("tests/backends/numba_cpu/test_executor.py", "tests/test_api.py"),
    "runtime": ("tests/test_api.py", "tests/capture"),
    "compression": ("tests/compress", "tests/passes/test_fold_quant.py", "tests/meaning"),
    "sharding": ("tests/shard", "tests/backends/torch_spmd", "tests/runtime/group"),
}
