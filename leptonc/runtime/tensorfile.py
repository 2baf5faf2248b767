"""runtime > tensorfile: arrays in safetensors files, mapped rather than read, and aligned.

A safetensors file is: 8 bytes of header length, the JSON header, the bytes of all arrays without
gaps (https://huggingface.co/docs/safetensors). The header may end in spaces, and the order is ours:
with arrays whose size is a multiple of 64 in front, all of those begin at a multiple of 64.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from leptonc.errors import ArtifactError

ALIGN = 64
# Files up to this size are hashed whole, larger ones at evenly spaced blocks and both ends.
FULL_DIGEST_BYTES = 32 << 20
_BLOCKS, _BLOCK_BYTES = 256, 4096
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


class DamagedFile(ArtifactError):
    """A file that does not hold what it should."""


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the arrays to a new safetensors file.

    Raises:
        ArtifactError: an array's dtype has no name in the format.
    """
    order = sorted(arrays, key=lambda name: (arrays[name].nbytes % ALIGN != 0, name))
    header, end = {}, 0
    for name in order:
        array = arrays[name]
        kind = _NAMES.get(array.dtype.str)
        if kind is None:
            raise ArtifactError(f"array {name!r}: dtype {array.dtype} cannot be stored")
        span = [end, end + array.nbytes]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": span}
        end += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGN)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            if arrays[name].nbytes:
                file.write(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a safetensors file: read-only views of the mapped file.

    Raises:
        DamagedFile: the header does not fit the file.
    """
    with open(path, "rb") as file:
        try:
            memory = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
            length = int.from_bytes(memory[:8].tobytes(), "little")
            header = json.loads(memory[8 : 8 + length].tobytes())
        except ValueError as error:
            raise DamagedFile(f"{path}: {error}") from None
    data = memory[8 + length :]
    return {n: _view(path, n, d, data) for n, d in header.items() if n != "__metadata__"}


def _view(path: Path, name: str, described: Mapping, data: np.ndarray) -> np.ndarray:
    """Return one array of the file."""
    try:
        begin, end = described["data_offsets"]
        kind = np.dtype(_DTYPES[described["dtype"]])
        shape = tuple(described["shape"])
        if not 0 <= begin <= end <= len(data):
            raise ValueError(f"bytes {begin}:{end} of {len(data)}")
        if begin == end:
            return np.zeros(shape, kind)
        return data[begin:end].view(kind).reshape(shape)
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFile(f"{path}: array {name!r}: {error}") from None


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
