"""What the figures were measured on: processor, cores, versions, flags of the peers."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leptonc.backends.numba_cpu.kernels.machine_code import host_features, lanes
from leptonc.bench.peers import version
from leptonc.bench.protocol import COUNTED, REST_S
from leptonc.runtime.governor import Governor

PACKAGES = (
    "leptonc", "torch", "numba", "llvmlite", "numpy",
    "onnxruntime", "openvino", "ncnn", "pnnx", "torchvision", "transformers",
)  # fmt: skip
_FLAGS: Mapping[str, str] = {
    "eager": "torch.no_grad, set_num_threads",
    "inductor": "torch.compile, freezing=True, dynamic=False",
    "onnxruntime": "intra_op_num_threads, inter_op 1, CPU, from torch.onnx (dynamo)",
    "ncnn": "fp32 (no fp16, no bf16), Winograd, light mode, converted by pnnx",
    "openvino": "latency hint, 1 stream, f32, from the same ONNX file",
}
_WANTED = ("avx512f", "avx512vnni", "avxvnni", "amx-bf16", "avx2", "fma", "neon")


def facts(
    suite: Sequence[str], peers: Sequence[str], seconds: float, busy: int = 0
) -> dict[str, Any]:
    """Return the machine, versions, flags and protocol as plain data.

    ``busy``: processes that spin on the same cores.
    """
    features = host_features()
    beside = f"; {busy} process(es) spinning beside" if busy else ""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "processor": processor(),
        "lanes": lanes(),
        "features": [f for f in _WANTED if f"+{f}" in features],
        "threads": str(Governor().decision),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: v for name in PACKAGES if (v := version(name)) is not None},
        "flags": {name: _FLAGS[name] for name in peers},
        "suites": list(suite),
        "protocol": f"blocks of {REST_S * 1e3:.0f} ms rest, 1 discarded and {COUNTED} counted "
        f"calls per contestant and round; {seconds:g} s a row; threads pinned{beside}",
    }


def processor(path: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
