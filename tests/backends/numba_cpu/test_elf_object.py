"""Object files put into memory: what kernels are compiled to runs, anything else is refused."""

from __future__ import annotations

import ctypes
import struct

import numpy as np
import pytest

from leptonc.backends.numba_cpu.kernels import elf_object, machine_code
from leptonc.backends.numba_cpu.kernels.base import Kernel
from leptonc.backends.numba_cpu.kernels.elf_object import LoadedObject, Refused
from leptonc.backends.numba_cpu.kernels.toolchain import ObjectCode
from leptonc.backends.numba_cpu.kernels.vec import ldi64, sti64

pytestmark = [
    pytest.mark.numba,
    pytest.mark.skipif(not elf_object.possible(), reason="other object files"),
]
TABLE = (3, 1, 4, 1, 5, 9, 2, 6)
RELOCATIONS = 4  # the type of a section of them


def tabled(args, tid, nt):
    """Replace the words behind the first by entries of a table, an address in the code."""
    for i in range(1, 1 + ldi64(args, 0)):
        sti64(args, i, TABLE[ldi64(args, i) % 8] + nt * tid)


@pytest.fixture(scope="module")
def made() -> ObjectCode:
    return Kernel(tabled, "tabled")._object()


def run(code: machine_code.NativeCode) -> list[int]:
    words = np.array([8, *range(8)])
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)(code.address)
    call(words.ctypes.data, 2, 5, 0)
    return words[1:].tolist()


def test_code_runs_as_in_an_engine_of_llvm(made):
    expected = [n + 10 for n in TABLE]
    assert run(LoadedObject(made.symbol, made.code, machine_code._address_of)) == expected
    assert run(machine_code._EngineCode(made.symbol, made.code)) == expected


def test_kernels_come_without_llvm(made):
    assert isinstance(machine_code.native_code(made.symbol, made.code), LoadedObject)


def test_what_is_refused_goes_to_llvm(made, monkeypatch):
    def refuse(*_):
        raise Refused

    monkeypatch.setattr(elf_object, "LoadedObject", refuse)
    code = machine_code.native_code(made.symbol, made.code)
    assert isinstance(code, machine_code._EngineCode)
    assert run(code) == [n + 10 for n in TABLE]


def test_a_truncated_file_is_refused(made):
    for size in (0, 10, 63, 200, len(made.code) - 100):
        with pytest.raises(Refused):
            LoadedObject(made.symbol, made.code[:size], machine_code._address_of)


def test_other_files_are_refused(made):
    for at, byte in ((0, 0), (4, 1), (5, 2), (16, 2), (18, 183)):  # ELF, 64, little, .o, x86-64
        code = bytearray(made.code)
        code[at] = byte
        with pytest.raises(Refused):
            LoadedObject(made.symbol, bytes(code), machine_code._address_of)


def test_an_unknown_entry_is_refused(made):
    with pytest.raises(Refused, match="no function nobody"):
        LoadedObject("nobody", made.code, machine_code._address_of)


def test_an_unknown_relocation_is_refused(made):
    code = bytearray(made.code)
    loaded = elf_object._sections(made.code)
    tables = [s for s in loaded if s.kind == RELOCATIONS and loaded[s.info].kind == 1]
    assert tables
    for s in tables:
        struct.pack_into("<I", code, s.offset + 8, 2)  # R_X86_64_PC32
    with pytest.raises(Refused, match="relocation 2"):
        LoadedObject(made.symbol, bytes(code), machine_code._address_of)


def test_an_unknown_symbol_is_refused():
    from leptonc.backends.numba_cpu import native

    made = native.RUN_TEAM._object()  # calls numba's helpers and the C library
    LoadedObject(made.symbol, made.code, machine_code._address_of)
    with pytest.raises(Refused, match="at 0"):
        LoadedObject(made.symbol, made.code, lambda _: 0)


def test_symbols_of_the_process_are_found():
    assert elf_object.symbol_of_process("memcpy")
    assert elf_object.symbol_of_process("no such function") == 0
    assert machine_code._address_of("numba_gil_ensure")
