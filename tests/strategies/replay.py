"""Counter-examples as ``.lir`` files: a function, its constants, its inputs, how it was compiled.

::

    // differential
    // pipeline: O2
    // threads: 2
    // input: f32[1,3] eJx...
    // const: f32[4,3] eJx...
    func @f(%x: f32[1,3]) { ... }

Tensors are base64 of their zlib-packed bytes. ``pytest tests/properties --lir FILE`` runs a file
again; one in ``tests/properties/lir/`` runs whenever the tests do.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from leptonc import check, meaning
from leptonc.backends.numba_cpu.lower.core import ConstPool
from leptonc.backends.numba_cpu.runtime import load
from leptonc.backends.numba_cpu.scheduler import Options, schedule
from leptonc.compiled import output_types, run_program
from leptonc.compiler import optimize
from leptonc.ir.constants import ConstantStore
from leptonc.ir.core import Function
from leptonc.ir.specialize import specialize
from leptonc.ir.text import constants, dump, parse
from leptonc.ir.types import parse_type

from .instances import nudged

HEAD = "// differential"
FAILING = Path(".hypothesis") / "lir"


@dataclass(frozen=True)
class Case:
    """A function, inputs for it, and how it is compiled."""

    fn: Function
    inputs: tuple[Tensor, ...]
    pipeline: str = "O2"
    threads: int = 1

    def __str__(self) -> str:
        consts = [meaning.tensor_of(c) for c in constants(self.fn).values()]
        return "\n".join(
            [
                HEAD,
                f"// pipeline: {self.pipeline}",
                f"// threads: {self.threads}",
                *(f"// input: {_packed(t)}" for t in self.inputs),
                *(f"// const: {_packed(t)}" for t in consts),
                dump(self.fn),
            ]
        )

    @staticmethod
    def parse(text: str) -> Case:
        """Return the case that ``text`` holds."""
        pairs = [
            line.removeprefix("// ").partition(": ")[::2]
            for line in text.splitlines()
            if line.startswith("// ") and ": " in line
        ]
        store, said = ConstantStore(), dict(pairs)
        for key, value in pairs:
            if key == "const":
                store.add(meaning.const_of(_unpacked(value)))
        args = tuple(_unpacked(value) for key, value in pairs if key == "input")
        return Case(parse(text, store), args, said["pipeline"], int(said["threads"]))

    def run(self) -> tuple[Tensor, ...]:
        """Return what the compiled function gives on the inputs."""
        fn = optimize(self.fn, self.pipeline)
        static = specialize(fn, meaning.bind_dims(fn, [t.shape for t in self.inputs]))
        program = load(schedule(static, ConstPool(), Options(threads=self.threads)))
        args = [t.contiguous() for t in self.inputs]
        return tuple(run_program(program, args, output_types(program)))

    def check(self) -> None:
        """Hold the compiled function to the interpreter in float64. Raises AssertionError."""
        assert_near(self.fn, self.inputs, self.run())


def assert_near(fn: Function, inputs: Sequence[Tensor], got: Sequence[Tensor]) -> None:
    """Assert that ``got`` is as near to float64 as eager's own spread lets it be.

    The spread is measured twice: by what float32 does to the function, and by what one rounding of
    the inputs does to it in float64, which an eager result that is exact by luck does not show.
    """
    ref = check.reference(fn, inputs, "fp32")
    bad = ref.worst(got)
    if bad is None:
        return
    moved = meaning.run(fn, *nudged(inputs), precision="f64")
    # A float64 result in place of eager's: integers and float32 keep their own dtype.
    near = tuple(m.to(e.dtype) for m, e in zip(moved, ref.eager, strict=True))
    nudge = check.Reference(ref.inputs, ref.exact, near, ref.factor)
    pairs = zip(ref.compare(got), nudge.compare(got), strict=True)
    wrong = [a for a, b in pairs if not (a.ok or b.ok)]
    assert not wrong, "; ".join(map(str, wrong))


@contextmanager
def kept(case: Case, name: str) -> Iterator[None]:
    """Write ``case`` to a file and add its text to the exception if the block raises.

    Hypothesis runs the smallest counter-example last: that is the one which stays.
    """
    try:
        yield
    except Exception as e:
        FAILING.mkdir(parents=True, exist_ok=True)
        path = FAILING / f"{name}.lir"
        path.write_text(f"{case}\n")
        e.add_note(f"{case}\n\nThis is {path}; again: pytest tests/properties --lir {path}")
        raise


def _packed(t: Tensor) -> str:
    flat = torch.empty(t.numel(), dtype=t.dtype).copy_(t.reshape(-1))
    raw = flat.view(torch.uint8).numpy().tobytes()
    return f"{meaning.type_of(t)} {base64.b64encode(zlib.compress(raw, 9)).decode()}"


def _unpacked(text: str) -> Tensor:
    head, _, body = text.partition(" ")
    type_ = parse_type(head)
    dtype = meaning.TORCH_DTYPES[type_.dtype]
    shape = tuple(int(d) for d in type_.shape)
    raw = bytearray(zlib.decompress(base64.b64decode(body)))
    if not raw:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(raw, dtype=torch.uint8).view(dtype).reshape(shape)
