"""Hypothesis strategies: types, kinds with fitting operands, functions, hard arrays."""

from .arrays import arrays, arrays_for
from .functions import functions
from .kinds import applications, attrs, operand_types, tensor_types

__all__ = [
    "applications",
    "arrays",
    "arrays_for",
    "attrs",
    "functions",
    "operand_types",
    "tensor_types",
]
