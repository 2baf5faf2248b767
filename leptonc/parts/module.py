"""parts > module: a piece as a ``torch.nn.Module`` that is captured again exactly.

``leptonc.compile`` takes it as any model, so kernels, self-check, reports and profiles are the
ordinary ones. Weights are shared with the model that was split as long as no pass changed them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from leptonc import meaning
from leptonc.capture.captured import Captured, InputSpec, OutputSpec
from leptonc.ir.core import Function, Op, Value
from leptonc.ir.kinds.data import Constant
from leptonc.meaning import const_of, tensor_of
from leptonc.parts.carve import Piece


class PieceModule(nn.Module):
    """A piece of a program: tensors in the order of its inputs -> tuple of what it computes.

    Attributes:
        piece: what it is made of.
    """

    def __init__(self, piece: Piece, whole: Captured) -> None:
        super().__init__()
        self.piece, self._files, self._trained = piece, whole.files, whole.parameters
        # A compile lets the bytes of its constants go: each gets constants of its own.
        self._tensors: Mapping[Value, Tensor] = {
            op.result: tensor_of(op.kind.const).detach()
            for op in piece.function.ops
            if isinstance(op.kind, Constant)
        }
        self._held = {name: tensor_of(kind.const) for name, kind in piece.held.items()}
        self.eval()

    @property
    def held(self) -> Mapping[str, Tensor]:
        """The constants that the piece hands on, by name."""
        return self._held

    @property
    def weights_bytes(self) -> int:
        """Bytes of all constants, those handed on included."""
        distinct = {t.data_ptr(): t for t in (*self._tensors.values(), *self._held.values())}
        return sum(t.numel() * t.element_size() for t in distinct.values())

    def captured(self) -> Captured:
        """Return what capturing this module gives, with constants of its own."""
        fn = self.piece.function
        ops = tuple(self._renewed(op) for op in fn.ops)
        count = len(self.piece.inputs)
        return Captured(
            dataclasses.replace(fn, ops=ops),
            pytree.tree_structure((tuple(range(count)), {})),
            pytree.tree_structure(tuple(range(len(fn.returns)))),
            tuple(InputSpec(n, param=i, tensor=True) for i, n in enumerate(self.piece.inputs)),
            tuple(OutputSpec(result=i) for i in range(len(fn.returns))),
            self.piece.inputs,
            files=self._files,
            parameters=self._trained,
        )

    def __leptonc_captured__(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], dynamic: Any
    ) -> Captured:
        """Return :meth:`captured`, whatever the arguments: sizes were declared at the split."""
        return self.captured()

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return what the piece computes, op by op with torch. Raises InputError."""
        return meaning.run(self.function, *tensors)

    @property
    def function(self) -> Function:
        """The program of the piece, whose constants hold their bytes."""
        return self.captured().function

    def _renewed(self, op: Op) -> Op:
        if not isinstance(op.kind, Constant):
            return op
        return dataclasses.replace(op, kind=Constant(const_of(self._tensors[op.result])))
