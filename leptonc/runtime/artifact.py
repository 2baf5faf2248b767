"""runtime > artifact: programs and weights as one directory that is written whole or not at all.

::

    manifest.json          kind, versions, every file with its size and hashes
    *.lir, *.json          programs as IR text, and whatever else is small
    constants.json         type of each constant, by digest
    weights.safetensors    constants, each distinct one once; above ``shard_bytes`` numbered files

Nothing here is pickled or evaluated. Files that the manifest does not name are not looked at.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from leptonc.errors import ArtifactError, ParseError
from leptonc.ir.constants import Const, ConstantStore
from leptonc.ir.types import TensorType, parse_type
from leptonc.runtime import manifest as manifests
from leptonc.runtime import weights
from leptonc.runtime.manifest import MANIFEST, FileInfo, Manifest
from leptonc.runtime.tensorfile import sampled_digest, write_blocks

SHARD_BYTES = 2 << 30
CONSTANTS = "constants.json"
_WEIGHTS = "weights"
_SUFFIX = ".safetensors"
_DIGEST = re.compile(r"[0-9a-f]{64}")


# ----- writing ------------------------------------------------------------------------------------


def write_artifact(
    directory: Path | str,
    manifest: Mapping[str, Any],
    texts: Mapping[str, str],
    constants: Mapping[str, Const],
    *,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write an artifact and return its directory. It appears complete or not at all.

    An artifact that is there already is replaced; for the moment between two renames there is none.

    Args:
        directory: where; parents are created.
        manifest: ``"kind"``, a word; everything else is kept as ``Manifest.about``.
        texts: text files by name; JSON goes here as text.
        constants: by full digest.
        shard_bytes: files with weights hold at most this much, or one constant.

    Raises:
        ArtifactError: something else lies there, a name or a constant cannot be stored, or the
            file system refuses.
    """
    path = Path(directory).resolve()
    for name in texts:
        manifests.check_name(name)
        if name == CONSTANTS or name.endswith(_SUFFIX):
            raise ArtifactError(f"text file name {name!r} is taken by the constants")
    about = {k: v for k, v in manifest.items() if k != "kind"}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        refuse_other(path)
        with _beside(path) as new:
            files = {n: _write_text(new / n, t) for n, t in texts.items()}
            files |= _write_constants(new, constants, shard_bytes)
            text = manifests.dump(Manifest(str(manifest["kind"]), about, files))
            _write_text(new / MANIFEST, text)
            _sync(new)
            _put(new, path)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written: {error}") from error
    return path


def refuse_other(path: Path) -> None:
    """Raise ArtifactError if something lies at ``path`` that an artifact must not replace."""
    if not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir())):
        return
    hint = "choose another directory, or remove it yourself"
    if not path.is_dir():
        raise ArtifactError(f"{path}: a file lies there, expected an artifact or nothing; {hint}")
    try:
        known = {*manifests.read(path).files, MANIFEST}
    except ArtifactError as error:
        raise ArtifactError(
            f"{path} is not replaced: it is no artifact ({error}); {hint}"
        ) from None
    if other := sorted({p.name for p in path.iterdir()} - known):
        raise ArtifactError(
            f"{path} is not replaced: it also holds {', '.join(other[:3])}, which no artifact "
            f"wrote; {hint}"
        )


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Make an empty directory next to ``path``; it is gone afterwards unless it was renamed."""
    home = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        new = home / "artifact"
        new.mkdir()
        yield new
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _put(new: Path, path: Path) -> None:
    """Rename ``new`` to ``path``; what was there is kept aside and comes back on failure."""
    old = new.parent / "replaced"
    if path.exists():
        path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        if old.exists():
            old.rename(path)
        raise
    _sync(path.parent)


def _sync(path: Path) -> None:
    """Have what was written to a file or directory reach the disk before anything after it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # not every file system can
            os.fsync(handle)
    finally:
        os.close(handle)


def _write_text(path: Path, text: str) -> FileInfo:
    raw = text.encode()
    path.write_bytes(raw)
    _sync(path)
    return FileInfo(len(raw), hashlib.sha256(raw).hexdigest(), sampled_digest(path))


def _write_constants(
    root: Path, constants: Mapping[str, Const], shard_bytes: int
) -> dict[str, FileInfo]:
    types = {digest: str(const.type) for digest, const in constants.items()}
    files = {CONSTANTS: _write_text(root / CONSTANTS, json.dumps(types, indent=1, sort_keys=True))}
    groups = list(_groups(constants, shard_bytes))
    for i, group in enumerate(groups):
        number = "" if len(groups) == 1 else f"-{i + 1:05}-of-{len(groups):05}"
        name = f"{_WEIGHTS}{number}{_SUFFIX}"
        sha = hashlib.sha256()
        blocks = {digest: weights.block_of(constants[digest]) for digest in group}
        write_blocks(root / name, blocks, sha.update)
        _sync(root / name)
        size = (root / name).stat().st_size
        files[name] = FileInfo(size, sha.hexdigest(), sampled_digest(root / name))
    return files


