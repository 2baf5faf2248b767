"""runtime > cache: compiled programs on disk: text and arrays, nothing that needs unpickling.

Layout: ``<root>/compile/<2 hex>/<key>/`` with ``meta.json`` (digests), the text files, and
``arrays.safetensors``. An entry appears by one rename and is complete; one that is damaged is a
miss. Its text is run as Python, so the directories are private, and others are not used. What is
being written behind is awaited by whoever looks next in this process.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leptonc.errors import ArtifactError
from leptonc.runtime.behind import BEHIND
from leptonc.runtime.tensorfile import (
    Block,
    DamagedFile,
    blocks_of,
    read_arrays,
    sampled_digest,
    write_blocks,
)
from leptonc.settings import GIB, read_settings

FORMAT = 1
_META, _ARRAYS = "meta.json", "arrays.safetensors"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}")
_KEY = re.compile(r"[0-9a-f]{16,64}")


@dataclass(frozen=True)
class Entry:
    """One cached program.

    Attributes:
        key: what it was stored under.
        texts: text files by name.
        arrays: arrays by name, read-only, mapped from the file and not read before they are used.
        path: its directory.
    """

    key: str
    texts: Mapping[str, str]
    arrays: Mapping[str, np.ndarray]
    path: Path


@dataclass(frozen=True)
class CacheReport:
    """Size of the caches: ``entries`` compiled programs of ``nbytes``; kernels; the upper bound."""

    root: Path
    entries: int
    nbytes: int
    kernel_bytes: int
    max_bytes: int

    def __str__(self) -> str:
        mib = 1 << 20
        return (
            f"{self.root}: {self.entries} programs, {self.nbytes / mib:.1f} of "
            f"{self.max_bytes / mib:.0f} MiB; kernels {self.kernel_bytes / mib:.1f} MiB"
        )


def cache_key(*parts: object) -> str:
    """Return the SHA-256 (64 hex digits) of the parts: text, bytes, or anything with a ``str``.

    Each part's length is hashed too, so that parts cannot run into each other.
    """
    digest = hashlib.sha256()
    for part in parts:
        raw = part if isinstance(part, bytes) else str(part).encode()
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()


def private_directory(path: Path) -> bool:
    """Create ``path`` with mode 0700; return whether it is ours and closed to others' writing."""
    try:
        # mkdir gives the mode to the last level only.
        for level in (*reversed(path.parents), path):
            level.mkdir(mode=0o700, exist_ok=True)
        info = path.stat()
    except OSError:
        return False
    return not hasattr(os, "geteuid") or (info.st_uid == os.geteuid() and info.st_mode & 0o022 == 0)


