"""runtime > manifest: what an artifact consists of: its files with their sizes and hashes.

The file is JSON in one canonical form and holds its own hash, so a change of any byte is seen. File
names are plain: an artifact is one flat directory, and nothing in it leads out of it.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from leptonc import __version__
from leptonc.errors import ArtifactError
from leptonc.runtime.tensorfile import sampled_digest

MANIFEST = "manifest.json"
FORMAT = 1
VERIFY = ("full", "sampled", "off")
FULL_BELOW = 1 << 30  # bytes of weights up to which they are hashed whole unless asked otherwise
_LONGEST = 64 << 20  # bytes of a manifest
_PIECE = 8 << 20  # bytes hashed at a time
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}")
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileInfo:
    """One file: size in bytes, SHA-256 of all of it, and of a sample of it (``sampled_digest``)."""

    nbytes: int
    sha256: str
    sampled: str


@dataclass(frozen=True)
class Manifest:
    """What an artifact says of itself.

    Attributes:
        kind: what the artifact is, e.g. ``"compiled"``; who loads it knows the kinds.
        about: what the maker of that kind keeps here; JSON.
        files: every file but the manifest, by name.
        leptonc, torch: the versions that wrote it.
        format: version of the directory's format.
        byteorder: that of all numbers in it.
        digest: hash over all of the above: it names the artifact.
    """

    kind: str
    about: Mapping[str, Any]
    files: Mapping[str, FileInfo]
    leptonc: str = __version__
    torch: str = torch.__version__
    format: int = FORMAT
    byteorder: str = sys.byteorder
    digest: str = ""


def check_name(name: str) -> None:
    """Raise ArtifactError unless ``name`` is a plain file name."""
    if not _NAME.fullmatch(name) or name == MANIFEST:
        raise ArtifactError(
            f"file name {name!r}: expected letters, digits, '_', '.', '-', and not {MANIFEST}"
        )


def dump(manifest: Manifest) -> str:
    """Return the manifest's text, its hash filled in. Raises ArtifactError: ``about`` is no JSON.

    ``parse`` takes this text and no other that says the same.
    """
    data = {
        "about": manifest.about,
        "byteorder": manifest.byteorder,
        "files": {n: {"bytes": f.nbytes, "sampled": f.sampled, "sha256": f.sha256}
                  for n, f in manifest.files.items()},
        "format": manifest.format,
        "kind": manifest.kind,
        "leptonc": manifest.leptonc,
        "torch": manifest.torch,
    }  # fmt: skip
    return _text({**data, "digest": hashlib.sha256(_text(data).encode()).hexdigest()})


def _text(data: Mapping[str, Any]) -> str:
    try:
        return json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(f"the manifest cannot be written as JSON: {error}") from None


def read(root: Path) -> Manifest:
    """Return the manifest of the artifact in ``root``.

    Raises:
        ArtifactError: there is none, it was changed, or it is of a version or machine that this
            leptonc does not read.
    """
    path = root / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{root}: no {MANIFEST} in it, so it is no saved artifact")
    if path.stat().st_size > _LONGEST:
        raise ArtifactError(f"{path}: larger than {_LONGEST} bytes; it is no manifest")
    try:
        text = path.read_bytes().decode("ascii")
        data = json.loads(text)
        _check_version(path, data)
        found = _parsed(data)
        if dump(found) != text:
            raise ValueError("its hash is not that of its content")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise damaged(path, f"it is not what was written ({error})") from None
    return found


def _check_version(path: Path, data: Any) -> None:
    if data["format"] != FORMAT:
        raise ArtifactError(
            f"{path}: format {data['format']!r}, expected {FORMAT}; it was saved by leptonc "
            f"{data.get('leptonc')!r}, this is {__version__}: use that version, or save it again"
        )
    if data["byteorder"] != sys.byteorder:
        raise ArtifactError(
            f"{path}: saved on a {data['byteorder']!r}-endian machine, expected {sys.byteorder!r}; "
            "compile and save the model on a machine like this one"
        )


def _parsed(data: Any) -> Manifest:
    """Return the manifest that decoded JSON is. Raises ValueError and its like for another."""
    files: dict[str, FileInfo] = {}
    for name, row in data["files"].items():
        check_name(name)
        if type(row["bytes"]) is not int or row["bytes"] < 0:
            raise ValueError(f"{name}: {row['bytes']!r} bytes")
        if not (_HEX.fullmatch(row["sha256"]) and _HEX.fullmatch(row["sampled"])):
            raise ValueError(f"{name}: no hash")
        files[name] = FileInfo(row["bytes"], row["sha256"], row["sampled"])
    words = [data[k] for k in ("kind", "leptonc", "torch", "byteorder", "digest")]
    if not all(isinstance(w, str) for w in words) or not isinstance(data["about"], dict):
        raise ValueError("an entry of another type than expected")
    kind, leptonc, torch_, order, digest = words
    return Manifest(kind, data["about"], files, leptonc, torch_, data["format"], order, digest)


def damaged(path: Path, what: str) -> ArtifactError:
    """Return the error for a file that is not what was written."""
    return ArtifactError(f"{path}: {what}; the file is damaged: copy or save the artifact again")


# ----- files --------------------------------------------------------------------------------------


def file_in(root: Path, name: str) -> Path:
    """Return the path of an artifact's file. Raises ArtifactError: missing, or it leads outside."""
    check_name(name)
    path = root / name
    if not path.exists():
        raise ArtifactError(
            f"{path}: the file is missing, but {MANIFEST} names it; copy or save it all again"
        )
    real = path.resolve()
    if real.parent != root.resolve() or not real.is_file():
        raise ArtifactError(
            f"{path}: leads to {real}, expected a plain file in {root}; do not load this artifact"
        )
    return path


def check_file(root: Path, name: str, info: FileInfo, how: str) -> Path:
    """Return the path of a file that is as the manifest says; ``how`` is one of ``VERIFY``.

    Raises:
        ArtifactError: it is missing, leads outside, or differs in size or hash.
    """
    path = file_in(root, name)
    size = path.stat().st_size
    if size != info.nbytes:
        word = "truncated" if size < info.nbytes else "longer than it was"
        raise damaged(path, f"{size} bytes, expected {info.nbytes}: it is {word}")
    hashes = {"full": (sha256_of, info.sha256), "sampled": (sampled_digest, info.sampled)}
    if how in hashes:
        hashed, want = hashes[how]
        if (got := hashed(path)) != want:
            raise damaged(path, f"hash {got[:16]}..., expected {want[:16]}...")
    return path


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, read piece by piece."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()
