"""compress > ledger: every lossy step: unit, what, bytes, time, error; undoable."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from leptonc.compress import choice
from leptonc.compress.choice import Choice
from leptonc.compress.recipe import CompressError
from leptonc.ir.core import Function
from leptonc.ir.kinds.data import Constant
from leptonc.show import html_table
from leptonc.show.html_table import Cell

if TYPE_CHECKING:
    from leptonc.compress.road import Compressed


@dataclass(frozen=True)
class Entry:
    """One lossy step.

    Attributes:
        index: its number in the ledger. recipe: which recipe made it. where, what: see ``Edit``.
        bytes_before, bytes_after: of all constants.
        estimated_ms_before, estimated_ms_after: of one run, by the cost model.
        ms_before, ms_after: measured, once somebody asked (``ledger.measure``), else None.
        error: relative error of the results against the original on the calibration data (or the
            example) after this step; ``added``: that, less the error before it.
    """

    index: int
    recipe: str
    where: str
    what: str
    bytes_before: int
    bytes_after: int
    estimated_ms_before: float
    estimated_ms_after: float
    error: float
    added: float
    ms_before: float | None = None
    ms_after: float | None = None


@dataclass(frozen=True)
class Ledger:
    """The steps of a compression, in the order they were made.

    ``without`` makes the model anew less one step, ``timed`` takes the steps' times. ``choices``:
    of every unit that was timed in several forms, the one it took and what each of them takes.
    """

    entries: tuple[Entry, ...]
    without: Callable[[int], Compressed]
    timed: Callable[[Sequence[Entry]], Sequence[Entry]]
    choices: tuple[Choice, ...] = ()

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __getitem__(self, index: int) -> Entry:
        return self.entries[index]

    def undo(self, index: int) -> Compressed:
        """Return the model without step ``index``; all other steps are kept.

        Weights that were trained since are kept where their shapes are the same. Raises
        CompressError for a number that is not in the ledger.
        """
        if not 0 <= index < len(self.entries):
            raise CompressError(f"the ledger has steps 0 to {len(self.entries) - 1}, not {index}")
        return self.without(index)

    def measure(self) -> Ledger:
        """Return the ledger with measured times: the program is compiled before and after."""
        return dataclasses.replace(self, entries=tuple(self.timed(self.entries)))

    def table(self) -> Table:
        """Return the steps as a table."""
        made = Table("step", "recipe", "unit", "what", "KiB", "est. ms", "ms", "error", "added")
        for e in self.entries:
            bytes_ = _change(e.bytes_before / 1024, e.bytes_after / 1024, 1)
            estimated = _change(e.estimated_ms_before, e.estimated_ms_after, 3)
            ms = _change(e.ms_before, e.ms_after, 3)
            made.add_row(
                str(e.index), e.recipe, e.where, e.what, bytes_, estimated, ms,
                f"{e.error:.2e}", f"{e.added:+.1e}",
            )  # fmt: skip
        return made

    def _repr_html_(self) -> str:
        """Return the steps as an HTML table with its own style, for notebooks."""
        heads = ["step", "recipe", "unit", "what", "KiB", "est. ms", "ms", "error"]
        rows = ([Cell(str(e.index), e.index), Cell(e.recipe), Cell(e.where), Cell(e.what),
                 Cell(_change(e.bytes_before / 1024, e.bytes_after / 1024, 1), e.bytes_after),
                 Cell(_change(e.estimated_ms_before, e.estimated_ms_after, 3),
                      e.estimated_ms_after),
                 Cell(_change(e.ms_before, e.ms_after, 3), e.ms_after),
                 Cell(f"{e.error:.2e}", e.error)] for e in self.entries)  # fmt: skip
        tables = html_table.table(heads, rows)
        if self.choices:
            heads, body = choice.rows(self.choices)
            tables += html_table.table(heads, ([Cell(text) for text in row] for row in body))
        return f'{html_table.STYLE}<div class="leptonc">{tables}</div>'

    def __str__(self) -> str:
        console = Console(width=140)
        with console.capture() as text:
            console.print(self.table())
            if self.choices:
                console.print(choice.table(self.choices))
        return text.get()


def _change(before: float | None, after: float | None, digits: int) -> str:
    if before is None or after is None:
        return ""
    return f"{before:.{digits}f} -> {after:.{digits}f}"


def constant_bytes(fn: Function) -> int:
    """Return the bytes of all constants of ``fn``."""
    return sum(
        int(op.result.type.numel) * op.result.type.dtype.nbytes
        for op in fn.ops
        if isinstance(op.kind, Constant)
    )
