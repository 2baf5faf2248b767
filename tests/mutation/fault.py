"""mutation > fault: what a seeded fault is: one exact replacement of source text, and who sees it.

Before and after are exact source text; ``before`` stands once in the file. ``names`` are patterns
of what the self-check must say to have named the guilty pass or unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

UNIT = ("guilty",)  # the part of every model that a fault may hit is a module of this name


class StaleFault(Exception):
    """A fault whose text does not stand in its file exactly once any more."""


@dataclass(frozen=True)
class Fault:
    """One fault: the text, and what should catch it.

    Attributes:
        name: kebab-case, distinct.
        layer: ``rule``, ``pass``, ``lowering``, ``kernel``, ``planner``, ``runtime``,
            ``compression`` or ``sharding``.
        category: the kind of mistake, e.g. ``"wrong eps"``.
        file: path from the root of the checkout.
        before, after: source text.
        tests: pytest arguments, the narrowest selection that should fail.
        models: names in :mod:`mutation.models` that run the faulty code.
        names: regular expressions; one of them in what the self-check says names the culprit.
            Empty where there is neither a guilty pass nor a guilty unit.
        threads: how many threads the models are compiled for.
    """

    name: str
    layer: str
    category: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]
    models: tuple[str, ...] = ()
    names: tuple[str, ...] = UNIT
    threads: int = 1

    def apply(self, root: Path) -> None:
        """Seed the fault in the tree at ``root``. Raises StaleFault."""
        path = root / self.file
        text = path.read_text()
        path.write_text(self.mutated(text))

    def mutated(self, text: str) -> str:
        """Return ``text`` with the fault. Raises StaleFault."""
        if (count := text.count(self.before)) != 1:
            raise StaleFault(f"{self.name}: its text stands {count} times in {self.file}")
        return text.replace(self.before, self.after)
