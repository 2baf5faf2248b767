"""runtime > weights: constants in safetensors files: written one by one, mapped, read in slices.

An entry has the constant's digest for a name and its own dtype and shape, so that any reader of the
format can read it; complex numbers, which the format lacks, are pairs along one axis more.
"""

from __future__ import annotations

import itertools
import math
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leptonc import meaning
from leptonc.errors import ArtifactError
from leptonc.ir.constants import Const
from leptonc.ir.types import DType, TensorType
from leptonc.runtime.tensorfile import Block, DamagedFile, Extent, map_file, read_header

KINDS: Mapping[DType, str] = MappingProxyType({
    DType.F64: "F64", DType.F32: "F32", DType.F16: "F16", DType.BF16: "BF16", DType.I64: "I64",
    DType.I32: "I32", DType.I16: "I16", DType.I8: "I8", DType.U8: "U8", DType.BOOL: "BOOL",
    DType.C64: "F32", DType.C128: "F64",
})  # fmt: skip
"""IR dtype -> the file format's name of what is stored."""

_PAIRS = (DType.C64, DType.C128)
_RUN = 512  # bytes from which on a run is read by a call of its own
_GAP = 4 << 10  # bytes from one run to the next from which on it is, too
_BUFFER = 1 << 20  # bytes read at once where runs are shorter


def block_of(const: Const) -> Block:
    """Return how ``const`` is written. Raises ArtifactError for a dtype that the format lacks."""
    kind = KINDS.get(const.type.dtype)
    if kind is None:
        raise ArtifactError(
            f"constant {const!r}: dtype {const.type.dtype.value} cannot be stored; convert it to "
            f"one of {', '.join(d.value for d in KINDS)} before the model is compiled"
        )
    return Block(kind, stored_shape(const.type), lambda: meaning.bytes_of(meaning.tensor_of(const)))


def stored_shape(type_: TensorType) -> tuple[int, ...]:
    """Return the shape of a constant's entry."""
    shape = tuple(int(d) for d in type_.shape)
    return (*shape, 2) if type_.dtype in _PAIRS else shape


@dataclass(frozen=True)
class Place:
    """Where a constant lies: its file, extent and type."""

    path: Path
    extent: Extent
    type: TensorType


def places(paths: Sequence[Path], types: Mapping[str, TensorType]) -> dict[str, Place]:
    """Return where each constant lies in the files.

    Raises:
        DamagedFile: constants and entries do not correspond one to one.
    """
    found: dict[str, Place] = {}
    for path in paths:
        for name, extent in read_header(path).items():
            if name not in types or name in found:
                raise DamagedFile(f"{path}: holds {name!r}, which belongs to no constant")
            type_ = types[name]
            want = (KINDS.get(type_.dtype), stored_shape(type_))
            if (extent.kind, extent.shape) != want:
                raise DamagedFile(
                    f"{path}: constant {name!r} is {extent.kind}{list(extent.shape)}, expected "
                    f"{type_}"
                )
            found[name] = Place(path, extent, type_)
    if missing := sorted(set(types) - set(found)):
        raise DamagedFile(f"constant {missing[0]!r} is in none of the files with weights")
    return found


@dataclass(frozen=True)
class _Mapped:
    """A file in memory, and open to be read from."""

    memory: mmap.mmap
    address: int
    file: FileIO


@dataclass
class Maps:
    """Files mapped into memory, each once; pages come in as they are touched."""

    known: dict[Path, _Mapped] = field(default_factory=dict[Path, _Mapped])
    buffer: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint8))

    def tensor(self, place: Place) -> Tensor:
        """Return a constant as a tensor over the mapped file; do not write to it."""
        dtype = meaning.TORCH_DTYPES[place.type.dtype]
        if place.extent.begin == place.extent.end:
            return torch.empty([int(d) for d in place.type.shape], dtype=dtype)
        if place.path not in self.known:
            # Private: torch wants memory that may be written to, the file it must never reach.
            made = map_file(place.path, mmap.ACCESS_COPY)
            address = np.frombuffer(made, np.uint8).ctypes.data
            self.known[place.path] = _Mapped(made, address, FileIO(place.path))
        memory = np.frombuffer(self.known[place.path].memory, np.uint8)
        return _typed(memory[place.extent.begin : place.extent.end], place.type)

    def let_go(self) -> None:
        """Give the pages back that were read; they come again when they are touched."""
        for mapped in self.known.values():
            if hasattr(mmap, "MADV_DONTNEED"):
                mapped.memory.madvise(mmap.MADV_DONTNEED)

    def fetch(self, array: np.ndarray) -> np.ndarray:
        """Return the elements of ``array`` in a buffer that the next call uses again.

        They are read, not mapped: touching a page may bring in all the 2 MiB around it. An array
        that lies in none of the files is returned as it is. Raises ArtifactError: a file's end.
        """
        low, high = np.lib.array_utils.byte_bounds(array)
        for path, mapped in self.known.items():
            begin = low - mapped.address
            if begin >= 0 and high - mapped.address <= len(mapped.memory) and array.size:
                if len(self.buffer) < high - low:
                    self.buffer = np.empty(high - low, np.uint8)
                _read_at(mapped.file.fileno(), path, self.buffer[: high - low], begin)
                at = array.ctypes.data - low
                return np.ndarray(array.shape, array.dtype, self.buffer.data, at, array.strides)
        return array


