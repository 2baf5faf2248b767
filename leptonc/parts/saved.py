"""parts > saved: a part on disk: its compiled net, the weights it hands on, and its names as JSON.

``part.json`` says which part of which split it is, what it takes and gives, of what types the whole
program's inputs and results are, and how the model that was split arranges them. ``net`` is what
``net.save`` writes; ``held.safetensors`` is there only where the part hands weights on.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from leptonc import meaning
from leptonc.capture.captured import Captured
from leptonc.capture.portable import Reader, from_json, to_json
from leptonc.errors import ArtifactError, ParseError
from leptonc.ir.core import Function, Value
from leptonc.ir.dims import DimRange
from leptonc.ir.types import parse_type
from leptonc.parts.naming import arranged
from leptonc.runtime.tensorfile import read_arrays, sampled_digest, write_arrays

FORMAT = 2
_NAMES, _NET, _HELD = "part.json", "net", "held.safetensors"


@dataclass(frozen=True, eq=False)
class LoadedPart:
    """A part that was saved: call it with its inputs, by name or in order.

    Attributes:
        name: of the model, with the part's place.
        index: its place.
        count: how many parts there are.
        split: which split it belongs to.
        inputs: names of what it takes.
        computed: names of what its net returns.
        captured: how the model that was split is called; its function has no ops.
        net: the compiled net.
        held: the weights that it hands on, by name.
    """

    name: str
    index: int
    count: int
    split: str
    inputs: tuple[str, ...]
    computed: tuple[str, ...]
    captured: Captured
    net: Callable[..., Any]
    held: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of everything that it gives."""
        return (*self.computed, *self.held)

    def __call__(self, *args: Tensor, **named: Tensor) -> dict[str, Tensor]:
        """Return its outputs by name. Raises InputError for inputs that do not fit."""
        made = self.net(*arranged(self.name, self.inputs, args, named))
        return {**dict(zip(self.computed, made, strict=True)), **self.held}

    def __repr__(self) -> str:
        """Return a one-line summary."""
        takes, gives = ", ".join(self.inputs), ", ".join(self.outputs)
        return f"<leptonc.Part {self.name}, loaded: ({takes}) -> ({gives})>"


def save_part(part: Any, directory: Path) -> None:
    """Write ``part``, compiled, to ``directory``, replacing a part that is there.

    Raises:
        ArtifactError: something else is there, or the net cannot be saved.
    """
    if directory.exists() and not (directory / _NAMES).is_file():
        raise ArtifactError(f"{directory} is there and is no saved part; choose another directory")
    directory.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        part.compile().save(made / _NET)
        held = part.module.held
        if held:
            write_arrays(made / _HELD, {n: meaning.raw_tensor(t) for n, t in held.items()})
        text = json.dumps(_described(part, made), indent=1)
        (made / _NAMES).write_text(text, encoding="utf-8")
        if directory.exists():
            shutil.rmtree(directory)
        os.replace(made, directory)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _described(part: Any, made: Path) -> dict[str, Any]:
    carved = part.plan.carved
    whole, piece = carved.whole, carved.pieces[part.index]
    return {
        "format": FORMAT,
        "name": part.name,
        "index": part.index,
        "count": len(part.plan),
        "split": part.plan.id,
        "inputs": list(part.inputs),
        "computed": list(piece.computed),
        "held": {n: str(meaning.type_of(t)) for n, t in part.module.held.items()},
        "held_digest": sampled_digest(made / _HELD) if part.module.held else "",
        "params": [[n, str(p.type)] for n, p in zip(carved.params, whole.params, strict=True)],
        "returns": [[n, str(v.type)] for n, v in zip(carved.returns, whole.returns, strict=True)],
        "dims": [[d.name, d.min, d.max] for d in whole.dims],
        "call": to_json(part.plan.captured),
    }


def load_part(directory: str | Path) -> LoadedPart:
    """Return the part that ``part.save(directory)`` wrote.

    Raises:
        ArtifactError: no saved part, or a damaged one; the text names the file.
    """
    directory = Path(directory)
    path = directory / _NAMES
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        if said["format"] != FORMAT:
            raise ArtifactError(
                f"{path}: format {said['format']!r}, expected {FORMAT}; save the part again"
            )
        held = _read_held(directory, said)
        net = importlib.import_module("leptonc.saved").load(directory / _NET)
        captured = _captured(said, path)
        return LoadedPart(
            _text(said["name"]), int(said["index"]), int(said["count"]), _text(said["split"]),
            _texts(said["inputs"]), _texts(said["computed"]), captured, net, held,
        )  # fmt: skip
    except OSError as e:
        raise ArtifactError(f"{path} cannot be read ({e}): is it what part.save() wrote?") from e
    except (KeyError, TypeError, ValueError, ParseError) as e:
        raise ArtifactError(f"{path}: not what part.save() writes ({e}); save it again") from e


def _read_held(directory: Path, said: Mapping[str, Any]) -> dict[str, Tensor]:
    if not said["held"]:
        return {}
    path = directory / _HELD
    if (found := sampled_digest(path)) != said["held_digest"]:
        raise ArtifactError(f"{path}: hash {found[:16]}, expected {said['held_digest'][:16]}; it "
                            "is damaged, or of another part")  # fmt: skip
    arrays = read_arrays(path)
    return {
        name: meaning.tensor_from_raw(arrays[name], parse_type(_text(text)))
        for name, text in said["held"].items()
    }


def _whole(said: Mapping[str, Any]) -> Function:
    """Return the program that was split, as far as its callers see it."""
    params, returns = (
        tuple(Value(parse_type(_text(t)), _text(n)) for n, t in said[key])
        for key in ("params", "returns")
    )
    dims = tuple(DimRange(_text(n), int(a), b if b is None else int(b)) for n, a, b in said["dims"])
    return Function("main", params, (), returns, dims)


def _captured(said: Mapping[str, Any], path: Path) -> Captured:
    try:
        return from_json(said["call"], _whole(said), Reader())
    except ArtifactError as e:
        raise ArtifactError(f"{path}: {e}; save the part again") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r}")
    return value


def _texts(values: Sequence[Any]) -> tuple[str, ...]:
    return tuple(map(_text, values))
