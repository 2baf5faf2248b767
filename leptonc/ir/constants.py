"""Constants: arrays known at compile time, named by the hash of their content.

The payload is opaque here (the IR knows neither torch nor NumPy); who makes a constant hands over
the function that hashes it, and the hash is computed only when somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

from leptonc.ir.types import TensorType

PREFIX = 16  # digits of a digest in the text form: 64 bits, unique within any one program


@dataclass(frozen=True, eq=False)
class Const:
    """One constant array: its type, its bytes and, lazily, their sha256 (hexadecimal).

    Of a ``released`` one the bytes are gone: the payload only has their shape.
    """

    type: TensorType
    payload: object
    hasher: Callable[[object], str]
    released: bool = False

    @cached_property
    def digest(self) -> str:
        """Hash of dtype, shape and content: equal digests are equal constants, bit for bit."""
        return self.hasher(self.payload)

    def release(self, stand_in: object) -> None:
        """Let go of the bytes, which nothing reads any more; type and digest stay.

        This is the one change a constant may see: whoever holds it holds its memory.
        """
        _ = self.digest
        object.__setattr__(self, "payload", stand_in)
        object.__setattr__(self, "released", True)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Const) or self.type != other.type:
            return False
        return self.payload is other.payload or self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.type)

    def __repr__(self) -> str:
        return f"const<sha256:{self.digest[:12]}>"


@dataclass
class ConstantStore(Mapping[str, Const]):
    """Constants by digest; a lookup takes the full digest or any unique prefix."""

    items_: dict[str, Const] = field(default_factory=dict[str, Const])
    short_: dict[str, Const] = field(default_factory=dict[str, Const])  # by the text form's prefix

    def add(self, const: Const) -> Const:
        """Keep ``const`` and return the one already held for its digest, if any."""
        kept = self.items_.setdefault(const.digest, const)
        return self.short_.setdefault(const.digest[:PREFIX], kept)

    def __getitem__(self, digest: str) -> Const:
        hit = (self.short_ if len(digest) == PREFIX else self.items_).get(digest)
        if hit is not None:
            return hit
        found = [c for d, c in self.items_.items() if d.startswith(digest)]
        if len(found) != 1:
            raise KeyError(digest)
        return found[0]

    def __contains__(self, digest: object) -> bool:
        try:
            self[cast(str, digest)]
        except KeyError:
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(self.items_)

    def __len__(self) -> int:
        return len(self.items_)
