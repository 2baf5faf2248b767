"""The matrices of a decoder, once a token: ``python -m leptonc.bench.gemv [--threads 1,2]``.

A decoder of 135 M parameters (30 layers of width 576, key and value 192, MLP 1536, vocabulary
49152, the sizes of SmolLM2-135M) with codes of 4 bits in groups of 64 and of 8 bits; activations
are quantized row by row. What a token reads of the matrices, in GB/s, stands beside the read
bandwidth that :mod:`leptonc.backends.numba_cpu.peak` measures in the same process.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.table import Table
from torch.utils import _pytree as pytree

import leptonc
from leptonc.backends.numba_cpu.peak import gbytes
from leptonc.capture import Captured, InputSpec, OutputSpec
from leptonc.ir.core import Builder, Value
from leptonc.ir.kinds.binary import Mul
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.quantize import IntLinear, QuantizeRows, UnpackInt4
from leptonc.ir.kinds.shape import Slice
from leptonc.ir.types import DType, TensorType
from leptonc.meaning import const_of

LAYERS, WIDTH, KEYS, MLP, VOCABULARY, GROUP = 30, 576, 192, 1536, 49152, 64
FORMS = {"W4 group 64": (4, GROUP), "W8": (8, None)}


def _linear(b: Builder, x: Value, n: int, bits: int, group: int | None) -> Value:
    """Append a linear layer of random codes."""
    k = int(x.type.shape[-1])
    codes, rows = b.emit(QuantizeRows(), x)
    if bits == 4:
        w = b(UnpackInt4(), b(Constant(const_of(torch.randint(0, 256, (n, k // 2)).byte()))))
    else:
        w = b(Constant(const_of(torch.randint(-127, 128, (n, k)).to(torch.int8))))
    shape = (n,) if group is None else (n, k // group)
    scale = b(Constant(const_of(torch.rand(shape) * 1e-3)))
    return b(Mul(), b(IntLinear(), codes, w, scale), rows)


def decoder(bits: int, group: int | None, rows: int) -> tuple[Captured, int]:
    """Return the matrices of all layers one after another, and the bytes that a token reads."""
    b = Builder("decoder")
    x = h = b.param(TensorType(DType.F32, (rows, WIDTH)), "x")
    for _ in range(LAYERS):
        h = b(Slice(1, 0, WIDTH), _linear(b, h, WIDTH + 2 * KEYS, bits, group))
        h = _linear(b, h, WIDTH, bits, group)
        h = b(Slice(1, 0, MLP), _linear(b, h, 2 * MLP, bits, group))
        h = _linear(b, h, WIDTH, bits, group)
    fn = b.finish(_linear(b, h, VOCABULARY, bits, group))
    weights = (
        LAYERS * (WIDTH * (WIDTH + 2 * KEYS) + WIDTH * WIDTH + 2 * MLP * WIDTH + MLP * WIDTH)
        + VOCABULARY * WIDTH
    )
    read = weights * bits // 8 + (0 if group is None else 4 * weights // group)
    example = torch.zeros([int(d) for d in x.type.shape])
    in_spec = pytree.tree_flatten(((example,), {}))[1]
    captured = Captured(
        fn, in_spec, pytree.tree_flatten(example)[1], (InputSpec("x", param=0, tensor=True),),
        (OutputSpec(result=0),),
    )  # fmt: skip
    return captured, read


def measure(name: str, threads: int, rows: int, seconds: float) -> tuple[float, float]:
    """Return milliseconds of a token (a call of ``rows`` rows) and GB/s of the matrices."""
    bits, group = FORMS[name]
    captured, read = decoder(bits, group, rows)
    x, model = torch.randn(rows, WIDTH), leptonc.compress.raise_(captured)
    net = leptonc.compile(model, x, threads=threads, verify="off", cache=False)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        net(x)
        times.append(time.perf_counter() - start)
    ms = 1e3 * statistics.median(times)
    return ms, read / ms / 1e6


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="leptonc.bench.gemv")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0)
    args = parser.parse_args(argv)
    made = Table("matrices", "threads", "ms a token", "tokens/s", "GB/s", "read GB/s", "share")
    for threads in map(int, args.threads.split(",")):
        bandwidth = gbytes(threads)
        for name in FORMS:
            ms, rate = measure(name, threads, args.rows, args.seconds)
            made.add_row(
                name, str(threads), f"{ms:.2f}", f"{1e3 * args.rows / ms:.0f}", f"{rate:.1f}",
                f"{bandwidth:.1f}", f"{rate / bandwidth:.0%}",
            )  # fmt: skip
    Console(width=100).print(made)


if __name__ == "__main__":
    main()
