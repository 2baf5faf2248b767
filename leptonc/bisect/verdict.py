"""Bisect > verdict: what was found, as a person reads it, and as a test file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from leptonc.errors import LeptoncError
from leptonc.ir.core import NOWHERE, Origin


@dataclass(frozen=True)
class Verdict:
    """Who made a compiled model's result differ.

    Attributes:
        model: its name.
        found: ``"pass"``, ``"unit"``, ``"units"`` (right alone, wrong together), ``"capture"``,
            ``"same"``, ``"within"`` (its tolerance), ``"random"`` or ``"unknown"``.
        symptom: the difference that was asked about.
        pass_: the guilty pass as it stands in the pipeline string.
        place: which of how many passes it is.
        rule: the guilty rule; empty where the pass is driven by none.
        application: which application of how many in that pass it was.
        unit: the guilty unit or units.
        op: the guilty op, its kind and its name.
        origin: where that op comes from in the model.
        error, tolerance: of the smallest program.
        why: what the rule or the pass says it does, or what else there is to say.
        ir: the smallest program that still shows it.
        ops: the ops of that program, and of the program it was cut from.
        test: text of a test file that fails while the fault is there.
    """

    model: str
    found: str
    symptom: str = ""
    pass_: str = ""
    place: tuple[int, int] = (0, 0)
    rule: str = ""
    application: tuple[int, int] = (0, 0)
    unit: str = ""
    op: str = ""
    origin: Origin = NOWHERE
    error: float = 0.0
    tolerance: float = 0.0
    why: str = ""
    ir: str = ""
    ops: tuple[int, int] = (0, 0)
    test: str = ""

    @property
    def guilty(self) -> bool:
        """Whether the model is wrong on the inputs, whoever made it so."""
        return self.found not in ("same", "within", "random")

    def write(self, path: str | Path) -> Path:
        """Write the test file and return its path. Raises LeptoncError when there is none."""
        if not self.test:
            raise LeptoncError(f"{self.model}: there is nothing to test: {self.why}")
        file = Path(path)
        file.write_text(self.test, encoding="utf-8")
        return file

    def __str__(self) -> str:
        """Return the finding, then the smallest program that shows it."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield f"{self.model}: {self.symptom}" if self.symptom else f"{self.model}: {self.why}"
        yield from self.headline
        if self.why and self.symptom:
            yield f"  why     {self.why}"
        if self.ir:
            yield f"  error   {self.error:.3g}, tolerance {self.tolerance:.3g}, in this program"
            yield f"smallest program that shows it ({self.ops[0]} of {self.ops[1]} ops):"
            yield from (f"  {line}" for line in self.ir.splitlines())

    @property
    def headline(self) -> tuple[str, ...]:
        """Who is guilty, a line each: pass, rule, unit, op, source."""
        rows = {
            "pass": self.pass_ and f"{self.pass_} ({self.place[0]} of {self.place[1]})",
            "rule": self.rule and f"{self.rule}{self._which}",
            "rewrite": self._which.strip(" ,") if self.pass_ and not self.rule else "",
            "unit": self.unit,
            "op": self.op,
            "source": str(self.origin) if self.origin != NOWHERE else "",
        }
        return tuple(f"  {name:<7} {text}" for name, text in rows.items() if text)

    @property
    def _which(self) -> str:
        n, total = self.application
        return f", application {n} of {total}" if n else ""
