"""numba_cpu > kernels > machine_code: compiled kernels on disk, by what they were compiled from.

Layout: ``<cache dir>/kernels/<fingerprint>/<name>-<key>.o``: a SHA-256 digest, the entry symbol, a
zero byte, the object code that LLVM produced. Nothing is unpickled, and loading needs only LLVM:
numba's own cache would first build numba's typing context, 0.2 to 0.4 s, and would link all kernels
into one symbol space, where names from different processes may collide. A file that is damaged in
any way is a miss.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import llvmlite
import llvmlite.binding as llvm
import numba
from numba._helperlib import c_helpers
from numba.core import registry
from numba.core.codegen import get_host_cpu_features

from leptonc.backends.numba_cpu.kernels import elf_object
from leptonc.backends.numba_cpu.kernels.amx_permission import permitted
from leptonc.runtime.cache import private_directory
from leptonc.settings import read_settings

try:
    import fcntl
except ImportError:  # no such locks here: processes that need the same kernel compile it twice
    fcntl = None

KEEP_FINGERPRINTS = 8
_DIGEST_BYTES = 32
_POLL_S = 0.005
_WIDE = ("avx512", "avx10", "amx")  # how the names of the features that come with 16 lanes begin
_TILES = "+amx"
_LATE = ("avxvnni",)  # what is narrow, but younger than AVX-512


def lanes() -> int:
    """Return the float32 lanes of this machine's widest vectors: 16 (AVX-512), 8 (AVX) or 4.

    ``LEPTONC_LANES`` overrides it, so that narrower code can be tested and timed on a wide machine:
    see :func:`target_features`.
    """
    asked = read_settings().lanes
    return _widest() if asked is None else asked


def _widest() -> int:
    features = host_features()
    wide = (("+avx512f", 16), ("+avx2", 8), ("+avx", 8))
    return next((n for feature, n in wide if feature in features), 4)


@functools.cache
def host_features() -> frozenset[str]:
    """Return LLVM's feature flags of the host, e.g. ``"+avx2"`` (``"-avx512f"`` when absent).

    Tile registers are absent, too, where they are not wanted (``LEPTONC_TILES=0``) or the system
    does not let this process use them.
    """
    flags = frozenset(get_host_cpu_features().split(","))
    tiles = {f for f in flags if f.startswith(_TILES)}
    usable = not tiles or (read_settings().tiles and permitted())
    return flags if usable else flags - tiles | {f"-{f[1:]}" for f in tiles}


@functools.cache
def adds_beside() -> bool:
    """Return whether vectors are added in other pipes than they are multiplied in, as in AMD's Zen.

    Elsewhere an addition takes the place of a multiply-add.
    """
    return llvm.get_host_cpu_name().startswith("znver")


def target_features() -> str:
    """Return the feature flags that kernels are compiled for: the host's, as far as lanes reach.

    Below 16 lanes nothing of AVX-512 is used, its 16 more registers and its masks included: that is
    the code which a processor without it runs. Where fewer lanes are asked for than there are,
    that is a processor without AVX-VNNI, too.
    """
    flags = sorted(host_features())
    if lanes() == 16:
        return ",".join(flags)
    left_out = (*_WIDE, *_LATE) if lanes() < _widest() else _WIDE
    return ",".join(f"-{f[1:]}" if f[1:].startswith(left_out) else f for f in flags)


@functools.cache
def fingerprint() -> str:
    """Return 24 hex digits that change with kernel sources, versions, processor or lanes."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    versions = (numba.__version__, llvmlite.__version__, platform.python_version())
    machine = (llvm.get_host_cpu_name(), target_features(), str(lanes()))
    digest.update("\0".join(versions + machine).encode())
    return digest.hexdigest()[:24]


def kernel_dir() -> Path | None:
    """Return the directory for this fingerprint, created private; None if caching is off or unsafe.

    Cache files are executed, so a directory that another user owns or may write to is not used.
    """
    settings = read_settings()
    if not settings.cache_enabled:
        return None
    root = settings.cache_dir / "kernels"
    path = root / fingerprint()
    try:
        new = not path.is_dir()
        if not private_directory(path):
            return None
        if new:
            _drop_old(root)
    except OSError:
        return None
    return path


