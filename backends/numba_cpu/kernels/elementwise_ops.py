"""numba_cpu > kernels > elementwise_ops: the elementary operations, by name and type.

``find("add", "f32")`` gives a native function over contiguous arrays (see :mod:`ew_loop`),
compiled when
its address is asked for. Values are computed in a *compute type*: ``f32`` for every float (bf16
and f16
are widened first and rounded after each operation, as torch does), integers and bool in their own
type.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from leptonc.backends.numba_cpu.kernels import ew_bodies as bodies
from leptonc.backends.numba_cpu.kernels import ew_integers as integers
from leptonc.backends.numba_cpu.kernels.base import Kernel, factory
from leptonc.backends.numba_cpu.kernels.ew_functions import TRIGONOMETRY
from leptonc.backends.numba_cpu.kernels.ew_loop import SIZE, Body, operation
from leptonc.backends.numba_cpu.kernels.vectype import LANES

FLOATS = ("f32", "bf16", "f16")
INTS = ("i64", "i32", "i16", "i8", "u8")
_HEAVY = frozenset(
    {
        "silu",
        "sigmoid",
        "log_sigmoid",
        "tanh",
        "mish",
        "exp",
        "expm1",
        "exp2",
        "log",
        "log1p",
        "erf",
        "gelu",
        "gelu_tanh",
        "softplus",
        "elu",
        "sin",
        "cos",
    }
)  # operations whose own work hides the loop around it
_TWO = frozenset({"pow", "atan2", "fmod"})

Entry = tuple[tuple[str, ...], str, Body, int]  # operand types, result type, body, width


def compute_type(stored: str) -> str:
    """Return the type in which values stored as ``stored`` are computed."""
    return "f32" if stored in FLOATS else stored


def _float_entries() -> dict[str, Entry]:
    one, two = ("f32",), ("f32", "f32")
    table: dict[str, Entry] = {}
    for name, body in bodies.FLOAT_UNARY.items():
        table[name] = (one, "f32", body, LANES)
    for name, body in bodies.FLOAT_SCALAR.items():
        table[name] = (two if name in _TWO else one, "f32", body, 1)
    for name, body in TRIGONOMETRY.items():
        table[name] = (one, "f32", body, LANES)
    for name, body in bodies.FLOAT_TESTS.items():
        table[name] = (one, "bool", body, LANES)
    for name, body in bodies.FLOAT_BINARY.items():
        table[name] = (two, "f32", body, LANES)
    for name, body in bodies.FLOAT_BINARY_SCALAR.items():
        table[name] = (two, "f32", body, 1)
    for name, body in bodies.FLOAT_TERNARY.items():
        table[name] = (("f32",) * 3, "f32", body, LANES)
    for name in bodies.WIDEN:
        table[f"widen_{name}"] = ((name,), "f32", bodies.WIDEN[name], LANES)
        table[f"narrow_{name}"] = (one, name, bodies.NARROW[name], LANES)
        table[f"round_{name}"] = (one, "f32", _rounded(name), LANES)
    return table


def _rounded(name: str) -> Body:
    return lambda lanes, x: bodies.WIDEN[name](lanes, bodies.NARROW[name](lanes, x))


def _int_entries(kind: str) -> dict[str, Entry]:
    one, two = (kind,), (kind, kind)
    unsigned = kind == "u8"
    table: dict[str, Entry] = {
        "neg": (one, kind, integers.int_neg, LANES),
        "bitwise_not": (one, kind, integers.int_not, LANES),
        "clamp": (one, kind, integers.int_clamp(unsigned), LANES),
        "pow": (two, kind, integers.int_pow, 1),
    }
    if unsigned:
        table["sign"] = (one, kind, integers.unsigned_sign, LANES)
    else:
        table["relu"] = (one, kind, integers.int_relu, LANES)
        table["abs"] = (one, kind, integers.int_abs, LANES)
        table["sign"] = (one, kind, integers.int_sign, LANES)
    for name, body in integers.INT_BINARY.items():
        table[name] = (two, kind, body, LANES)
    for name in ("floor_div", "trunc_div", "remainder", "fmod"):
        table[name] = (two, kind, integers.int_divide(name, unsigned), 1)
    return table


def _bool_entries() -> dict[str, Entry]:
    two = ("bool", "bool")
    table: dict[str, Entry] = {"bitwise_not": (("bool",), "bool", integers.int_not, LANES)}
    for name, source in (
        ("add", "bitwise_or"), ("mul", "bitwise_and"), ("maximum", "bitwise_or"),
        ("minimum", "bitwise_and"), ("bitwise_and", "bitwise_and"), ("bitwise_or", "bitwise_or"),
        ("bitwise_xor", "bitwise_xor"),
    ):  # fmt: skip
        table[name] = (two, "bool", integers.INT_BINARY[source], LANES)
    return table


def _common_entries(kind: str) -> dict[str, Entry]:
    """Return comparisons, logic, selection, conversions: what every compute type has."""
    two = (kind, kind)
    table: dict[str, Entry] = {}
    for name, sign in bodies.COMPARE.items():
        table[name] = (two, "bool", bodies.compare(sign, kind), LANES)
    for name, body in bodies.LOGIC.items():
        table[name] = (two, "bool", body, LANES)
    table["where"] = (("bool", kind, kind), kind, bodies.where, LANES)
    if kind != "f32":
        table["logical_not"] = ((kind,), "bool", integers.falsity, LANES)
        table["to_bool"] = ((kind,), "bool", bodies.truth, LANES)
        table["to_f32"] = ((kind,), "f32", bodies.int_to_float(kind), LANES)
    if kind in INTS:
        for name, sign in (("maximum", ">"), ("minimum", "<")):
            table[name] = (two, kind, integers.pick(kind, sign), LANES)
    for to, type_ in bodies.INT_TYPES.items():
        make = bodies.float_to_int(type_) if kind == "f32" else bodies.int_to_int(kind, type_)
        if to != kind:
            table[f"to_{to}"] = ((kind,), to, make, LANES)
    return table


@cache
def _table(kind: str) -> Mapping[str, Entry]:
    own = {"f32": _float_entries, "bool": _bool_entries}.get(kind)
    table = own() if own is not None else _int_entries(kind)
    return {**_common_entries(kind), **table}


def has(name: str, kind: str) -> bool:
    """Return whether there is an operation ``name`` on compute type ``kind``."""
    return kind in SIZE and compute_type(kind) == kind and name in _table(kind)


def result_type(name: str, kind: str) -> str:
    """Return the element type that the operation gives."""
    return _table(kind)[name][1]


@factory
def find(name: str, kind: str) -> Kernel:
    """Return the operation. Raises KeyError when there is none."""
    ins, out, body, width = _table(kind)[name]
    cheap = width > 1 and (kind != "f32" or name not in _HEAVY)
    return operation(name, ins, out, body, width, 4 if cheap else 1)
