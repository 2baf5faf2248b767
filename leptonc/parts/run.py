"""parts > run: the whole model out of its parts, in a row or pipelined by micro-batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from leptonc import meaning
from leptonc.capture.captured import Captured, arguments
from leptonc.errors import InputError, PartError
from leptonc.ir.core import Function
from leptonc.parts import batches
from leptonc.parts.batches import Axes, Batching
from leptonc.parts.part import Part
from leptonc.parts.pipeline import Stage, failure, run_stages
from leptonc.parts.saved import LoadedPart

Named = dict[str, Tensor]


@dataclass(frozen=True)
class Frame:
    """What the parts of one split need around them.

    Attributes:
        whole: the program that was split; of saved parts without its ops.
        params: names of its parameters.
        returns: names of its returns.
        captured: how arguments and results of the model are arranged.
    """

    whole: Function
    params: tuple[str, ...]
    returns: tuple[str, ...]
    captured: Captured

    def taken(self, inputs: Any) -> tuple[list[Tensor], list[Any]]:
        """Return the program's operands, and the leaves of the call. Raises InputError."""
        leaves = self.captured.flatten(*arguments(inputs))
        return self.captured.tensors(leaves), leaves

    def given(self, results: Sequence[Tensor], leaves: list[Any], sizes: Mapping[str, int]) -> Any:
        """Return the results as the model arranges them."""
        return self.captured.restore(results, leaves, sizes)

    def sizes(self, tensors: Sequence[Tensor]) -> dict[str, int]:
        """Return the symbolic sizes for these operands. Raises InputError."""
        shapes = [tuple(t.shape) for t in tensors]
        return meaning.bind_dims(self.whole, shapes) if self.whole.dims else {}


def run(
    parts: Sequence[Any],
    inputs: Any,
    *,
    microbatches: int = 1,
    batch: Axes = None,
    deadline_s: float | None = None,
    depth: int = 2,
    check: bool = True,
) -> Any:
    """Return what the model that was split returns for ``inputs``, computed by its ``parts``.

    With ``microbatches`` the batch is cut into so many pieces (fewer for a small batch; their sizes
    differ by one at most), the parts run at the same time, each in a thread of its own on another
    piece, and the results are joined in order.

    Args:
        parts: all parts of one split, in order.
        inputs: a tensor, a tuple of positional arguments or a dict of keyword arguments.
        microbatches: how many pieces.
        batch: where the batch is: the name of a symbolic size, an axis, or an axis by input name;
            by default the symbolic size that is the first axis of the inputs.
        deadline_s: seconds until the result must be there, the compile of parts not counted.
        depth: most pieces that wait between two parts.
        check: whether the rows of a batch are first shown not to depend on each other, once a
            split, by interpreting the program on a batch and on its halves; saved parts cannot be
            asked.

    Raises:
        InputError: inputs that do not fit, or a batch that cannot be cut.
        PartError: a part failed, which the text names, or the deadline passed.
    """
    if microbatches < 1:
        raise InputError(f"{microbatches} micro-batches: ask for at least 1")
    frame = frame_of(parts)
    tensors, leaves = frame.taken(inputs)
    for part in parts:
        if isinstance(part, Part):
            part.compile()  # not in the stages: a compile wants the process for itself
    stages = [Stage(p.name, step) for p, step in zip(parts, _steps(parts, frame), strict=True)]
    if microbatches == 1:
        named = dict(zip(frame.params, tensors, strict=True))
        if deadline_s is None:
            made = _in_a_row(stages, named)
        else:
            (made,) = run_stages(stages, [named], deadline_s=deadline_s)
        return frame.given([made[n] for n in frame.returns], leaves, frame.sizes(tensors))
    where = where_of(parts, frame, batch, check)
    total = batches.size_of(tensors, frame.params, where)
    pieces = batches.cut(tensors, where, batches.pieces_of(total, microbatches, where))
    items = [dict(zip(frame.params, piece, strict=True)) for piece in pieces]
    results = run_stages(stages, items, deadline_s=deadline_s, depth=depth)
    joined = batches.join([[made[n] for n in frame.returns] for made in results], where)
    sizes = frame.sizes(pieces[0])
    return frame.given(joined, leaves, {**sizes, **dict.fromkeys([where.symbol], total)})


def frame_of(parts: Sequence[Any]) -> Frame:
    """Return what surrounds ``parts``. Raises PartError unless they are one split, in order."""
    if not parts:
        raise PartError("no parts to run; leptonc.split makes them")
    if any(not isinstance(p, (Part, LoadedPart)) for p in parts):
        raise PartError("leptonc.run takes the parts of leptonc.split, all of one model, in order")
    first = parts[0]
    if len({_split(p) for p in parts}) > 1:
        raise PartError("these parts come from different splits; run the parts of one")
    count = first.count if isinstance(first, LoadedPart) else len(first.plan)
    if [p.index for p in parts] != list(range(count)):
        have = ", ".join(str(p.index) for p in parts)
        raise PartError(f"there are parts 0 to {count - 1}, in this order; got: {have}")
    if isinstance(first, LoadedPart):
        whole = first.captured.function
        params, returns = (tuple(v.hint for v in vs) for vs in (whole.params, whole.returns))
        return Frame(whole, params, returns, first.captured)
    carved = first.plan.carved
    return Frame(carved.whole, carved.params, carved.returns, first.plan.captured)


def _split(part: Any) -> str:
    return part.split if isinstance(part, LoadedPart) else part.plan.id


def where_of(parts: Sequence[Any], frame: Frame, batch: Axes, check: bool) -> Batching:
    """Return where the batch is. Raises InputError if there is none or its rows know each other."""
    where = batches.batching(frame.whole, frame.params, frame.returns, batch)
    known = next((p.plan for p in parts if isinstance(p, Part)), None)
    mixed = known.mixing(where) if check and known is not None else None
    if mixed is not None:
        raise InputError(
            f"{frame.returns[mixed]}: its rows depend on the whole batch (a sum or a statistic "
            "over it), so pieces of the batch give other results; run it whole"
        )
    return where


def _in_a_row(stages: Sequence[Stage], named: Named) -> Named:
    for stage in stages:
        try:
            named = stage.run(named)
        except Exception as e:
            raise failure(stage.name, e) from e
    return named


def _steps(parts: Sequence[Any], frame: Frame) -> list[Any]:
    """Return, for each part, what takes the values that are known to those known after it."""
    later = set(frame.returns)
    steps: list[Any] = []
    for part in reversed(parts):
        steps.append(partial(_step, part, frozenset(later)))
        later |= set(part.inputs)
    return steps[::-1]


def _step(part: Any, later: frozenset[str], named: Named) -> Named:
    """Return the values that are still read after ``part``, its own results included."""
    made = part(*(named[n] for n in part.inputs))
    return {n: t for n, t in (*named.items(), *made.items()) if n in later}
