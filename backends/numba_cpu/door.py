"""numba_cpu > door: a program as a built-in function of Python's that takes its tensors.

``enter(x, y)`` writes the addresses of tensors to the program's table and runs it, all in machine
code: for a small net, asking each tensor for its address and leaving Python by way of ctypes took
as long as a layer. The interpreter's lock is free while kernels run.

CPython calls a function of ``METH_FASTCALL`` with an object of ours, the address of the arguments
and their number. The object is a bytes string that holds what :data:`native.ENTER` needs to know.
Where a tensor's data lies, torch tells by a function that it made for its own generated code.
"""

from __future__ import annotations

import ctypes
import functools
import struct
import sys
from collections.abc import Callable
from typing import Any

from leptonc.backends.numba_cpu import native
from leptonc.backends.numba_cpu.kernels.base import Kernel

_FASTCALL = 0x80  # METH_FASTCALL of CPython's methodobject.h
_WORDS = struct.Struct("=8q")
_DATA_OF = "_torchinductor_pyobject_tensor_data_ptr"


class _Method(ctypes.Structure):
    """CPython's ``PyMethodDef``."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


def data_function() -> int:
    """Return the address of torch's function from a tensor to its data; 0 where there is none.

    Torch is not loaded for it: who has a tensor has done that.
    """
    guards = sys.modules.get("torch._C._dynamo.guards")
    usable = sys.implementation.name == "cpython" and hasattr(ctypes, "pythonapi")
    return getattr(guards, _DATA_OF, 0) if usable else 0


def door(segment: int, run: Kernel) -> Callable[..., bool | None] | None:
    """Return the function that runs the segment at an address by ``RUN_ALONE`` or ``RUN_TEAM``.

    It takes every tensor whose address the segment wants, in order, and nothing else: it checks
    neither their number nor what they are. It returns True if it wrote the addresses but did not
    run, for want of workers. None where Python or torch does not have what it needs.
    """
    data = data_function()
    if not data:
        return None
    api = ctypes.pythonapi
    functions = [
        _address(f) for f in (api.PyEval_SaveThread, api.PyEval_RestoreThread, api.Py_IncRef)
    ]
    known = _WORDS.pack(segment, run.address, data, *functions, id(None), id(True))
    made = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
    new_function = made(("PyCFunction_NewEx", api))
    return new_function(ctypes.addressof(_method()), known, None)


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


@functools.cache
def _method() -> _Method:
    """Return what describes the function; it must not move while there is a door."""
    return _Method(b"enter", native.ENTER.address, _FASTCALL, None)
