"""Capture: a PyTorch model -> a Function, by way of the high-level ATen graph of torch.export.

The package is also the public function ``leptonc.capture(model, example_inputs, dynamic=None)``:
a package and a function of one name cannot stand side by side, so the module is callable.
"""

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch.export import Dim

from leptonc.capture.captured import Captured, CaptureRemark, InputSpec, OutputSpec
from leptonc.capture.frontend import capture
from leptonc.ir.core import Function

__all__ = ["CaptureRemark", "Captured", "Dim", "InputSpec", "OutputSpec", "capture"]


class _Callable(ModuleType):
    """Type of the package itself, which makes it callable."""

    def __call__(self, model: Any, example_inputs: Any = None, dynamic: Any = None) -> Function:
        """Return ``model`` as IR, nothing rewritten. Raises CaptureError."""
        if isinstance(example_inputs, Mapping):
            return capture(model, (), example_inputs, dynamic=dynamic).function
        return capture(model, example_inputs, dynamic=dynamic).function


sys.modules[__name__].__class__ = _Callable