class CompileCache:
    """Compiled programs by key, the least recently used dropped when they grow beyond a bound.

    Args:
        root: the cache root; default: the settings' (``LEPTONC_CACHE_DIR``).
        max_bytes: bound on the total size; default: the settings', 2 GiB.
        enabled: False makes every ``get`` a miss and every ``put`` a no-op.

    Attributes:
        enabled: as above.
    """

    def __init__(
        self,
        root: Path | str | None = None,
        max_bytes: int | None = None,
        enabled: bool | None = None,
    ) -> None:
        settings = read_settings()
        self.root = Path(root) if root is not None else settings.cache_dir
        bound = settings.cache_bytes if root is None else 2 * GIB
        self.max_bytes = max_bytes if max_bytes is not None else bound
        self.enabled = settings.cache_enabled if enabled is None else enabled
        self._home = self.root / "compile"

    def get(self, key: str) -> Entry | None:
        """Return the entry, or None if there is none or it is damaged (it is removed then).

        Raises:
            ArtifactError: ``key`` is no key.
        """
        BEHIND.wait()
        path = self._path(key)
        if not self._usable() or not path.is_dir():
            return None
        before = _identity(path)
        try:
            entry = _read(key, path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, DamagedFile):
            entry = None
        # Another process may have replaced the directory between one file and the next.
        if _identity(path) != before:
            return None
        if entry is None:
            shutil.rmtree(path, ignore_errors=True)
            return None
        with contextlib.suppress(OSError):
            os.utime(path / _META)
        return entry

    def holds(self, key: str) -> bool:
        """Return whether there is an entry, sound or not. Raises ArtifactError as ``get``."""
        BEHIND.wait()
        return self._usable() and self._path(key).is_dir()

    def drop(self, key: str) -> None:
        """Remove an entry if there is one. Raises ArtifactError as ``get``."""
        if self.holds(key):
            shutil.rmtree(self._path(key), ignore_errors=True)

    def put(
        self,
        key: str,
        texts: Mapping[str, str],
        arrays: Mapping[str, np.ndarray] | None = None,
    ) -> Entry | None:
        """Store an entry and return it as ``get`` would; None where that is impossible.

        Raises:
            ArtifactError: ``key``, a text's name or an array's dtype cannot be used.
        """
        BEHIND.wait()
        return self.get(key) if self._writer(key, texts, arrays or {})() else None

    def put_behind(
        self, key: str, texts: Mapping[str, str], arrays: Mapping[str, np.ndarray]
    ) -> None:
        """Begin to store an entry and return; nobody may write to ``arrays`` any more.

        Raises:
            ArtifactError: as ``put``.
        """
        BEHIND.begin(self._writer(key, texts, arrays))

    def _writer(
        self, key: str, texts: Mapping[str, str], arrays: Mapping[str, np.ndarray]
    ) -> Callable[[], bool]:
        """Return what stores an entry, returns whether that was possible, and raises nothing."""
        path, blocks = self._path(key), blocks_of(arrays)
        for name in texts:
            if not _NAME.fullmatch(name) or name in (_META, _ARRAYS):
                raise ArtifactError(f"text file name {name!r}: use letters, digits, '_', '.', '-'")

        def write() -> bool:
            if not self._usable() or not private_directory(path.parent):
                return False
            try:
                return self._write(path, texts, blocks)
            except OSError:
                return False

        return write

    def _write(self, path: Path, texts: Mapping[str, str], blocks: Mapping[str, Block]) -> bool:
        """Let an entry appear at ``path``, whole, unless it is too large. Raises OSError."""
        with tempfile.TemporaryDirectory(dir=self._home, prefix=".tmp-") as temporary:
            new = Path(temporary) / "entry"
            new.mkdir(mode=0o700)
            if _write(new, texts, blocks) > self.max_bytes:
                return False
            # A directory is replaced in two renames; in between, readers miss.
            if path.exists():
                path.rename(Path(temporary) / "old")
            new.rename(path)
        self._evict(keep=path)
        return True

    def report(self) -> CacheReport:
        """Return what the caches hold now."""
        BEHIND.wait()
        sizes = [_tree_bytes(path) for path in self._entries()]
        kernels = _tree_bytes(self.root / "kernels")
        return CacheReport(self.root, len(sizes), sum(sizes), kernels, self.max_bytes)

    def clear(self, kernels: bool = False) -> None:
        """Remove every compiled program, and the compiled kernels too if ``kernels``."""
        BEHIND.wait()
        for name in ("compile", "kernels") if kernels else ("compile",):
            shutil.rmtree(self.root / name, ignore_errors=True)

    def _usable(self) -> bool:
        return self.enabled and private_directory(self._home)

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ArtifactError(f"cache key {key!r}: expected hex digits, as from cache_key()")
        return self._home / key[:2] / key

    def _entries(self) -> Iterator[Path]:
        """Yield the directories of all entries."""
        if self._home.is_dir():
            for shelf in sorted(self._home.iterdir()):
                if len(shelf.name) == 2 and shelf.is_dir():
                    yield from sorted(shelf.iterdir())

    def _evict(self, keep: Path) -> None:
        """Drop the least recently used entries until the bound holds; ``keep`` stays."""
        found = sorted((_last_use(path), _tree_bytes(path), path) for path in self._entries())
        excess = sum(size for _, size, _ in found) - self.max_bytes
        for _, size, path in found:
            if excess <= 0:
                return
            if path != keep:
                shutil.rmtree(path, ignore_errors=True)
                excess -= size


def _write(path: Path, texts: Mapping[str, str], blocks: Mapping[str, Block]) -> int:
    """Write the files of an entry into the empty directory ``path``; return their total size."""
    digests = {}
    for name, text in texts.items():
        raw = text.encode()
        (path / name).write_bytes(raw)
        digests[name] = hashlib.sha256(raw).hexdigest()
    write_blocks(path / _ARRAYS, blocks)
    meta = {"format": FORMAT, "texts": digests, "arrays": sampled_digest(path / _ARRAYS)}
    (path / _META).write_text(json.dumps(meta, indent=1))
    return _tree_bytes(path)


def _read(key: str, path: Path) -> Entry:
    """Return the entry in ``path``.

    Raises:
        DamagedFile: it is not what was stored.
    """
    meta = json.loads((path / _META).read_bytes())
    if meta["format"] != FORMAT or meta["arrays"] != sampled_digest(path / _ARRAYS):
        raise DamagedFile(f"{path}: not the arrays that were stored")
    texts = {}
    for name, digest in meta["texts"].items():
        raw = (path / name).read_bytes() if _NAME.fullmatch(name) else b""
        if hashlib.sha256(raw).hexdigest() != digest:
            raise DamagedFile(f"{path / name}: not the text that was stored")
        texts[name] = raw.decode()
    return Entry(key, texts, read_arrays(path / _ARRAYS), path)


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells this directory from another one of its name; renaming sets the time."""
    try:
        info = path.stat()
    except OSError:
        return None
    return info.st_ino, info.st_ctime_ns


def _last_use(path: Path) -> int:
    """Return when the entry was last used, in ns; 0 for one without its description."""
    try:
        return (path / _META).stat().st_mtime_ns
    except OSError:
        return 0


def _tree_bytes(path: Path) -> int:
    """Return the size of all files below ``path``."""
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(directory, name)).st_size
            except OSError:
                continue
    return total
