"""Bisect > case: a function, its inputs, and what is held to the reference on them.

A test file that bisect writes holds one ``Case`` and asserts that it has no ``problem()``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from leptonc import check, meaning
from leptonc.backends.numba_cpu.emit import emit
from leptonc.backends.numba_cpu.lower.choices import Answer
from leptonc.backends.numba_cpu.lower.core import ConstPool
from leptonc.backends.numba_cpu.runtime import Executable, load
from leptonc.backends.numba_cpu.scheduler import Options, schedule
from leptonc.bisect.data import text_of
from leptonc.bisect.slices import constants_in
from leptonc.ir.constants import PREFIX
from leptonc.ir.core import Function
from leptonc.ir.text import dump, parse
from leptonc.passes import pipeline as passes_of
from leptonc.pipeline import Pass
from leptonc.rewrite.trace import Trace

_MAKERS = ("filled", "packed", "scattered", "written")


@dataclass(frozen=True)
class Native:
    """How the native program of a function is made."""

    threads: int = 1
    precision: str = "fp32"
    answers: Mapping[str, str] = field(
        default_factory=dict[str, str]
    )  # the ways chosen by question

    def build(self, fn: Function, retreat: Sequence[str] = ()) -> Executable:
        """Return the program of ``fn``, which is static and partitioned; ``retreat`` names units.

        Raises:
            LeptoncError: a unit that cannot be lowered.
        """
        answers = {k: Answer(v, "as it was") for k, v in self.answers.items()}
        torch_units = dict.fromkeys(retreat, "bisect runs it through torch")
        options = Options(self.threads, self.precision, torch_units, answers=answers)
        plan = schedule(fn, ConstPool(), options)
        return load(plan, emit(plan))

    def run(
        self, fn: Function, inputs: Sequence[Tensor], retreat: Sequence[str] = ()
    ) -> tuple[Tensor, ...]:
        """Return what the native program of ``fn`` computes."""
        return run_program(self.build(fn, retreat), inputs)


def run_program(program: Executable, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return what a program computes."""
    given = [t.contiguous() for t in inputs]
    made = tuple(
        torch.empty(v.shape, dtype=meaning.TORCH_DTYPES[v.dtype]) for v in program.schedule.outputs
    )
    program(*[t.data_ptr() for t in given], *[t.data_ptr() for t in made])
    return made


def native_problem(
    fn: Function, inputs: Sequence[Tensor], native: Native
) -> check.Difference | None:
    """Return how far the native program of ``fn`` misses its reference; None if it does not."""
    reference = check.reference(fn, inputs, native.precision)
    return reference.worst(native.run(fn, inputs))


def pass_problem(
    fn: Function, inputs: Sequence[Tensor], passes: Sequence[Pass], precision: str
) -> check.Difference | None:
    """Return how far ``passes`` change what ``fn`` computes; None if within the tolerance."""
    after = fn
    for p in passes:
        after = p.run(after, Trace(p.NAME))
    if after is fn:
        return None
    reference = check.reference(fn, inputs, precision)
    return reference.worst(meaning.run(after, *inputs))


@dataclass(frozen=True)
class Case:
    """One function that shows a fault.

    Args:
        ir: the function as text.
        constants: its constants, by what the text calls them.
        inputs: one tensor per parameter.
        passes: the pipeline string under test; empty for the native program of ``ir``.
        precision, threads, answers: as in the compile that showed the fault.
    """

    ir: str
    constants: Mapping[str, Tensor]
    inputs: tuple[Tensor, ...]
    passes: str = ""
    precision: str = "fp32"
    threads: int = 1
    answers: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def function(self) -> Function:
        """The function that ``ir`` says."""
        return parse(self.ir, {k: meaning.const_of(t) for k, t in self.constants.items()})

    def problem(self) -> check.Difference | None:
        """Return the difference to the reference while the fault is there, else None."""
        fn = self.function
        if self.passes:
            return pass_problem(fn, self.inputs, passes_of(self.passes), self.precision)
        native = Native(self.threads, self.precision, self.answers)
        return native_problem(fn, self.inputs, native)


def case_of(fn: Function, inputs: Sequence[Tensor], passes: str, native: Native) -> Case:
    """Return the case of a reduced function; only the answers that it asks for are kept."""
    answers: dict[str, str] = {}
    if not passes:
        asked = [d for u in native.build(fn).schedule.units for d in u.decisions]
        keys = {d.question.key for d in asked}
        answers = {k: v for k, v in native.answers.items() if k in keys}
    constants = {c.digest[:PREFIX]: meaning.tensor_of(c) for c in constants_in(fn)}
    return Case(
        dump(fn), constants, tuple(inputs), passes, native.precision, native.threads, answers
    )


def file_text(case: Case, about: Sequence[str], name: str) -> str:
    """Return the text of a test file that fails while the fault is there and passes without it.

    Args:
        case: what shows the fault.
        about: lines of the file's docstring, the first one a title.
        name: the test's name, without ``test_``.
    """
    constants = "".join(f'        "{k}": {text_of(t)},\n' for k, t in case.constants.items())
    inputs = "".join(f"        {text_of(t)},\n" for t in case.inputs)
    makers = [m for m in _MAKERS if f"{m}(" in constants + inputs]
    held = f"{{\n{constants}    }}" if constants else "{}"
    fields = f'    precision="{case.precision}",\n'
    fields += f'    passes="{case.passes}",\n' if case.passes else f"    threads={case.threads},\n"
    if case.answers:
        fields += f"    answers={json.dumps(dict(case.answers))},\n"
    lines = "\n".join(about).replace("\\", "/").replace('"""', "'''")
    imports = f"from leptonc.bisect.data import {', '.join(makers)}\n" if makers else ""
    return (
        f'"""{lines}\n"""\n\n'
        f"from leptonc.bisect.case import Case\n{imports}\n"
        f"CASE = Case(\n    ir={_quoted(case.ir)},\n"
        f"    constants={held},\n    inputs=(\n{inputs}    ),\n{fields})\n\n\n"
        f"def test_{name}() -> None:\n    assert CASE.problem() is None\n"
    )


def _quoted(text: str) -> str:
    plain = "\\" not in text and '"""' not in text
    return f'"""\n{text}\n"""' if plain else repr(text)
