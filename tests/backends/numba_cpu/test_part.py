"""Parts of kernels: object files of their own, found by symbol, compiled by whoever is free."""

from __future__ import annotations

import numpy as np
import pytest
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from leptonc.backends.numba_cpu.kernels import base, elf_object, machine_code, winograd
from leptonc.backends.numba_cpu.kernels.base import KERNELS, kernel
from leptonc.backends.numba_cpu.kernels.machine_code import LINKED
from leptonc.backends.numba_cpu.kernels.part import part
from leptonc.backends.numba_cpu.kernels.vec import ldi64
from leptonc.backends.numba_cpu.kernels.vectype import I64, i64, pointer
from leptonc.backends.numba_cpu.kernels.winograd_calls import TRANSFORMS

pytestmark = pytest.mark.numba
ELF = pytest.mark.skipif(not elf_object.possible(), reason="reads object files of Linux on x86-64")


@part("test_scale", [I64, I64])
def SCALE(b: ir.IRBuilder, place: ir.Value, factor: ir.Value) -> None:
    """Multiply the word at ``place``."""
    at = pointer(b, place)
    b.store(b.mul(b.load(at, align=8, typ=I64), factor), at, align=8)


@intrinsic
def scale(typingctx, place, factor):
    """Multiply the word at ``place``."""

    def build(context, builder, sig, args):
        SCALE.call(builder, args)
        SCALE.call(builder, [args[0], i64(2)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), build


@kernel(parts=(SCALE,))
def scaled(args, tid, nt):
    """Multiply a word by twice another."""
    scale(ldi64(args, 0), ldi64(args, 1))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LEPTONC_CACHE_DIR", str(tmp_path))
    for native in (SCALE, scaled):
        monkeypatch.setattr(native, "_native", None)
        monkeypatch.setattr(native, "compile_seconds", 0.0)
    monkeypatch.setattr(scaled, "_call", None)


def result() -> int:
    word = np.array([21], np.int64)
    scaled(np.array([word.ctypes.data, 5], np.int64))
    return int(word[0])


@pytest.mark.parametrize("loader", ["ours", "llvm"])
def test_a_kernel_runs_its_part_whoever_loads_it(loader, monkeypatch) -> None:
    if loader == "llvm":
        monkeypatch.setattr(elf_object, "possible", lambda: False)
    assert result() == 210
    for native in (SCALE, scaled):
        assert native.from_cache is False
        native._native = None
    scaled._call = None
    assert result() == 210
    assert SCALE.from_cache and scaled.from_cache


def test_a_kernel_is_ready_when_its_parts_are() -> None:
    scaled.store()
    assert not scaled.ready and not scaled.try_load()
    SCALE.store()
    assert scaled.ready and scaled.try_load() and scaled.from_cache


def test_what_is_compiled_elsewhere_is_waited_for_while_parts_are_compiled(monkeypatch) -> None:
    begun: list[str] = []
    patience: list[float] = []

    def build(self, patience_s):
        begun.append(self.name)
        patience.append(patience_s)
        return None if self is scaled and patience_s == 0.0 else object()

    monkeypatch.setattr(base.Native, "_build", build)
    scaled.compile()
    assert begun == ["scaled", "test_scale", "scaled"]
    assert patience == [0.0, 0.0, base.PATIENCE_S]


def test_other_code_of_a_part_is_another_kernel(monkeypatch) -> None:
    before = scaled._file().path
    for native in (SCALE, scaled):
        monkeypatch.delitem(native.__dict__, "_stamp", raising=False)
    monkeypatch.setattr(SCALE, "fn", lambda b, place, factor: None)
    assert scaled._file().path != before


@ELF
@pytest.mark.parametrize("caller", [winograd.winograd, scaled], ids=lambda k: k.name)
def test_a_kernel_names_the_parts_that_it_calls(caller) -> None:
    code = caller._object().code
    symbols = elf_object._symbols(code, elf_object._sections(code))
    called = {s.name for s in symbols if s.section == elf_object._UNDEFINED} & set(LINKED)
    assert called == {p.symbol for p in caller.parts}


def test_a_helper_finds_parts_by_name() -> None:
    for p in (*winograd.winograd.parts, *(t for ts in TRANSFORMS.values() for t in ts.needed)):
        assert KERNELS.find(p.module, p.name) is p
        assert machine_code.LINKED[p.symbol] is p
