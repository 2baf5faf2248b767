"""show > remarks: remarks as text: those of one kind together, with the places they are about."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from leptonc.show.summary import RemarkRow

_PLACES = 4  # places named behind a reason
_TITLES: Mapping[str, str] = {
    "missed": "not done",
    "opaque": "known to torch alone",
    "note": "worth knowing",
    "applied": "done",
}
_NAMES = re.compile(r"%[\w.]+|\b\w+(?:\.\w+)+(?:\+\w+)*|\d[\d.]*")
_NAMED = re.compile(r"\S+ \([\w.#]+ #\)|\(\w+\[[^\]]*\][@\d#]*\)")


def grouped(rows: Sequence[RemarkRow]) -> Iterator[str]:
    """Yield the lines of remarks: what was not done first; like reasons once, with their places."""
    for says, title in _TITLES.items():
        mine = [r for r in rows if r.says == says]
        if not mine:
            continue
        yield f"{title}: {len(mine)}"
        for group in _groups(mine):
            yield from _lines(group)


def shape_of(why: str) -> str:
    """Return a reason without the names and numbers that differ from place to place."""
    return _NAMED.sub("#", _NAMES.sub("#", why))


def _groups(rows: Sequence[RemarkRow]) -> list[list[RemarkRow]]:
    found: dict[tuple[str, str], list[RemarkRow]] = {}
    for r in rows:
        found.setdefault((r.by, shape_of(r.why)), []).append(r)
    return list(found.values())


def _lines(group: Sequence[RemarkRow]) -> Iterator[str]:
    first, *others = group
    if not others:
        yield f"  {first.by}: {_place(first)}: {first.why}"
        return
    like = "" if all(r.why == first.why for r in others) else " (and the like)"
    names = list(dict.fromkeys(r.module or r.what for r in group))
    more = f" and {len(names) - _PLACES} more" if len(names) > _PLACES else ""
    yield f"  {first.by}, {len(group)} times: {first.why}{like}"
    yield f"    {', '.join(names[:_PLACES])}{more}"


def _place(r: RemarkRow) -> str:
    return f"{r.what} at {r.where}" if r.where else r.what
