"""capture > record: a stand-in for results of a class that is not there when a net is loaded."""

from __future__ import annotations

from typing import Any

from torch.utils import _pytree as pytree


class Record(dict[str, Any]):
    """Fields by name, read as ``r.name``, ``r["name"]`` or, in order, ``r[0]``.

    Fields that were None can be read, too, but do not count: ``r.items()`` leaves them out.
    """

    def __init__(self, kind: str, fields: dict[str, Any], absent: tuple[str, ...] = ()) -> None:
        super().__init__(fields)
        self._kind, self._absent = kind, absent

    def __getitem__(self, key: str | int) -> Any:
        """Return a field by its name or its place."""
        return super().__getitem__(key) if isinstance(key, str) else tuple(self.values())[key]

    def __getattr__(self, name: str) -> Any:
        """Return a field."""
        if name in self:
            return self[name]
        if not name.startswith("_") and name in self._absent:
            return None
        raise AttributeError(f"{self._kind} has no field {name!r}; it has {', '.join(self)}")

    def __repr__(self) -> str:
        """Return ``Out(logits=...)`` as the class itself would."""
        return f"{self._kind}({', '.join(f'{k}={v!r}' for k, v in self.items())})"


def _flatten(record: Record) -> tuple[list[Any], Any]:
    return list(record.values()), (record._kind, tuple(record), record._absent)


def _unflatten(values: Any, context: Any) -> Record:
    kind, names, absent = context
    return Record(kind, dict(zip(names, values, strict=True)), absent)


pytree.register_pytree_node(Record, _flatten, _unflatten)
