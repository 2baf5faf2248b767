"""parts > naming: tensors for a row of named inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from leptonc.errors import InputError


def arranged(
    who: str, inputs: Sequence[str], args: Sequence[Tensor], named: Mapping[str, Tensor]
) -> list[Tensor]:
    """Return the tensors for ``inputs`` in order. Raises InputError naming what does not fit."""
    takes = f"it takes ({', '.join(inputs)})"
    if len(args) > len(inputs):
        raise InputError(f"{who}: got {len(args)} inputs; {takes}")
    given = dict(zip(inputs, args, strict=False))
    if twice := sorted(given.keys() & named.keys()):
        raise InputError(f"{who}: {', '.join(twice)} given by position and by name; {takes}")
    given |= named
    if unknown := sorted(given.keys() - set(inputs)):
        raise InputError(f"{who}: there is no input {', '.join(unknown)}; {takes}")
    if missing := [n for n in inputs if n not in given]:
        raise InputError(f"{who}: missing {', '.join(missing)}; {takes}")
    if odd := [n for n in inputs if not isinstance(given[n], Tensor)]:
        raise InputError(f"{who}: {odd[0]} is a {type(given[odd[0]]).__name__}, not a tensor")
    return [given[n] for n in inputs]
