"""runtime > tensorfile: arrays in safetensors files, mapped rather than read, and aligned.

A safetensors file is: 8 bytes of header length, the JSON header, the bytes of all arrays without
gaps (https://huggingface.co/docs/safetensors). The header may end in spaces, and the order is ours:
with arrays whose size is a multiple of 64 in front, all of those begin at a multiple of 64; behind
them larger elements come first, so that every array begins at a multiple of its element's size.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leptonc.errors import ArtifactError

ALIGN = 64
# Files up to this size are hashed whole, larger ones at evenly spaced blocks and both ends.
FULL_DIGEST_BYTES = 32 << 20
_BLOCKS, _BLOCK_BYTES = 256, 4096
_PIECE = 8 << 20  # bytes written at a time
_LONGEST_HEADER = 256 << 20
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}
_NAMES = {np.dtype(text).str: name for name, text in _DTYPES.items()}
ITEM_BYTES = {name: np.dtype(text).itemsize for name, text in _DTYPES.items()} | {"BF16": 2}
"""Bytes of an element by the format's name of its type."""


class DamagedFile(ArtifactError):
    """A file that does not hold what it should."""


@dataclass(frozen=True)
class Block:
    """One array to be written: ``data()`` gives its bytes (u8, contiguous) when they are needed."""

    kind: str
    shape: tuple[int, ...]
    data: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        return math.prod(self.shape) * ITEM_BYTES[self.kind]


@dataclass(frozen=True)
class Extent:
    """Where an array lies in a file: bytes ``begin`` to ``end`` from the file's first."""

    kind: str
    shape: tuple[int, ...]
    begin: int
    end: int


def write_blocks(
    path: Path, blocks: Mapping[str, Block], watch: Callable[[Any], None] | None = None
) -> None:
    """Write arrays to a new safetensors file, one after the other, each asked for its bytes once.

    ``watch`` is told every piece of the file as it is written (to hash it, say).
    """
    order = sorted(blocks, key=lambda name: (*_rank(blocks[name]), name))
    header: dict[str, Any] = {}
    end = 0
    for name in order:
        block = blocks[name]
        span = [end, end + block.nbytes]
        header[name] = {"dtype": block.kind, "shape": list(block.shape), "data_offsets": span}
        end += block.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGN)
    with open(path, "wb") as file:

        def put(piece: Any) -> None:
            file.write(piece)
            if watch is not None:
                watch(piece)

        put(len(text).to_bytes(8, "little") + text)
        for name in order:
            raw = blocks[name].data().data if blocks[name].nbytes else b""
            for at in range(0, len(raw), _PIECE):
                put(raw[at : at + _PIECE])


def _rank(block: Block) -> tuple[bool, int]:
    """Return what orders arrays so that all are aligned."""
    odd = block.nbytes % ALIGN != 0
    return odd, -ITEM_BYTES[block.kind] if odd else 0


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the arrays to a new safetensors file. Raises ArtifactError as :func:`blocks_of`."""
    write_blocks(path, blocks_of(arrays))


def blocks_of(arrays: Mapping[str, np.ndarray]) -> dict[str, Block]:
    """Return how arrays are written; their bytes are read then.

    Raises:
        ArtifactError: an array's dtype has no name in the format.
    """
    return {name: _block(name, array) for name, array in arrays.items()}


def _block(name: str, array: np.ndarray) -> Block:
    kind = _NAMES.get(array.dtype.str)
    if kind is None:
        raise ArtifactError(f"array {name!r}: dtype {array.dtype} cannot be stored")
    return Block(kind, array.shape, lambda: np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def read_header(path: Path) -> dict[str, Extent]:
    """Return where each array of a safetensors file lies; every extent is inside the file.

    Raises:
        DamagedFile: the header does not fit the file.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 8 + length <= size or length > _LONGEST_HEADER:
            raise DamagedFile(f"{path}: a header of {length} bytes in a file of {size} bytes")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise DamagedFile(f"{path}: the header is no JSON ({error})") from None
    if not isinstance(header, dict):
        raise DamagedFile(f"{path}: the header is no table of arrays")
    start = 8 + length
    return {
        name: _extent(path, name, described, start, size)
        for name, described in header.items()
        if name != "__metadata__"
    }


def _extent(path: Path, name: str, described: Any, start: int, size: int) -> Extent:
    """Return where an array lies in a file of ``size`` bytes whose data begin at ``start``."""
    try:
        begin, end = described["data_offsets"]
        kind, shape = described["dtype"], tuple(described["shape"])
        if not all(type(n) is int and n >= 0 for n in (begin, end, *shape)):
            raise ValueError(f"shape {shape}, bytes {begin}:{end}")
        if not begin <= end <= size - start:
            raise ValueError(f"bytes {begin}:{end} of {size - start}")
        if math.prod(shape) * ITEM_BYTES[kind] != end - begin:
            raise ValueError(f"{end - begin} bytes for {kind}{list(shape)}")
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFile(f"{path}: array {name!r}: {error}") from None
    return Extent(kind, shape, start + begin, start + end)


def map_file(path: Path, access: int = mmap.ACCESS_READ) -> mmap.mmap:
    """Return the file's bytes, which are not read before they are used."""
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=access)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a safetensors file: read-only views of the mapped file.

    Raises:
        DamagedFile: the header does not fit the file, or an array has a dtype that NumPy lacks.
    """
    extents = read_header(path)
    memory = np.frombuffer(map_file(path), np.uint8)
    return {name: _view(path, name, e, memory) for name, e in extents.items()}


def _view(path: Path, name: str, extent: Extent, memory: np.ndarray) -> np.ndarray:
    """Return one array of the file."""
    if extent.kind not in _DTYPES:
        raise DamagedFile(f"{path}: array {name!r}: {extent.kind}")
    kind = np.dtype(_DTYPES[extent.kind])
    if extent.begin == extent.end:
        return np.zeros(extent.shape, kind)
    return memory[extent.begin : extent.end].view(kind).reshape(extent.shape)


def sampled_digest(path: Path) -> str:
    """Return the SHA-256 over size and bytes; of a large file, over a sample of its bytes."""
    size = path.stat().st_size
    digest = hashlib.sha256(size.to_bytes(8, "little"))
    with open(path, "rb") as file:
        if size <= FULL_DIGEST_BYTES:
            digest.update(file.read())
            return digest.hexdigest()
        for block in range(_BLOCKS):
            file.seek((size - _BLOCK_BYTES) * block // (_BLOCKS - 1))
            digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()
