"""numba_cpu > kernels > elf_object: object files of kernels, put into memory without LLVM.

Kernels are compiled with the large code model: their only relocations are 64-bit absolute
addresses, which take a table look-up and an addition. LLVM's loader would touch 6 MiB of its
library and build an engine for every kernel. Whatever else an object file holds is refused, and
LLVM loads that one. Formats: System V ABI, "Object Files", and its AMD64 supplement, chapter 4.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import platform
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass

_HEAD = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")
_MAGIC = b"\x7fELF\x02\x01\x01"  # 64 bits, little-endian, version 1
_RELOCATABLE, _X86_64 = 1, 62
_SYMTAB, _RELA, _NOBITS, _REL = 2, 4, 8, 9
_UNWIND = 0x70000001
_ALLOC = 2
_ABSOLUTE_64 = 1  # R_X86_64_64: symbol + addend
_UNDEFINED = 0
_PROT_READ_EXEC = 5

Find = Callable[[str], int]  # address of a symbol of this process; 0 if there is none


class Refused(Exception):
    """An object file that only LLVM can load."""


def possible() -> bool:
    """Return whether this machine's object files are what this module reads."""
    return sys.platform == "linux" and platform.machine() == "x86_64"


@dataclass(frozen=True)
class Section:
    """One header of the section table."""

    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entry: int


@dataclass(frozen=True)
class Symbol:
    """One entry of the symbol table; ``section`` is the index of the section that holds it."""

    name: str
    section: int
    value: int


class LoadedObject:
    """Machine code in pages of its own, which may be run and no longer written.

    Args:
        symbol: the entry function.
        code: an object file.
        find: gives the addresses of what the code calls.

    Attributes:
        address: where the entry function lies; valid as long as this object.

    Raises:
        Refused: the file holds anything but plain sections and absolute addresses, a symbol is
            unknown, or the system forbids pages that were written to be run.
    """

    def __init__(self, symbol: str, code: bytes, find: Find) -> None:
        try:
            sections = _sections(code)
            symbols = _symbols(code, sections)
            places, size = _layout(sections)
            self._memory = mmap.mmap(-1, max(size, 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
            for i, at in places.items():
                s = sections[i]
                if s.kind != _NOBITS:
                    self._memory[at : at + s.size] = code[s.offset : s.offset + s.size]
            addresses = [_address(s, base, places, find) for s in symbols]
            for s in sections:
                if s.kind in (_RELA, _REL) and s.info in places:
                    _relocate(self._memory, places[s.info], code, s, addresses)
        except (struct.error, ValueError, IndexError, UnicodeDecodeError) as e:
            raise Refused(str(e)) from None
        entries = [a for s, a in zip(symbols, addresses, strict=True) if s.name == symbol and a]
        if not entries:
            raise Refused(f"no function {symbol}")
        (self.address,) = entries
        _make_executable(base, len(self._memory))


def _sections(code: bytes) -> list[Section]:
    head = _HEAD.unpack_from(code)
    if not head[0].startswith(_MAGIC) or head[1:3] != (_RELOCATABLE, _X86_64):
        raise Refused("no relocatable object file for x86-64")
    start, width, count = head[6], head[11], head[12]
    if width != _SECTION.size:
        raise Refused(f"sections of {width} bytes")
    return [Section(*_SECTION.unpack_from(code, start + i * width)) for i in range(count)]


def _symbols(code: bytes, sections: list[Section]) -> list[Symbol]:
    (table,) = [s for s in sections if s.kind == _SYMTAB]
    names = sections[table.link].offset
    found: list[Symbol] = []
    for at in range(table.offset, table.offset + table.size, _SYMBOL.size):
        name, _, _, section, value, _ = _SYMBOL.unpack_from(code, at)
        end = code.index(b"\0", names + name)
        found.append(Symbol(code[names + name : end].decode(), section, value))
    return found


def _layout(sections: list[Section]) -> tuple[dict[int, int], int]:
    """Return where each section that has memory goes, from a page's start, and how much that is."""
    places, end = dict[int, int](), 0
    for i, s in enumerate(sections):
        # Nobody unwinds the stack through a kernel: its description is left out.
        if s.flags & _ALLOC and s.size and s.kind != _UNWIND:
            align = max(s.align, 1)
            if align > mmap.PAGESIZE:
                raise Refused(f"a section aligned to {align} bytes")
            places[i] = -(-end // align) * align
            end = places[i] + s.size
    return places, end


def _address(symbol: Symbol, base: int, places: dict[int, int], find: Find) -> int:
    """Return a symbol's address; 0 for what lies in no loaded section, which nobody may use."""
    if symbol.section == _UNDEFINED:
        return find(symbol.name) if symbol.name else 0
    if symbol.section not in places:  # such as the name of the source file
        return 0
    return base + places[symbol.section] + symbol.value


def _relocate(
    memory: mmap.mmap, at: int, code: bytes, table: Section, addresses: list[int]
) -> None:
    """Write the addresses that one table of relocations asks for into the section at ``at``."""
    if table.kind != _RELA:
        raise Refused("relocations without addends")
    for entry in range(table.offset, table.offset + table.size, _RELOCATION.size):
        offset, info, addend = _RELOCATION.unpack_from(code, entry)
        address = addresses[info >> 32]
        if info & 0xFFFFFFFF != _ABSOLUTE_64 or not address:
            raise Refused(f"relocation {info & 0xFFFFFFFF} to symbol {info >> 32} at {address}")
        struct.pack_into("<Q", memory, at + offset, (address + addend) % 2**64)


def _make_executable(address: int, size: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    if libc.mprotect(address, size, _PROT_READ_EXEC):
        raise Refused(f"mprotect: error {ctypes.get_errno()}")


def symbol_of_process(name: str) -> int:
    """Return the address of a function of a library that everybody can see; 0 if there is none."""
    with contextlib.suppress(AttributeError):
        return ctypes.cast(getattr(ctypes.CDLL(None), name), ctypes.c_void_p).value or 0
    return 0
