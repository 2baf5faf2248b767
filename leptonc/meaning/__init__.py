"""The reference semantics: every kind as a torch expression, and the interpreter over them."""

from leptonc.meaning.constants import (
    IR_DTYPES,
    TORCH_DTYPES,
    all_finite,
    bytes_of,
    const_of,
    nonzero_share,
    scaled_rows,
    set_nonzero_share,
    tensor_of,
    type_of,
)
from leptonc.meaning.interpreter import MEANING, apply, bind_dims, fold, run
from leptonc.meaning.memory import (
    array_of,
    elements_of,
    raw_array,
    raw_elements,
    raw_filled,
    raw_tensor,
    stand_in,
    tensor_at,
    tensor_from_raw,
)

__all__ = [
    "IR_DTYPES",
    "MEANING",
    "TORCH_DTYPES",
    "all_finite",
    "apply",
    "array_of",
    "bind_dims",
    "bytes_of",
    "const_of",
    "elements_of",
    "fold",
    "nonzero_share",
    "raw_array",
    "raw_elements",
    "raw_filled",
    "raw_tensor",
    "run",
    "scaled_rows",
    "set_nonzero_share",
    "stand_in",
    "tensor_at",
    "tensor_from_raw",
    "tensor_of",
    "type_of",
]