def _drop_old(root: Path) -> None:
    """Remove all but the newest fingerprint directories: old ones can never be hit again."""
    found = sorted(root.iterdir(), key=lambda p: p.stat().st_mtime, reverse=True)
    for path in found[KEEP_FINGERPRINTS:]:
        shutil.rmtree(path, ignore_errors=True)


#: What machine code may call by symbol besides numba's helpers and the C library.
LINKED: dict[str, NativeCode] = {}


class NativeCode(Protocol):
    """Machine code in memory, which lives as long as this object; where its entry function lies."""

    @property
    def address(self) -> int:
        """Address of the entry function."""
        ...


class _EngineCode:
    """Machine code in an LLVM engine of its own."""

    def __init__(self, symbol: str, code: bytes) -> None:
        # Building numba's target context (3 ms, once) makes libm and helper symbols known to LLVM.
        registry.cpu_target.target_context.codegen()
        target = llvm.Target.from_triple(llvm.get_process_triple())
        machine = target.create_target_machine(codemodel="jitdefault", jit=True)
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        for name, linked in LINKED.items():
            if name != symbol and name.encode() in code:
                llvm.add_symbol(name, linked.address)
        self._engine.finalize_object()
        self.address = self._engine.get_function_address(symbol)


def native_code(symbol: str, code: bytes) -> NativeCode:
    """Return the code of an object file for this machine; ``symbol`` is its entry function."""
    if elf_object.possible():
        with contextlib.suppress(elf_object.Refused):
            return elf_object.LoadedObject(symbol, code, _address_of)
    return _EngineCode(symbol, code)


def _address_of(symbol: str) -> int:
    """Return the address of what code calls: ours, numba's or the C library's; 0 without one."""
    if symbol in LINKED:
        return LINKED[symbol].address
    helper = c_helpers.get(symbol.removeprefix("numba_"), 0) if symbol.startswith("numba_") else 0
    return helper or elf_object.symbol_of_process(symbol)


class CodeFile:
    """The file that holds one kernel's machine code.

    Args:
        directory: from :func:`kernel_dir`.
        name: the kernel's name with its parameters, unique among kernels.
        stamp: hex digest of the code it is compiled from (:func:`loaded_code.code_digest`).
    """

    def __init__(self, directory: Path, name: str, stamp: str) -> None:
        self._key = f"{name}\0{stamp}\0{directory.name}".encode()
        clean = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[-80:]
        self.path = directory / f"{clean}-{hashlib.sha256(self._key).hexdigest()[:16]}.o"

    def load(self) -> NativeCode | None:
        """Return the code on disk, or None if there is none or it is damaged."""
        try:
            raw = self.path.read_bytes()
        except OSError:
            return None
        digest, body = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
        if self._digest(body) != digest:
            return None
        symbol, _, code = body.partition(b"\0")
        try:
            return native_code(symbol.decode(), code)
        except RuntimeError:  # LLVM cannot read it although the digest fits
            return None

    def save(self, symbol: str, code: bytes) -> None:
        """Store what was compiled; where that fails, the next process compiles again."""
        body = symbol.encode() + b"\0" + code
        temporary = None
        try:
            handle, temporary = tempfile.mkstemp(dir=self.path.parent, suffix=".tmp")
            with os.fdopen(handle, "wb") as file:
                file.write(self._digest(body) + body)
            os.replace(temporary, self.path)
        except OSError:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)

    @contextlib.contextmanager
    def claimed(self, patience_s: float) -> Iterator[bool]:
        """Keep other processes from compiling this file; yield False if one of them is at it.

        Waits up to ``patience_s`` for that one. The system drops the claim of a process that ends.
        """
        path = self.path.with_suffix(".lock")
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            yield True
            return
        try:
            mine = _locked(handle, patience_s)
            yield mine
            if mine:
                # Who opened the file before finds the code on disk when the lock is theirs.
                path.unlink(missing_ok=True)
        finally:
            os.close(handle)

    def _digest(self, body: bytes) -> bytes:
        return hashlib.sha256(self._key + b"\0" + body).digest()


def _locked(handle: int, patience_s: float) -> bool:
    """Lock an open file exclusively; return False if another process holds it for too long."""
    if fcntl is None:
        return True
    end = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() >= end:
                return False
        time.sleep(_POLL_S)
