"""``capture``: a model and example inputs -> ``Captured``, traced by leptonc or torch.export."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch._guards import tracing
from torch.export import ExportedProgram
from torch.fx.experimental import _config as fx_config
from torch.utils import _pytree as pytree

from leptonc.capture.captured import Captured, CaptureRemark
from leptonc.capture.dynamic import check_arguments, dynamic_shapes, symbol_names
from leptonc.capture.failure import capture_error, refuse_training
from leptonc.capture.graph import NeedsFunctional
from leptonc.capture.origin import argument_names
from leptonc.capture.program import of_exported
from leptonc.capture.quiet import quiet
from leptonc.capture.reading import read
from leptonc.capture.shim import Shim, needs_shim
from leptonc.capture.sizes import Sizes
from leptonc.capture.trace import trace
from leptonc.capture.whole_layers import whole_layers
from leptonc.errors import CaptureError
from leptonc.ir.core import NOWHERE

# The method of a module that was raised from IR: it returns what it is, or None for other inputs.
RAISED = "__leptonc_captured__"

_FROM_TWO = CaptureRemark("dynamic", "the model treats size 1 apart: sizes begin at 2", NOWHERE)


def capture(
    model: Any,
    args: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic: Any = None,
) -> Captured:
    """Return ``model`` as a Function, with the map of its arguments and results.

    Args:
        model: an ``nn.Module``, ``fx.GraphModule`` or ``ExportedProgram``; it is not changed.
        args: example positional arguments (one tensor may stand alone); an ExportedProgram has its
            own.
        kwargs: example keyword arguments.
        dynamic: which sizes may change: None, ``"auto"``, or e.g. ``{"x": {0: Dim("batch")}}``.

    Raises:
        CaptureError: the model is in training mode, keeps state, or cannot be traced; the message
            names the user's source line and what to change.
    """
    if isinstance(model, ExportedProgram):
        example = model.example_inputs or ((), {})
        return _import(model, model, example[0], dict(example[1]), Sizes(), None)
    refuse_training(model)
    args = (args,) if isinstance(args, torch.Tensor) else tuple(args or ())
    named: dict[str, Any] = dict(kwargs or {})
    if hasattr(model, RAISED) and (known := getattr(model, RAISED)(args, named, dynamic)):
        return known
    check_arguments(model, args, named)
    shapes = dynamic_shapes(model, args, named, dynamic)
    if shapes is None and (quick := _traced(model, args, named)):
        return quick
    if shapes is not None:
        args, named = pytree.tree_map(_alias, (args, named))
    exported, out_spec, floor = _export(model, args, named, shapes)
    given = of_exported(exported).inputs()
    fakes = [None if p.node is None else p.node.meta.get("val") for p in given]
    sizes = Sizes(symbol_names(model, args, named, shapes, fakes), floor)
    made = _import(exported, model, args, named, sizes, out_spec)
    if not floor:
        return made
    return dataclasses.replace(made, remarks=(*made.remarks, _FROM_TWO))


def _traced(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Captured | None:
    """Return a plain model of static sizes; None: torch.export is to trace it, or to say why not.

    Whatever stops the trace or its import does so silently: torch.export comes to the same point.
    """
    try:
        with _tracing():
            program = trace(model, args, kwargs)
        return read(program, model, argument_names(model, args, kwargs), len(args), Sizes())
    except Exception:
        return None


def _alias(leaf: Any) -> Any:
    """Return another object for the same tensor: torch.export marks dynamic ones."""
    return leaf.detach() if isinstance(leaf, torch.Tensor) else leaf


# ----- torch.export ---------------------------------------------------------------------------


def _export(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any
) -> tuple[ExportedProgram, pytree.TreeSpec | None, int]:
    """Return the program, its result's structure where torch lacks it, and the least dynamic size.

    Torch takes dynamic sizes to be at least 2 while it traces. Named sizes are traced without that
    assumption first, so that a model that treats 1 apart is told so; where tracing needs it, the
    declared ranges begin at 2.
    """
    if shapes is not None and _has_named(shapes):
        try:
            with cast(Any, fx_config).patch(backed_size_oblivious=True):
                return *_export_any(model, args, kwargs, shapes), 0
        except CaptureError:
            return *_export_any(model, args, kwargs, shapes), 2
    return *_export_any(model, args, kwargs, shapes), 0


def _has_named(shapes: Any) -> bool:
    return any(hasattr(leaf, "__name__") for leaf in pytree.tree_leaves(shapes))


def _export_any(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any
) -> tuple[ExportedProgram, pytree.TreeSpec | None]:
    """Export, through a wrapper if the model returns what torch cannot take apart."""
    try:
        return _exported(model, args, kwargs, shapes), None
    except Exception as e:
        if not needs_shim(e):
            raise capture_error(e, model) from e
    specs: list[pytree.TreeSpec] = []
    try:
        program = _exported(Shim(model, specs.append), args, kwargs, shapes)
        return program, specs[-1]
    except Exception as e:
        raise capture_error(e, model) from e


@contextmanager
def _tracing() -> Iterator[None]:
    """Set what every trace needs; whichever way, a model is traced alike."""
    # tracing(None): inside torch.compile, export would otherwise add its guards to Dynamo's
    with torch.no_grad(), _plain_attention(), whole_layers(), quiet(), tracing(None):
        yield


def _exported(model: Any, args: Any, kwargs: Any, shapes: Any) -> ExportedProgram:
    with _tracing():
        return torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Keep nn.MultiheadAttention from its fused inference path, which is one opaque op."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _import(
    exported: ExportedProgram,
    model: Any,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    sizes: Sizes,
    out_spec: pytree.TreeSpec | None,
) -> Captured:
    def imported(exported: ExportedProgram) -> Captured:
        program = of_exported(exported)
        if out_spec is not None:
            program = dataclasses.replace(program, out_spec=out_spec)
        return read(program, model, argument_names(model, args, kwargs), len(args), sizes)

    try:
        return imported(exported)
    except NeedsFunctional:
        return imported(_functional(exported, model))


def _functional(program: ExportedProgram, model: Any) -> ExportedProgram:
    """Return the program without in-place ops; composite ops stay whole."""
    try:
        with torch.no_grad(), quiet():
            return program.run_decompositions({})
    except Exception as e:
        raise capture_error(e, model) from e
