"""numba_cpu > kernels > int8_dot: sums of four products of bytes, exact, by what the machine has.

``dot(b, acc, x, y)`` adds to each int32 lane of ``acc`` the sum over its four bytes of
``x`` (unsigned) times ``y`` (signed). Forms, best first:

``vnni``: one ``vpdpbusd`` (AVX512-VNNI, AVX-VNNI); it does not saturate.
``pairs``: ``vpmaddubsw`` adds pairs of products in int16 and saturates: exact only where it is
proven that no pair leaves int16 (:mod:`int8_pairs`), at three instructions; at two and a half
where that is proven of the pairs of two steps together.
``split``: the even and the odd bytes of ``y`` are multiplied apart, so that one summand of each
pair is 0 and the other at most ``255 * 128 = 32640 < 2**15``: exact, at twice the instructions.
``plain``: shifts and multiplications of int32, on any machine.

``DOT`` is the best form for any codes, ``PROVEN`` that for pairs which stay inside int16.
An int32 sum of ``k`` products stays exact for ``k <= MOST_DEPTH``: ``255 * 128 * k < 2**31``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import llvmlite.binding as llvm
from llvmlite import ir

from leptonc.backends.numba_cpu.kernels.machine_code import target_features
from leptonc.backends.numba_cpu.kernels.vectype import I8, I16, LANES, VI, call, iconst

MOST_DEPTH = (2**31 - 1) // (255 * 128)
Dot = Callable[[ir.IRBuilder, ir.Value, ir.Value, ir.Value], ir.Value]
_BYTES, _PAIRS = ir.VectorType(I8, 4 * LANES), ir.VectorType(I16, 2 * LANES)
_BITS = 32 * LANES
_MADD_BYTES = {
    16: "llvm.x86.avx512.pmaddubs.w.512", 8: "llvm.x86.avx2.pmadd.ub.sw",
    4: "llvm.x86.ssse3.pmadd.ub.sw.128",
}  # fmt: skip
_MADD_PAIRS = {
    16: "llvm.x86.avx512.pmaddw.d.512", 8: "llvm.x86.avx2.pmadd.wd", 4: "llvm.x86.sse2.pmadd.wd",
}  # fmt: skip


def _vnni(b: ir.IRBuilder, acc: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
    return call(b, f"llvm.x86.avx512.vpdpbusd.{_BITS}", VI, [acc, x, y])


def pair_sums(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """Return the sums of two neighbouring products as int16, where they saturate."""
    return call(b, _MADD_BYTES[LANES], _PAIRS, [b.bitcast(v, _BYTES) for v in (x, y)])


def widened(b: ir.IRBuilder, pairs: ir.Value) -> ir.Value:
    """Return the sums of two neighbouring int16 as int32."""
    ones = ir.Constant(_PAIRS, [1] * (2 * LANES))
    return call(b, _MADD_PAIRS[LANES], VI, [pairs, ones])


def _pairs(b: ir.IRBuilder, acc: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.add(acc, widened(b, pair_sums(b, x, y)))


def _split(b: ir.IRBuilder, acc: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
    total = acc
    for mask in (0x00FF00FF, -0x00FF0100):  # the even bytes, the odd ones
        total = _pairs(b, total, x, b.and_(y, iconst(mask)))
    return total


def _plain(b: ir.IRBuilder, acc: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
    total = acc
    for byte in range(4):
        unsigned = b.and_(b.lshr(x, iconst(8 * byte)), iconst(255))
        signed = b.ashr(b.shl(y, iconst(24 - 8 * byte)), iconst(24))
        total = b.add(total, b.mul(unsigned, signed))
    return total


def add_words(b: ir.IRBuilder, acc: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
    """Return ``acc`` plus, in each lane, the sum of both products of its pairs of int16.

    That sum fits unless all four are the least int16.
    """
    if DOT == "vnni":
        return call(b, f"llvm.x86.avx512.vpdpwssd.{_BITS}", VI, [acc, x, y])
    if DOT == "split":
        words = [b.bitcast(v, _PAIRS) for v in (x, y)]
        return b.add(acc, call(b, _MADD_PAIRS[LANES], VI, words))
    sixteen, total = iconst(16), acc
    for part in (lambda v: b.ashr(b.shl(v, sixteen), sixteen), lambda v: b.ashr(v, sixteen)):
        total = b.add(total, b.mul(part(x), part(y)))
    return total


def target_triple() -> str:
    """Return the triple of the machine that kernels are compiled for."""
    return llvm.get_process_triple()


FORMS: Mapping[str, Dot] = {"vnni": _vnni, "pairs": _pairs, "split": _split, "plain": _plain}


def best_form() -> str:
    """Return the name of the fastest form that kernels may use here."""
    flags = frozenset(target_features().split(","))
    if "+avx512vnni" in flags and (LANES == 16 or "+avx512vl" in flags):
        return "vnni"
    if "+avxvnni" in flags and LANES <= 8:
        return "vnni"
    needed = {16: "+avx512bw", 8: "+avx2", 4: "+ssse3"}[LANES]
    return "split" if needed in flags else "plain"


DOT = best_form()
PROVEN = "pairs" if DOT == "split" else DOT
