"""numba_cpu > peak: the most this machine does, measured: multiply-adds and bytes read per second.

A share of the limit is only worth something if the limit is that of the machine at hand: the clock
and the memory of a virtual machine stand in no table. Both figures are the best of several short
runs, because whatever disturbs a run makes it slower.
"""

from __future__ import annotations

import functools

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.executor import Program
from leptonc.backends.numba_cpu.kernels.base import Kernel, kernel
from leptonc.backends.numba_cpu.kernels.shares import share
from leptonc.backends.numba_cpu.kernels.vec import arg, vadd, vload, vstore, vzero
from leptonc.backends.numba_cpu.kernels.vectype import I64, LANES, VF, fconst, fma, i64, vf32
from leptonc.backends.numba_cpu.pool import aligned_zeros

CHAINS = 12  # independent sums: two units with a latency of four cycles need eight
STARTS = tuple(float(3 + i) for i in range(CHAINS))  # x / 2 + 1 stays at 2: LLVM drops that chain
TURNS = 2_000_000  # of the loop over the chains: a few ms
READ_BYTES = 96 * 2**20  # that all threads read together: more than a last-level cache
RUNS = 10


@intrinsic
def _chains(typingctx, turns):
    """Return the sum of CHAINS sums of ``turns`` >= 1 multiply-adds each, all in registers."""

    def build(context, b, sig, args):
        entry, loop, end = b.block, b.append_basic_block("loop"), b.append_basic_block("end")
        b.branch(loop)
        b.position_at_end(loop)
        turn, sums = b.phi(I64), [b.phi(VF) for _ in range(CHAINS)]
        following = b.add(turn, i64(1))
        new = [fma(b, x, fconst(0.5), fconst(1.0)) for x in sums]
        for phi, first, later in zip(
            [turn, *sums], [i64(0), *map(fconst, STARTS)], [following, *new], strict=True
        ):
            phi.add_incoming(first, entry)
            phi.add_incoming(later, loop)
        b.cbranch(b.icmp_signed("<", following, args[0]), loop, end)
        b.position_at_end(end)
        return functools.reduce(b.fadd, new)

    return vf32(types.int64), build


@kernel
def multiply_adds(args, tid, nt):
    """Compute slot 0 turns of the chains; their sum goes to slot 1, ``f32[nt, LANES]``."""
    vstore(arg(args, 1), tid * LANES, _chains(arg(args, 0)))


@kernel
def read_all(args, tid, nt, cuts):
    """Sum this thread's share of ``f32[]`` at slot 0, slot 1 groups of 8 vectors, into slot 2."""
    groups = arg(args, 1)
    begin, end = share(groups, tid, nt, cuts)
    s0, s1, s2, s3 = vzero(), vzero(), vzero(), vzero()
    start = arg(args, 0)
    for group in range(begin, end):
        i = group * 8 * LANES
        s0 = vadd(s0, vadd(vload(start, i), vload(start, i + 4 * LANES)))
        s1 = vadd(s1, vadd(vload(start, i + LANES), vload(start, i + 5 * LANES)))
        s2 = vadd(s2, vadd(vload(start, i + 2 * LANES), vload(start, i + 6 * LANES)))
        s3 = vadd(s3, vadd(vload(start, i + 3 * LANES), vload(start, i + 7 * LANES)))
    vstore(arg(args, 2), tid * LANES, vadd(vadd(s0, s1), vadd(s2, s3)))


@functools.cache
def gflops(threads: int) -> float:
    """Return the 10^9 float32 operations a second that ``threads`` threads do in registers.

    A multiply-add counts as two. Takes some 50 ms once, compiling apart.
    """
    sums = np.zeros(threads * LANES, np.float32)
    seconds = _best(threads, multiply_adds, TURNS, sums.ctypes.data)
    return threads * TURNS * CHAINS * LANES * 2 / seconds / 1e9


@functools.cache
def gbytes(threads: int) -> float:
    """Return the 10^9 bytes a second that ``threads`` threads together read from memory.

    Takes some 80 ms once, compiling apart.
    """
    data = aligned_zeros(READ_BYTES)
    data[::4096] = 1  # pages never written to would all be the same zeros, in the cache
    sums = np.zeros(threads * LANES, np.float32)
    groups = READ_BYTES // (32 * LANES)
    return READ_BYTES / _best(threads, read_all, data.ctypes.data, groups, sums.ctypes.data) / 1e9


def _best(threads: int, run: Kernel, *slots: int) -> float:
    """Return the seconds of the fastest of some runs, from the first start to the last end."""
    program = Program(threads)
    for _ in range(1 + RUNS):  # the first one meets threads and cores that sleep
        program.step(run, *slots)
    clock = program.timed()
    return float((clock[1:, :, 1].max(1) - clock[1:, :, 0].min(1)).min()) / 1e9
