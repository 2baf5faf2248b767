"""What to tell the user when torch.export fails: the source line and what to change."""

from __future__ import annotations

import re
from typing import Any

import torch

from leptonc.capture.origin import user_line
from leptonc.errors import CaptureError

# (pattern in the error's class and text, what happened, what to change), first match wins.
_ADVICE: tuple[tuple[str, str, str], ...] = (
    (
        r"DataDependent|DynamicOutputShape|data-dependent|Could not (guard|extract)|[Uu]nbacked",
        "the model branches, loops or sizes a tensor on the values of a tensor",
        "write the branch with torch.where, or move it out of the "
        'model; torch.compile(model, backend="leptonc") splits the model there by itself',
    ),
    (
        r"specialized it to be a constant \(1\)",
        "the example is of size 1 along a dynamic axis, and the model treats 1 apart",
        "compile with an example of size 2 or more along that axis",
    ),
    (
        r"Constraints violated|ConstraintViolation|specialized|not in range|were marked dynamic",
        "a size that was declared dynamic is fixed by the model, or tied to another size",
        "declare it as the message suggests, leave it out of `dynamic`, or use "
        'dynamic="auto", which keeps dynamic what can be',
    ),
    (
        r"dynamic_shapes|dynamic shapes",
        "`dynamic` does not fit the arguments",
        "give a mapping from argument names to {axis: Dim(name, min=, max=)}, nested as the "
        "argument is",
    ),
    (
        r"missing \d+ required|unexpected keyword|takes .* positional argument",
        "the example inputs do not fit forward()",
        "pass example_inputs as forward takes them: a tuple of positional arguments",
    ),
    (
        r"Unsupported (input|output) type|unsupported type|not a known type|Tried to flatten",
        "an argument or result has a type that torch cannot take apart",
        "return tensors, tuples, lists, dicts or dataclasses, or register the class with "
        "torch.utils._pytree.register_pytree_node (transformers: pass use_cache=False)",
    ),
    (
        r"mutat|in-?place|aliases",
        "the model writes to its own state while it runs",
        "return the new value as an output instead, or clone() before writing",
    ),
)
_DEFAULT = (
    "tracing it raised an error",
    "make that line traceable by torch.export (tensor code without Python side effects), or use "
    'torch.compile(model, backend="leptonc"), which leaves such lines to Python',
)


def capture_error(error: BaseException, model: Any) -> CaptureError:
    """Return the error to raise for ``error``: what, where in the user's source, what to change."""
    if isinstance(error, CaptureError):
        return error
    text = f"{type(error).__name__}: {error}"
    what, change = next((w, c) for p, w, c in (*_ADVICE, ("", *_DEFAULT)) if re.search(p, text))
    line = user_line(error)
    at = f"\n  at {line}" if line else ""
    return CaptureError(
        f"cannot capture {type(model).__name__}: {what}{at}\n"
        f"  torch says: {_brief(text)}\n  change: {change}"
    )


def _brief(text: str, limit: int = 600) -> str:
    """Return the message without torch's debugging advice."""
    text = re.split(r"\n\s*(?:For more information|The following call raised|User Stack)", text)[0]
    text = " ".join(text.split()).split(" The error above occurred when")[0]
    return text if len(text) <= limit else text[:limit] + " ..."


_RANDOM_IN_TRAINING = (
    torch.nn.modules.dropout._DropoutNd,
    torch.nn.modules.batchnorm._NormBase,
    torch.nn.RReLU,
)


def refuse_training(model: Any) -> None:
    """Raise CaptureError for a module in training mode that inference would run otherwise.

    Raises:
        CaptureError: it, or a dropout or batch-norm inside it, is in training mode.
    """
    if not isinstance(model, torch.nn.Module) or isinstance(model, torch.fx.GraphModule):
        culprit = ""
    elif model.training:
        culprit = "the model"
    else:
        culprit = next(
            (
                f"{name} ({type(m).__name__})"
                for name, m in model.named_modules()
                if m.training and _acts_in_training(m)
            ),
            "",
        )
    if culprit:
        raise CaptureError(
            f"{culprit} is in training mode, and leptonc compiles inference; "
            "call model.eval() first"
        )


def _acts_in_training(m: torch.nn.Module) -> bool:
    random = isinstance(m, (torch.nn.RNNBase, torch.nn.MultiheadAttention)) and m.dropout > 0
    return random or isinstance(m, _RANDOM_IN_TRAINING)