def _groups(constants: Mapping[str, Const], shard_bytes: int) -> Iterator[list[str]]:
    """Yield which constants share a file."""
    group, held = list[str](), 0
    for digest, const in constants.items():
        nbytes = weights.block_of(const).nbytes
        if group and held + nbytes > shard_bytes:
            yield group
            group, held = [], 0
        group.append(digest)
        held += nbytes
    if group:
        yield group


# ----- reading ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Artifact:
    """A saved artifact, checked when it was opened; its weights are read as they are used.

    Attributes:
        path: its directory.
        manifest: what it says of itself.
    """

    path: Path
    manifest: Manifest
    _maps: weights.Maps = field(default_factory=weights.Maps, repr=False)

    def text(self, name: str) -> str:
        """Return a text file. Raises ArtifactError: no such file, or it is not what was written."""
        info = self.manifest.files.get(name)
        if info is None:
            known = ", ".join(sorted(self.manifest.files))
            raise ArtifactError(f"{self.path}: no file {name!r}; there are: {known}")
        path = manifests.file_in(self.path, name)
        raw = path.read_bytes()
        if hashlib.sha256(raw).hexdigest() != info.sha256:
            raise manifests.damaged(path, "its hash is not that of the manifest")
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise ArtifactError(f"{path}: expected text ({error})") from None

    def json(self, name: str) -> Any:
        """Return what a JSON file holds. Raises ArtifactError as ``text``, or for other content."""
        try:
            return json.loads(self.text(name))
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"{self.path / name}: expected JSON ({error})") from None

    def constants(self) -> Mapping[str, Const]:
        """Return every constant by digest: mapped from the files, not read before it is used.

        A prefix of 16 digits finds a constant, too: the IR's text form names them so.
        """
        store = ConstantStore()
        for digest, place in self._places.items():
            payload = self._maps.tensor(place)
            store.add(Const(place.type, payload, lambda _, digest=digest: digest))
        return store

    def slice(self, digest: str, index: Sequence[slice]) -> Tensor:
        """Return the part of a constant that ``index`` names, reading little more than its bytes.

        Args:
            digest: the constant's, all of it.
            index: one slice an axis, without a step; axes that are left out are whole.

        Raises:
            ArtifactError: no such constant, or an index that does not fit it.
        """
        place = self._places.get(digest)
        if place is None:
            raise ArtifactError(f"{self.path}: no constant {digest!r}")
        return weights.read_slice(place, index)

    def let_go(self) -> None:
        """Give the memory back that reading constants took; they can be used as before."""
        self._maps.let_go()

    def fetch(self, array: np.ndarray) -> np.ndarray:
        """Return the elements of an array in memory that is reused by the next call.

        ``array`` is a view of a constant of ``constants()``; another one is returned as it is.
        Raises ArtifactError: the file was truncated.
        """
        return self._maps.fetch(array)

    @cached_property
    def _places(self) -> dict[str, weights.Place]:
        names = [n for n in self.manifest.files if n.endswith(_SUFFIX)]
        rows = self.json(CONSTANTS)
        if not isinstance(rows, dict):
            raise ArtifactError(f"{self.path / CONSTANTS}: expected a table of types by digest")
        types = {digest: self._type(digest, text) for digest, text in rows.items()}
        return weights.places([manifests.file_in(self.path, n) for n in names], types)

    def _type(self, digest: str, text: Any) -> TensorType:
        try:
            found = parse_type(text)
        except (ParseError, TypeError, AttributeError, RecursionError):
            found = None
        if found is None or not found.is_static or not _DIGEST.fullmatch(digest):
            raise ArtifactError(f"{self.path / CONSTANTS}: {digest!r}: {text!r} is no constant")
        return found


def open_artifact(directory: Path | str, verify: str | None = None) -> Artifact:
    """Return the artifact in ``directory``, its files checked against the manifest.

    Args:
        directory: where it was written.
        verify: how the weights are checked: ``"full"`` reads and hashes all of them,
            ``"sampled"`` up to 256 blocks of each file, ``"off"`` compares sizes. Default: full
            below 1 GiB, else sampled. Everything else is always hashed whole.

    Raises:
        ArtifactError: no artifact, of another version or machine, or missing, truncated or damaged
            files: the text says which, and what to do.
    """
    root = Path(directory)
    if not root.is_dir():
        raise ArtifactError(
            f"{root}: no such directory; expected one that an artifact was saved to"
        )
    if verify is not None and verify not in manifests.VERIFY:
        raise ArtifactError(f"verify={verify!r}: expected one of {', '.join(manifests.VERIFY)}")
    found = manifests.read(root)
    heavy = {name: info for name, info in found.files.items() if name.endswith(_SUFFIX)}
    total = sum(info.nbytes for info in heavy.values())
    how = verify or ("full" if total < manifests.FULL_BELOW else "sampled")
    if CONSTANTS not in found.files:
        raise ArtifactError(f"{root / MANIFEST}: names no {CONSTANTS}; save the artifact again")
    for name, info in found.files.items():
        manifests.check_file(root, name, info, how if name in heavy else "full")
    artifact = Artifact(root, found)
    _ = artifact._places  # constants and entries correspond, or this is where it is said
    return artifact
