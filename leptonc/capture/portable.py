"""capture > portable: how a model is called, as JSON: what a saved program needs of a ``Captured``.

The functions themselves are not in it. Paths of source files are left out: they mean nothing on
another machine, and nobody who loads a program should have files read that it names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.utils import _pytree as pytree

from leptonc.capture.captured import Captured, CaptureRemark, InputSpec, OutputSpec
from leptonc.capture.plain import decode, encode
from leptonc.capture.structure import Reader, written
from leptonc.errors import ArtifactError
from leptonc.ir.core import Function, Origin
from leptonc.ir.dims import Dim, dim_text, free_symbols, parse_dim


def to_json(captured: Captured) -> dict[str, Any]:
    """Return the calling convention of a captured model as JSON.

    Raises:
        ArtifactError: arguments or results of a type that cannot be saved; the text names it.
    """
    return {
        "in": written(captured.in_spec),
        "out": written(captured.out_spec),
        "inputs": [_input(s) for s in captured.inputs],
        "outputs": [_output(s) for s in captured.outputs],
        "arg_names": list(captured.arg_names),
        "parameters": sorted(captured.parameters),
        "remarks": [[r.op, r.reason, *origin_json(r.origin)] for r in captured.remarks],
    }


def _input(s: InputSpec) -> dict[str, Any]:
    try:
        constant = encode(s.constant)
    except ArtifactError as error:
        raise ArtifactError(f"argument {s.name}: {error}") from None
    return {
        "name": s.name, "param": s.param, "fixed": s.fixed, "tensor": s.tensor,
        "constant": constant, "size": _size(s.size),
    }  # fmt: skip


def _output(s: OutputSpec) -> dict[str, Any]:
    try:
        constant = encode(s.constant)
    except ArtifactError as error:
        raise ArtifactError(f"a result: {error}") from None
    return {"result": s.result, "input": s.input, "size": _size(s.size), "constant": constant}


def _size(size: Dim | None) -> str | None:
    return None if size is None else dim_text(size)


def origin_json(origin: Origin) -> tuple[str, str]:
    """Return an op's origin as JSON."""
    return origin.module, origin.source


def from_json(data: Any, function: Function, reader: Reader) -> Captured:
    """Return what ``to_json`` wrote, with ``function`` as the captured program.

    ``reader`` knows classes of containers, and is told which ones are missing.

    Raises:
        ArtifactError: anything else than what was written for this function.
    """
    try:
        found = Captured(
            function,
            reader.spec(data["in"]),
            reader.spec(data["out"]),
            tuple(_read_input(d) for d in data["inputs"]),
            tuple(_read_output(d) for d in data["outputs"]),
            tuple(map(_text, data["arg_names"])),
            tuple(CaptureRemark(op, why, Origin(m, s)) for op, why, m, s in data["remarks"]),
            parameters=frozenset(map(_text, data["parameters"])),
        )
        _check(found)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"not how a model is called ({error})") from None
    return found


def _read_input(d: Mapping[str, Any]) -> InputSpec:
    return InputSpec(
        _text(d["name"]), _index(d["param"]), _flag(d["fixed"]), decode(d["constant"]),
        _read_size(d["size"]), _flag(d["tensor"]),
    )  # fmt: skip


def _read_output(d: Mapping[str, Any]) -> OutputSpec:
    return OutputSpec(
        _index(d["result"]), _index(d["input"]), _read_size(d["size"]), decode(d["constant"])
    )


def _read_size(text: Any) -> Dim | None:
    return None if text is None else parse_dim(_text(text))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r}")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"expected true or false, got {value!r}")
    return value


def _index(value: Any) -> int | None:
    if value is not None and (type(value) is not int or value < 0):
        raise TypeError(f"expected an index, got {value!r}")
    return value


def _check(c: Captured) -> None:
    """Raise ValueError unless the parts belong together."""
    params = [s.param for s in c.inputs if s.param is not None]
    if sorted(params) != list(range(len(c.function.params))):
        raise ValueError(f"{len(c.function.params)} parameters, given by arguments {params}")
    if not all(s.tensor for s in c.inputs if s.param is not None):
        raise ValueError("a parameter that is no tensor")
    results = {s.result for s in c.outputs if s.result is not None}
    if results != set(range(len(c.function.returns))):
        raise ValueError(f"{len(c.function.returns)} results, returned are {sorted(results)}")
    if any(s.input is not None and s.input >= len(c.inputs) for s in c.outputs):
        raise ValueError("a result that is an argument beyond the last")
    declared = {d.name for d in c.function.dims}
    used = free_symbols(s.size for s in c.outputs if s.size is not None)
    if not used <= declared:
        raise ValueError(f"sizes {sorted(used - declared)}, which are not declared")
    leaves = (c.in_spec.num_leaves, c.out_spec.num_leaves)
    if leaves != (len(c.inputs), len(c.outputs)) or not _is_call(c.in_spec):
        raise ValueError(f"{leaves[0]} arguments and {leaves[1]} results in the structures")


def _is_call(spec: pytree.TreeSpec) -> bool:
    """Return whether this is the structure of (positional arguments, keyword arguments)."""
    if spec.type is not tuple or spec.num_children != 2:
        return False
    args, kwargs = spec.children()
    names = kwargs.context if kwargs.type is dict else None
    return args.type is tuple and names is not None and all(isinstance(n, str) for n in names)
