"""runtime > group > mailbox: tensors between processes, through memory that has no name.

The memory is a file that both sides hold open and map: anonymous where the system has that, else
removed from its directory as soon as it exists. It grows in place. A header, sent along another
way, says which tensors lie in it: 64-bit integers ``bytes of the file, number of tensors`` and for
each ``type, offset, number of axes, sizes``.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import struct
import tempfile
from collections.abc import Sequence

import torch
from torch import Tensor

from leptonc.errors import WorkerError

FIRST_BYTES = 1 << 20
_ALIGN = 64
# In this order they have numbers: only add at the end.
DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.bool, torch.int8,
    torch.uint8, torch.int16, torch.int32, torch.int64, torch.complex64, torch.complex128,
    torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2,
)  # fmt: skip
_CODES = {dtype: code for code, dtype in enumerate(DTYPES)}


def anonymous_file(name: str, size: int) -> int:
    """Return the descriptor of a file of ``size`` zeros that nobody else can open by name."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create(f"leptonc-{name}")
    else:
        fd, path = tempfile.mkstemp(prefix="leptonc-")
        os.unlink(path)
    os.ftruncate(fd, size)
    return fd


class Mailbox:
    """A growing piece of shared memory that one process writes tensors to and others read.

    Args:
        fd: descriptor of the file; the mailbox does not close it.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._map = mmap.mmap(fd, os.fstat(fd).st_size)

    def put(self, tensors: Sequence[Tensor]) -> bytes:
        """Copy tensors into the memory, replacing what was there, and return the header.

        Raises:
            WorkerError: a tensor is of a kind that cannot be sent.
        """
        words, places, end = [0, len(tensors)], [], 0
        for index, tensor in enumerate(tensors):
            words += [_code(index, tensor), end, tensor.dim(), *tensor.shape]
            places.append(end)
            end = -(-(end + tensor.nbytes) // _ALIGN) * _ALIGN
        if end > len(self._map):
            self._grow(end)
        words[0] = len(self._map)
        for tensor, offset in zip(tensors, places, strict=True):
            if tensor.numel():
                copy(_view(self._map, tensor.dtype, offset, tuple(tensor.shape)), tensor.detach())
        return struct.pack(f"<{len(words)}q", *words)

    def get(self, header: bytes) -> list[Tensor]:
        """Return the tensors that a header describes: views, valid until the next ``put``."""
        words = struct.unpack(f"<{len(header) // 8}q", header)
        size, count, at = words[0], words[1], 2
        if size != len(self._map):
            # Not closed: a view that somebody has kept keeps its old map, but only as an object.
            self._map = mmap.mmap(self._fd, size)
        found: list[Tensor] = []
        for _ in range(count):
            code, offset, axes = words[at : at + 3]
            shape = words[at + 3 : at + 3 + axes]
            found.append(_view(self._map, DTYPES[code], offset, shape))
            at += 3 + axes
        return found

    def close(self) -> None:
        """Give the map back; nobody may look at a view of it any more."""
        self._map.close()

    def _grow(self, size: int) -> None:
        """Make room for ``size`` bytes, and for some more."""
        size = 1 << (size - 1).bit_length()
        self.close()
        os.ftruncate(self._fd, size)
        self._map = mmap.mmap(self._fd, size)


def copy(to: Tensor, source: Tensor) -> None:
    """Copy elements on the calling thread alone.

    torch's own copy of a large tensor wakes its threads, which then spin for milliseconds on the
    cores that the workers compute on.
    """
    if source.is_contiguous() and source.device.type == "cpu":
        ctypes.memmove(to.data_ptr(), source.data_ptr(), source.numel() * source.element_size())
    else:
        to.copy_(source)


def _code(index: int, tensor: Tensor) -> int:
    """Return the number of the tensor's type."""
    code = _CODES.get(tensor.dtype)
    if code is None or tensor.layout is not torch.strided or tensor.is_quantized:
        raise WorkerError(
            f"tensor {index} ({tensor.dtype}, {tensor.layout}) cannot be sent to workers: expected "
            "a dense tensor of one of torch's plain types"
        )
    return code


def _view(memory: mmap.mmap, dtype: torch.dtype, offset: int, shape: tuple[int, ...]) -> Tensor:
    """Return the tensor at ``offset``."""
    count = math.prod(shape)
    if not count:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(memory, dtype=dtype, count=count, offset=offset).view(shape)
