"""The ``dynamic`` option: which sizes of which arguments may change, as torch.export takes it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.export import Dim
from torch.utils import _pytree as pytree

from leptonc.capture.origin import signature_of
from leptonc.errors import CaptureError

_RESERVED = frozenset({"floor", "ceiling", "Mod", "Max", "Min", "inf", "nan"})


def dynamic_shapes(
    model: Any, args: Sequence[Any], kwargs: Mapping[str, Any], dynamic: Any
) -> dict[str, Any] | None:
    """Return torch.export's ``dynamic_shapes`` for every argument.

    Args:
        model: the module whose ``forward`` names the arguments.
        args: the example's positional arguments.
        kwargs: the example's keyword arguments.
        dynamic: None, ``"auto"``, or a mapping from argument names to what torch.export takes for
            them (``{axis: Dim(...)}``, nested as the argument is); arguments not named are static.

    Raises:
        CaptureError: an unknown argument name, or a value that is neither.
    """
    if dynamic is None:
        return None
    given = _by_name(model, args, kwargs)
    if dynamic == "auto":
        return {name: pytree.tree_map(_auto, value) for name, value in given.items()}
    if not isinstance(dynamic, Mapping):
        raise CaptureError(f'dynamic must be None, "auto" or a mapping, got {dynamic!r}')
    unknown = [n for n in dynamic if n not in given]
    if unknown:
        raise CaptureError(
            f"dynamic names {', '.join(map(repr, unknown))}; the arguments are {', '.join(given)}"
        )
    for name, value in given.items():
        _check_axes(name, dynamic.get(name), value)
    return {name: _static_int(dynamic.get(name), value) for name, value in given.items()}


def _check_axes(name: str, spec: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor) and isinstance(spec, Mapping):
        wrong = [a for a in spec if not isinstance(a, int) or not 0 <= a < value.dim()]
        if wrong:
            raise CaptureError(
                f"dynamic[{name!r}] names axis {', '.join(map(repr, wrong))} of a tensor of "
                f"{value.dim()} axes, counted from 0"
            )


def check_arguments(model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise CaptureError unless ``forward`` takes these arguments."""
    _by_name(model, args, kwargs)


def _by_name(model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    signature = signature_of(model) or inspect.signature(lambda *args, **kwargs: None)
    try:
        return dict(signature.bind(*args, **kwargs).arguments)
    except TypeError as e:
        raise CaptureError(f"the example inputs do not fit forward{signature}: {e}") from e


def _auto(leaf: Any) -> Any:
    if not isinstance(leaf, torch.Tensor):
        return None
    return {i: Dim.AUTO for i, n in enumerate(leaf.shape) if n > 1}


def _static_int(spec: Any, value: Any) -> Any:
    """Return the spec; a plain Python value is fixed whatever is asked."""
    return spec if isinstance(value, (torch.Tensor, list, tuple, dict)) or spec is None else None


def symbol_names(
    model: Any, args: Sequence[Any], kwargs: Mapping[str, Any], shapes: Any, fakes: Sequence[Any]
) -> dict[str, str]:
    """Return the user's name for each of torch's symbols (``s77`` -> ``batch``).

    Args:
        model: as for ``dynamic_shapes``.
        args: as for ``dynamic_shapes``.
        kwargs: as for ``dynamic_shapes``.
        shapes: what ``dynamic_shapes`` returned.
        fakes: the fake tensor (or other value) of each flat argument leaf, in torch's order.
    """
    if not shapes:
        return {}
    given = _by_name(model, args, kwargs)
    leaves = [leaf for value in given.values() for leaf in pytree.tree_leaves(value)]
    if len(leaves) != len(fakes):
        return {}
    specs: list[Any] = []
    for name, value in given.items():
        specs += _aligned(shapes.get(name), value)
    found: dict[str, str] = {}
    for spec, fake in zip(specs, fakes, strict=True):
        if not isinstance(fake, torch.Tensor) or spec is None:
            continue
        axes = spec.items() if isinstance(spec, Mapping) else enumerate(spec)
        for axis, dim in axes:
            _name_symbol(found, dim, fake.shape[axis])
    return found


def _aligned(spec: Any, value: Any) -> list[Any]:
    """Return the spec of each leaf of ``value``."""
    if isinstance(value, torch.Tensor) or spec is None:
        return [spec] * len(pytree.tree_leaves(value))
    if isinstance(value, Mapping):
        return [s for k, v in value.items() for s in _aligned(spec.get(k), v)]
    if isinstance(value, (list, tuple)) and isinstance(spec, (list, tuple)):
        return [s for sp, v in zip(spec, value, strict=False) for s in _aligned(sp, v)]
    return [None] * len(pytree.tree_leaves(value))


def _name_symbol(found: dict[str, str], dim: Any, size: Any) -> None:
    name = getattr(dim, "__name__", "") if isinstance(dim, type(Dim("any"))) else ""
    plain = re.fullmatch(r"[A-Za-z_]\w*", name) and name not in _RESERVED
    if not plain or not isinstance(size, torch.SymInt):
        return
    expr = size.node.expr
    if expr.is_Symbol and name not in found.values():
        found.setdefault(str(expr), name)