def _typed(raw: np.ndarray, type_: TensorType) -> Tensor:
    """Return bytes as a tensor of ``type_``, row-major, that shares their memory."""
    dtype = meaning.TORCH_DTYPES[type_.dtype]
    shape = [int(d) for d in type_.shape]
    # torch would deny that bytes which begin anywhere are complex numbers, but not pairs.
    flat = torch.from_numpy(raw).view(dtype.to_real() if dtype.is_complex else dtype)
    if dtype.is_complex:
        return torch.view_as_complex(flat.reshape(*shape, 2))
    return flat.reshape(shape)


# ----- slices -------------------------------------------------------------------------------------


def read_slice(place: Place, index: Sequence[slice]) -> Tensor:
    """Return the part of a constant that ``index`` names, reading little more than its bytes.

    Args:
        place: where the constant lies.
        index: one slice an axis, without a step; axes that are left out are whole.

    Raises:
        ArtifactError: a slice with a step, or more slices than axes; a file that ends too soon.
    """
    spans = bounds(place.type, index)
    shape = tuple(stop - start for start, stop in spans)
    if not math.prod(shape):
        return torch.empty(shape, dtype=meaning.TORCH_DTYPES[place.type.dtype])
    item = place.type.dtype.nbytes
    out = np.empty(item * math.prod(shape), np.uint8)
    with open(place.path, "rb", buffering=0) as file:
        _gather(_Reader(file.fileno(), place), spans, item, out)
    return _typed(out, TensorType(place.type.dtype, shape))


def bounds(type_: TensorType, index: Sequence[slice]) -> list[tuple[int, int]]:
    """Return first and end of ``index`` along each axis. Raises ArtifactError."""
    if len(index) > type_.rank:
        raise ArtifactError(f"{len(index)} slices for a constant of {type_}")
    found: list[tuple[int, int]] = []
    for axis, size in enumerate(type_.shape):
        at = index[axis] if axis < len(index) else slice(None)
        start, stop, step = at.indices(int(size))
        if step != 1:
            raise ArtifactError(f"axis {axis} of {type_}: {at} has a step; only whole ranges read")
        found.append((start, max(start, stop)))
    return found


@dataclass(frozen=True)
class _Reader:
    """An open file and the constant that is read from it."""

    handle: int
    place: Place

    def into(self, out: Any, at: int) -> None:
        """Fill ``out`` with the constant's bytes from ``at`` on."""
        _read_at(self.handle, self.place.path, out, self.place.extent.begin + at)


def _read_at(handle: int, path: Path, out: Any, begin: int) -> None:
    """Fill ``out`` with the bytes of a file from ``begin`` on. Raises ArtifactError."""
    view = memoryview(out)
    while len(view):
        got = os.preadv(handle, [view], begin)
        if not got:
            raise ArtifactError(
                f"{path}: ends at byte {begin}, {len(view)} more were expected; "
                "the file was truncated: save or copy it again"
            )
        view, begin = view[got:], begin + got


def _gather(reader: _Reader, spans: Sequence[tuple[int, int]], item: int, out: np.ndarray) -> None:
    """Read the box ``spans`` of a row-major array with elements of ``item`` bytes into ``out``."""
    sizes = [int(d) for d in reader.place.type.shape]
    inner = len(sizes)
    while inner and spans[inner - 1] == (0, sizes[inner - 1]):
        inner -= 1
    axis = max(inner - 1, 0)  # the last axis that is cut: behind it everything is contiguous
    below = item * math.prod(sizes[axis + 1 :])
    start, stop = spans[axis] if sizes else (0, 1)
    run, first = (stop - start) * below, start * below
    pitch = below * (sizes[axis] if sizes else 1)
    at = 0
    for begin, count in _rows(sizes[:axis], spans[:axis]):
        target = out[at : at + count * run].reshape(count, run)
        _rows_into(reader, target, begin * pitch + first, pitch)
        at += count * run


def _rows_into(reader: _Reader, target: np.ndarray, at: int, pitch: int) -> None:
    """Fill the rows of ``target`` with runs that begin every ``pitch`` bytes, at ``at`` first."""
    count, run = target.shape
    if run >= _RUN or pitch >= _GAP or count == 1:
        for i in range(count):
            reader.into(target[i], at + i * pitch)
        return
    most = max(1, _BUFFER // pitch)
    for i in range(0, count, most):
        n = min(most, count - i)
        rows = np.empty((n - 1) * pitch + run, np.uint8)
        reader.into(rows, at + i * pitch)
        strided = np.lib.stride_tricks.as_strided(rows, (n, run), (pitch, 1))
        target[i : i + n] = strided


def _rows(sizes: Sequence[int], spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield (first row, how many) of neighbouring rows of the box ``spans`` over ``sizes``."""
    if not sizes:
        yield 0, 1
        return
    *outer, (start, stop) = spans
    pitches = [math.prod(sizes[i + 1 :]) for i in range(len(outer))]
    for place in itertools.product(*(range(*span) for span in outer)):
        base = sum(p * k for p, k in zip(place, pitches, strict=True))
        yield base + start, stop - start


__all__ = ["KINDS", "Maps", "Place", "block_of", "bounds", "places", "read_slice", "stored_shape"]
